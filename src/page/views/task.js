// One task: its ledger. Where it stands with each group, all that came of it, and why it is not running.

import { get, post } from '../api.js';
import { attribute, h, keyed, show, text } from '../dom.js';
import { outputPart } from './output.js';
import { bytes, count, duration, moment } from '../format.js';
import { said, t } from '../i18n.js';
import { action, address, audience, clipped, command, factRow, howFar, outcome, section, standing, table, time } from '../parts.js';
import { ctl } from '../verdict.js';

/** More groups or outcomes than this are counted, not asked for or not shown. */
const MOST = 200;
/** How often a task that is settled everywhere is asked for again; one that is open, each second. */
const SETTLED_REFRESH = 5000;
/** Why a task is not running, where it is settled, is how: the state says that already. */
const OUTCOME = /^[A-Z_]+$/;

export function mount(root, id) {
  const ledger = ledgerPart(id);
  root.append(
    h('p', { class: 'back' }, h('a', { href: '#/tasks' }, `← ${t('task.back')}`)),
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('task.number', id))),
    ledger.node,
  );
  return ledger;
}

/** The ledger of a task, kept in step with the server. */
export function ledgerPart(id) {
  let state = null;
  let asked = 0;
  let open = true;
  let gone = false;
  const failed = h('p', { class: 'failed', role: 'alert' });
  const content = clipped('task-text');
  const facts = h('dl', { class: 'facts' });
  const factRows = keyed(facts, (it) => it.key, factRow);
  const groups = standings(id, () => state, () => refresh());
  const none = h('p', { class: 'empty' }, t('task.standing.none'));
  const output = outputPart(id);
  const counts = h('p');
  const moreGroups = h('p', { class: 'left-out' });
  const history = h('ol', { class: 'history' });
  const events = keyed(history, (it) => it.seq, eventRow);
  const moreEvents = h('p', { class: 'left-out' });

  const cancel = action({
    label: t('task.cancel'), sure: t('task.cancel.sure'), style: 'danger',
    run: () => post(`/api/tasks/${id}/cancel`).then((done) => (refresh(), t('task.cancelled', done))),
  });
  const retry = action({
    label: t('task.retry.all'),
    run: () => post(`/api/tasks/${id}/retry`).then(({ groups: n }) => (refresh(), t('task.retried', n))),
  });
  const shellCancel = command('', { quiet: true });
  const shellRetry = command('', { quiet: true });
  const doCancel = h('span', { class: 'do' }, cancel.node, shellCancel.node);
  const doRetry = h('span', { class: 'do' }, retry.node, shellRetry.node);
  const body = h('div', { class: 'ledger fresh' },
    content.node, facts, h('div', { class: 'doing' }, doCancel, doRetry),
    section(t('task.standing'), counts, groups.node, none, moreGroups),
    output.node,
    section(t('task.history'), history, moreEvents));
  const node = h('div', {}, failed, body);
  show(body, false);

  async function refresh() {
    asked = Date.now();
    try {
      const task = await get(`/api/tasks/${id}?limit=${MOST}`);
      if (!gone) draw(task);
    } catch (error) {
      if (gone) return;
      open = false;
      text(failed, t('load.failed', error.message));
    }
  }

  function draw(task) {
    text(failed, '');
    show(body, true);
    content.set(task.text);
    show(content.node, Boolean(task.text));
    factRows(factsOf(task));
    const { waiting, in_flight, settled, dead } = task.counts;
    const all = waiting + in_flight + settled + dead;
    open = all === 0 || waiting + in_flight > 0;
    const last = new Map(task.results.filter((it) => !it.late).map((it) => [it.group, it.outcome]));
    const standing = task.groups.map((it) => ({ ...it, outcome: last.get(it.group) ?? null, reason: OUTCOME.test(it.reason) ? null : it.reason }));
    groups.update(standing);
    text(counts, all > 1 ? t('task.counts', task.counts) : '');
    show(groups.node, standing.length > 0);
    show(none, standing.length === 0);
    text(moreGroups, all > standing.length ? t('task.more', all - standing.length) : '');
    events([{ seq: 0, at: task.accepted_at }, ...task.results.slice(-MOST)]);
    const older = Math.max(0, task.results.length - MOST) + task.results_left_out;
    text(moreEvents, older > 0 ? t('task.more', older) : '');
    show(doCancel, open);
    output.update(in_flight);
    show(doRetry, dead > 0 || standing.some((it) => (it.state === 'settled' && it.outcome !== 'DONE')));
  }

  return {
    node,
    update(live) {
      if (live.contact !== 'live') return;
      state = live.state;
      shellCancel.set(ctl(state, 'cancel', String(id)));
      shellRetry.set(ctl(state, 'retry', String(id)));
      if (open || Date.now() - asked >= SETTLED_REFRESH) refresh();
    },
    destroy() {
      gone = true;
      output.destroy();
    },
  };
}

