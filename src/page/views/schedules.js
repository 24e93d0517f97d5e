// Schedules: what is made at which moments, what comes next, and whether that is wanted now; and a form that sets one.

import { get, post } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { parseDuration } from '../format.js';
import { t } from '../i18n.js';
import { action, audience, badge, clipped, command, field, invalid, options, sends, table, time, words } from '../parts.js';
import { ctl } from '../verdict.js';

const REFRESH = 3000;

const UNITS = [['d', 86_400_000], ['h', 3_600_000], ['min', 60_000], ['s', 1000]];

/** An interval, to the second. */
function exact(ms) {
  const parts = [];
  for (const [unit, length] of UNITS) {
    if (ms >= length) parts.push(t(`unit.${unit}`, Math.floor(ms / length)));
    ms %= length;
  }
  return parts.join(' ') || t('unit.none');
}

/** `0 3 * * * Europe/Berlin`, or `every 10 min`. */
const when = (it) => (it.cron ? `${it.cron} ${it.zone}` : t('schedule.every', exact(it.every_ms)));

export function mount(root) {
  let asked = 0;
  let state = null;
  let gone = false;
  const failed = h('p', { class: 'failed', role: 'alert' });
  const shell = command();
  const nothing = h('div', { class: 'empty' }, h('p', {}, t('schedule.none')), shell.node);
  const rows = table([
    { head: t('col.schedule'), wide: true, cell: name },
    { head: t('schedule.when'), wide: true, cell: words(when) },
    { head: t('schedule.next'), cell: next },
    { head: t('schedule.last'), num: true, cell: last },
    { head: t('col.to'), cell: words((it) => audience(it.task)) },
    { head: t('col.task'), wide: true, cell: (td) => {
      const it = clipped('mono');
      td.append(it.node);
      return (schedule) => it.set(schedule.task.text);
    } },
    { head: t('col.actions'), wide: true, bare: true, cell: (td) => actions(td, () => state, () => load()) },
  ], { keyOf: (it) => it.name, label: t('view.schedules') });
  const box = h('div', { class: 'table-box' }, rows.node);
  let names = new Set();
  const setting = setForm((name) => names.has(name), () => load());
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.schedules'))),
    h('p', { class: 'intro' }, t('schedule.intro')),
    failed, h('div', { class: 'fresh' }, box), nothing, setting.node,
  );
  for (const node of [box, nothing]) show(node, false);

  async function load() {
    asked = Date.now();
    try {
      const all = [];
      for (let after = ''; after !== null;) {
        const page = await get('/api/schedules', { after });
        all.push(...page.schedules);
        after = page.next;
      }
      if (gone) return;
      text(failed, '');
      names = new Set(all.map((it) => it.name));
      rows.update(all);
      show(box, all.length > 0);
      show(nothing, all.length === 0);
    } catch (error) {
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  return {
    update(live) {
      if (live.contact !== 'live') return;
      state = live.state;
      shell.set(ctl(state, 'schedule', 'set', 'nightly', '--cron', '0 3 * * *', '--to', 'workers', 'reindex'));
      setting.update(state);
      if (Date.now() - asked >= REFRESH) load();
    },
    destroy: () => (gone = true),
  };
}

/** Sets one that is not there yet: another one is changed with the command, which says all that a task can carry. */
function setForm(isThere, refresh) {
  let state = null;
  const input = (id, more) =>
    h('input', { id: `schedule-${id}`, maxlength: 256, dir: 'auto', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': `schedule-${id}-hint`, ...more });
  const [name, cron, every] = [input('name'), input('cron'), input('every')];
  const zone = input('zone', { value: Intl.DateTimeFormat().resolvedOptions().timeZone });
  const to = input('to', { list: 'schedule-groups' });
  const what = h('textarea', { id: 'schedule-text', rows: 2, dir: 'auto', spellcheck: 'false', 'aria-describedby': 'schedule-text-hint' });
  const groups = h('datalist', { id: 'schedule-groups' });
  const go = h('button', { class: 'button primary' }, t('schedule.set'));
  const note = h('p', { class: 'note', role: 'status' });
  const shell = command();
  const form = h('form', { class: 'submit', novalidate: true },
    field('schedule-text', t('col.task'), what),
    h('div', { class: 'fields' },
      field('schedule-name', t('col.schedule'), name), field('schedule-cron', t('schedule.cron'), cron),
      field('schedule-zone', t('schedule.zone'), zone), field('schedule-every', t('schedule.interval'), every),
      field('schedule-to', t('submit.to'), to)),
    groups,
    h('div', { class: 'doing' }, go, note),
    h('div', { class: 'same' }, h('span', { class: 'dim' }, t('submit.same')), shell.node));

  function sameByHand() {
    const words = [
      name.value.trim() || '…',
      ...(cron.value.trim() ? ['--cron', cron.value.trim(), ...(zone.value.trim() ? ['--zone', zone.value.trim()] : [])] : []),
      ...(every.value.trim() ? ['--every', every.value.trim()] : []),
      ...(to.value.trim() ? ['--to', to.value.trim()] : []),
    ];
    const said = what.value || '…';
    shell.set(ctl(state, 'schedule', 'set', ...words, ...(said.startsWith('-') ? ['--', said] : [said])));
  }

  function request() {
    const wrong = (field, why) => invalid(field, note, why);
    for (const field of [name, cron, every, what]) attribute(field, 'aria-invalid', null);
    const everyMs = parseDuration(every.value);
    if (!name.value.trim()) return wrong(name, t('schedule.name.empty'));
    if (isThere(name.value.trim())) return wrong(name, t('schedule.name.taken'));
    if (Boolean(cron.value.trim()) === Boolean(every.value.trim())) return wrong(cron, t('schedule.cron.or'));
    if (Number.isNaN(everyMs)) return wrong(every, t('submit.bad_duration'));
    if (!what.value) return wrong(what, t('submit.empty'));
    const at = everyMs === null ? { cron: cron.value.trim(), zone: zone.value.trim() } : { every_ms: everyMs };
    return { name: name.value.trim(), ...at, task: { text: what.value, to: to.value.trim() || null } };
  }

  form.addEventListener('input', sameByHand);
  sends(form, go, note, request, async (wanted) => {
    await post('/api/schedules', wanted);
    for (const field of [name, cron, every, what]) field.value = '';
    sameByHand();
    refresh();
    return t('schedule.is_set', wanted.name);
  });
  sameByHand();
  return {
    node: h('section', {}, h('details', {}, h('summary', {}, t('schedule.new')), form)),
    update(live) {
      state = live;
      options(groups, live.groups.map((it) => it.group));
      sameByHand();
    },
  };
}

function name(td) {
  const words = h('span', { dir: 'auto' });
  const trouble = h('span', { class: 'sub failed', dir: 'auto' });
  td.append(words, trouble);
  return (it) => {
    text(words, it.name);
    text(trouble, it.trouble ?? '');
    show(trouble, Boolean(it.trouble));
  };
}

/** When it comes next, or why it does not. */
function next(td) {
  const it = badge();
  const at = time('moment');
  td.append(at.node, it.node);
  return (schedule) => {
    const why = (schedule.trouble && 'trouble') || (schedule.paused && 'paused') || (schedule.next.length ? '' : 'never');
    at.set(why ? null : schedule.next[0]);
    it.set(schedule.trouble ? 'bad' : 'warn', why && t(`schedule.${why}`));
  };
}

function last(td) {
  const link = h('a', {});
  td.append(link);
  return (it) => {
    text(link, it.last_task ?? '–');
    attribute(link, 'href', it.last_task && `#/tasks/${it.last_task}`);
  };
}

function actions(td, state, refresh) {
  let schedule = null;
  const named = (more) => ({ name: schedule.name, ...more });
  const run = action({
    label: t('schedule.run'),
    run: () => post('/api/schedules/run', named()).then(({ id }) => (refresh(), t('schedule.made', id))),
  });
  const pause = action({
    label: t('schedule.pause'),
    run: () => post('/api/schedules/pause', named({ paused: !schedule.paused })).then(() => (refresh(), '')),
  });
  const remove = action({
    label: t('schedule.remove'), sure: t('schedule.remove.sure'), style: 'danger',
    run: () => post('/api/schedules/remove', named()).then(() => (refresh(), '')),
  });
  const shell = command('', { quiet: true });
  td.append(h('span', { class: 'do' }, run.node, pause.node, remove.node, shell.node));
  return (it) => {
    schedule = it;
    pause.set(t(it.paused ? 'schedule.resume' : 'schedule.pause'));
    shell.set(ctl(state(), 'schedule', 'show', it.name));
  };
}
