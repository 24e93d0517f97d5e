// Runs: one thing on many machines. The list, and one of them with its targets, kept in step with the server.

import { get, post } from '../api.js';
import { attribute, h, keyed, show, text } from '../dom.js';
import { count } from '../format.js';
import { t } from '../i18n.js';
import { action, badge, clipped, command, factRow, section, table, time, words } from '../parts.js';
import { ctl } from '../verdict.js';

/** How often a list is asked for, and a run that has ended; one that goes on, each second. */
const REFRESH = 3000;
/** Runs that one press shows more. */
const PAGE = 50;

const TONES = {
  going: 'busy', paused: 'warn', stopped: 'bad', aborting: 'warn', cancelling: 'warn', completed: 'good', aborted: 'idle', cancelled: 'idle', expired: 'warn',
  queued: 'idle', offline: 'idle', sent: 'busy', begun: 'busy', done: 'good', failed: 'bad',
};

/** `9 done, 1 failed`. */
const counted = (counts) => Object.entries(counts).map(([state, n]) => t('run.count', n, t(`target.${state}`))).join(t('run.comma'));

export function mount(root) {
  let loaded = [];
  let asked = 0;
  let gone = false;
  const failed = h('p', { class: 'failed', role: 'alert' });
  const nothing = h('div', { class: 'empty' }, h('p', {}, t('run.none')));
  const shell = command();
  nothing.append(shell.node);
  const rows = table([
    { head: t('col.run'), num: true, cell: (td) => {
      const link = h('a', {});
      td.append(link);
      return (it) => {
        text(link, it.run);
        link.setAttribute('href', `#/runs/${it.run}`);
      };
    } },
    { head: t('col.state'), cell: phase },
    { head: t('run.began'), cell: (td) => {
      const at = time('ago');
      td.append(at.node);
      return (it) => at.set(it.began_at);
    } },
    { head: t('run.targets'), num: true, cell: words((it) => count(it.targets)) },
    { head: t('run.counts'), wide: true, cell: words((it) => counted(it.counts)) },
    { head: t('col.task'), wide: true, cell: (td) => {
      const it = clipped('mono');
      td.append(it.node);
      return (run) => it.set(run.text);
    } },
  ], { keyOf: (it) => it.run, label: t('view.runs') });
  const box = h('div', { class: 'table-box' }, rows.node);
  const older = h('button', { type: 'button', class: 'button', onclick: () => load(loaded.length + PAGE) }, t('list.more'));
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.runs')), h('a', { class: 'button primary', href: '#/runs/new' }, t('run.begin'))),
    h('p', { class: 'intro' }, t('run.intro')),
    failed, h('div', { class: 'fresh' }, box), h('div', { class: 'pages' }, older), nothing,
  );
  for (const node of [box, older, nothing]) show(node, false);

  async function load(limit) {
    asked = Date.now();
    try {
      const page = await get('/api/runs', { limit: Math.min(limit, 200) });
      if (gone) return;
      loaded = page.runs;
      text(failed, '');
      rows.update(loaded);
      show(box, loaded.length > 0);
      show(nothing, loaded.length === 0);
      show(older, page.more && loaded.length < 200);
    } catch (error) {
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  return {
    update(live) {
      if (live.contact !== 'live') return;
      shell.set(ctl(live.state, 'run', '--select', 'role=web', 'uptime'));
      if (Date.now() - asked >= REFRESH) load(Math.max(PAGE, loaded.length));
    },
    destroy: () => (gone = true),
  };
}

function phase(td) {
  const it = badge();
  td.append(it.node);
  return (run) => it.set(TONES[run.phase] ?? 'idle', t(`run.${run.phase}`));
}

export function mountOne(root, id) {
  let asked = 0;
  let open = true;
  let gone = false;
  const failed = h('p', { class: 'failed', role: 'alert' });
  const what = badge();
  const content = clipped('task-text');
  const facts = h('dl', { class: 'facts' });
  const factRows = keyed(facts, (it) => it.key, factRow);
  const verb = (name, style) => {
    const button = action({
      label: t(`run.do.${name}`), sure: style && t(`run.do.${name}.sure`), style,
      run: () => post(`/api/runs/${id}/${name}`).then((run) => (refresh(), name === 'retry' ? t('run.retried', run.run) : '')),
    });
    const shell = command('', { quiet: true });
    return { name, shell, node: h('span', { class: 'do' }, button.node, shell.node) };
  };
  const verbs = [verb('pause'), verb('resume'), verb('abort', 'danger'), verb('cancel', 'danger'), verb('retry')];
  const rows = table([
    { head: t('col.group'), wide: true, cell: words((it) => it.group) },
    { head: t('col.state'), cell: (td) => {
      const it = badge();
      td.append(it.node);
      return (target) => it.set(TONES[target.state] ?? 'idle', t(`target.${target.state}`));
    } },
    { head: t('run.answer'), wide: true, cell: (td) => {
      const it = clipped('mono');
      td.append(it.node);
      return (target) => {
        attribute(td, 'data-nothing', !target.ret);
        it.set(target.ret ?? '');
      };
    } },
  ], { keyOf: (it) => it.group, label: t('run.targets') });
  const more = h('p', { class: 'left-out' });
  const body = h('div', { class: 'ledger fresh' },
    content.node, facts, h('div', { class: 'doing' }, verbs.map((it) => it.node)),
    section(t('run.targets'), h('div', { class: 'table-box three' }, rows.node), more));
  root.append(
    h('p', { class: 'back' }, h('a', { href: '#/runs' }, `← ${t('run.back')}`)),
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('run.number', id)), what.node),
    failed, body,
  );
  show(body, false);

  async function refresh() {
    asked = Date.now();
    try {
      const { run, targets } = await get(`/api/runs/${id}`);
      if (!gone) draw(run, targets);
    } catch (error) {
      if (gone) return;
      open = false;
      text(failed, t('load.failed', error.message));
    }
  }

  function draw(run, targets) {
    open = run.ended_at === null;
    text(failed, '');
    show(body, true);
    what.set(TONES[run.phase] ?? 'idle', t(`run.${run.phase}`));
    content.set(run.text);
    factRows([
      { key: 'run.targets', value: count(run.targets) },
      { key: 'run.counts', value: counted(run.counts) },
      { key: 'run.select', value: run.select },
      { key: 'run.began', at: run.began_at },
      { key: 'run.deadline', at: open ? run.deadline : null },
      { key: 'run.ended', at: run.ended_at },
      { key: 'run.parts', value: run.in_parts && t('run.parts.out', run.parts, run.out, run.targets) },
      { key: 'run.by', value: run.by },
    ].filter((it) => it.value || it.at));
    rows.update(targets);
    text(more, run.targets > targets.length ? t('list.left_out', run.targets - targets.length) : '');
    const stands = ['paused', 'stopped'].includes(run.phase);
    const may = {
      // What is out already is held up by nothing.
      pause: run.in_parts && (run.out < run.targets || run.include_new) && (run.phase === 'going' || run.phase === 'stopped'),
      resume: stands,
      abort: run.phase === 'going' || stands,
      cancel: open && run.phase !== 'cancelling',
      retry: (run.counts.failed ?? 0) + (run.counts.expired ?? 0) > 0,
    };
    // Once pressed it stays, with what it said.
    for (const it of verbs) show(it.node, Boolean(may[it.name]) || it.node.contains(document.activeElement));
  }

  return {
    update(live) {
      if (live.contact !== 'live') return;
      for (const { name, shell } of verbs) shell.set(ctl(live.state, 'run', name === 'retry' ? 'retry-failed' : name, String(id)));
      if (open || Date.now() - asked >= REFRESH) refresh();
    },
    destroy: () => (gone = true),
  };
}