function factsOf(task) {
  const facts = [
    { key: 'col.to', value: audience(task) },
    { key: 'col.accepted', at: task.accepted_at },
    { key: 'task.priority', value: t(`task.priority.${task.priority}`) },
    { key: 'task.not_before', at: task.not_before },
    { key: 'task.expires_at', at: task.replaced_by ? null : task.expires_at },
    { key: 'task.max_attempts', value: task.max_attempts && count(task.max_attempts) },
    { key: 'task.timeout', value: task.timeout_ms && t(task.timeout_fails ? 'task.timeout.failed' : 'task.timeout.retry', duration(task.timeout_ms)) },
    { key: 'task.key', value: task.key },
    { key: 'task.lane', value: task.lane },
    { key: 'task.replace', value: task.replace },
    { key: 'task.quiet', value: task.quiet_ms && [task.quiet_ms, task.max_wait_ms].filter(Boolean).map(duration).join(' / ') },
    { key: 'task.replaces', value: task.replaces && t('task.number', task.replaces) },
    { key: 'task.replaced_by', value: task.replaced_by && t('task.number', task.replaced_by) },
    { key: 'task.schedule', value: task.schedule && (task.schedule_moment ? t('task.schedule.for', task.schedule, moment(task.schedule_moment)) : t('task.schedule.hand', task.schedule)) },
    { key: 'task.by', value: task.submitted_by && t('task.by.role', task.submitted_by, task.submitted_role) },
    ...headersOf(task).map(([key, value]) => ({ key: `header ${key}`, label: t('task.header', key), value: value || '–' })),
    { key: 'task.data', value: task.data_size && dataOf(task), href: `/api/tasks/${task.id}/data` },
  ];
  return facts.filter((it) => it.value || it.at);
}

function headersOf(it) {
  return Object.entries(it.headers ?? {}).sort();
}

/** How much data it has, and what its sender calls that. */
function dataOf(it) {
  return [bytes(it.data_size), it.headers?.['content-type']].filter(Boolean).join(' · ');
}

function standings(id, state, refresh) {
  const columns = [
    { head: t('col.group'), wide: true, cell: (td) => (it) => text(td, it.group) },
    { head: t('col.state'), cell: (td) => {
      const it = standing();
      td.append(it.node);
      return (next) => it.set(next.state, next.outcome);
    } },
    { head: t('col.client'), cell: (td) => (it) => text(td, it.client ? address(it.client) : '–') },
    { head: t('col.attempt'), num: true, cell: (td) => (it) => text(td, it.attempt || '–') },
    { head: t('col.reason'), wide: true, cell: reason },
    { head: t('col.actions'), wide: true, bare: true, cell: (td) => retryOf(td, id, state, refresh) },
  ];
  const rows = table(columns, { keyOf: (it) => it.group, label: t('task.standing') });
  return { node: h('div', { class: 'table-box three' }, rows.node), update: rows.update };
}

/** Why it is in its state, and what the client that has it said last of it. */
function reason(td) {
  const words = h('span', { dir: 'auto' });
  const why = h('span', { class: 'sub' });
  td.append(words, why);
  return (it) => {
    const settled = it.at_work ? t('task.atWork') : '–';
    const because = it.reason ? said(it.reason, moment) : settled;
    const far = howFar(it);
    text(words, far || because);
    text(why, far ? because : '');
  };
}

/** What is settled or dead can be given to that group again. */
function retryOf(td, id, state, refresh) {
  let group = null;
  const button = action({
    label: t('task.retry'),
    run: () => post(`/api/tasks/${id}/retry`, { group }).then(() => (refresh(), t('dead.retried'))),
  });
  const shell = command('', { quiet: true });
  const node = h('span', { class: 'do' }, button.node, shell.node);
  td.append(node);
  return (it) => {
    group = it.group;
    // Once pressed it stays, with what it said.
    show(node, it.state === 'settled' || it.state === 'dead' || node.contains(document.activeElement));
    button.button.classList.toggle('plain', it.outcome === 'DONE');
    shell.set(ctl(state(), 'retry', String(id), '--group', it.group));
  };
}

function eventRow(first) {
  const what = outcome();
  const at = time('clock');
  const facts = h('span', { class: 'event-facts', dir: 'auto' });
  const ret = clipped('ret');
  const headers = h('span', { class: 'sub', dir: 'auto' });
  const data = h('a', { href: `/api/results/${first.seq}/data`, download: '', dir: 'auto' });
  const node = h('li', {}, at.node, h('div', {}, h('span', { class: 'event-head' }, what.node, ' ', facts), ret.node, headers, ' ', data));
  if (first.seq === 0) {
    text(facts, t('task.history.accepted'));
    [what.node, ret.node, headers, data].forEach((it) => show(it, false));
  }
  return {
    node,
    update(it) {
      at.set(it.at);
      if (it.seq === 0) return;
      what.set(it.outcome);
      const parts = [it.group ?? t('client.anonymous'), it.client && address(it.client), it.attempt ? t('task.attempt', it.attempt) : '', it.late ? t('task.late') : ''];
      text(facts, [...new Set(parts)].filter(Boolean).join(' · '));
      ret.set(it.ret);
      show(ret.node, Boolean(it.ret));
      text(headers, headersOf(it).map(([key, value]) => `${key}: ${value}`).join(' · '));
      show(headers, Boolean(it.headers));
      text(data, it.data_size ? t('task.data.save', bytes(it.data_size)) : '');
      show(data, Boolean(it.data_size));
      attribute(node, 'class', it.late ? 'late' : null);
    },
  };
}
