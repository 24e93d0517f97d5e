// Groups: how far each has come, and the switch that stops or resumes it.

import { get, post } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { count, rate } from '../format.js';
import { t } from '../i18n.js';
import { action, badge, command, table, time, words } from '../parts.js';
import { client, ctl } from '../verdict.js';
import { listView } from './list.js';
import { tasksHash } from './tasks.js';

/** The table of groups; `short` leaves out what only matters to those who look closer. */
export function groupTable({ short = false } = {}) {
  let state = null;
  const columns = [
    { head: t('col.group'), wide: true, cell: groupName },
    { head: t('col.clients'), num: true, cell: words((it) => count(it.clients)) },
    { head: t('col.lag'), title: t('col.lag.title'), num: true, cell: numberLink((it) => it.lag, (it) => tasksHash({ group: it.group, state: it.lag > it.in_flight ? 'waiting' : 'in flight' })) },
    { head: t('col.in_flight'), title: t('col.in_flight.title'), num: true, cell: numberLink((it) => it.in_flight, (it) => tasksHash({ group: it.group, state: 'in flight' })) },
    { head: t('col.rate'), num: true, cell: words((it) => rate(it.rate)) },
    { head: t('col.oldest'), num: true, cell: oldest },
    { head: t('col.dead'), title: t('col.dead.title'), num: true, cell: numberLink((it) => it.dead, (it) => `#/dead?group=${encodeURIComponent(it.group)}`) },
    { head: t('col.used'), num: true, cell: used },
    { head: t('col.actions'), wide: true, bare: true, cell: (td) => actions(td, () => state) },
  ];
  const rows = table(short ? columns.filter((_, i) => ![3, 5, 7, 8].includes(i)) : columns, {
    keyOf: (it) => it.group,
    label: t('view.groups'),
    rowClass: (it) => (it.paused || (it.lag > 0 && it.clients === 0) ? 'attention' : ''),
  });
  return {
    node: h('div', { class: 'table-box four' }, rows.node),
    update(groups, next) {
      state = next;
      rows.update(groups);
    },
  };
}

/** What of a group may be under way, and which lanes are held. */
function limitsOf({ limits, held_lanes }) {
  const parts = limits ? [
    limits.max_in_flight && t('group.limit.in_flight', limits.max_in_flight),
    limits.max_begun_per_second && t('group.limit.begun', limits.max_begun_per_second),
    limits.lane_max > 1 && t('group.limit.lane', limits.lane_max),
    limits.lane_on_dead === 'hold' && t('group.limit.hold'),
  ].filter(Boolean) : [];
  const most = parts.length ? t('group.limits', parts.join(', ')) : '';
  return [most, held_lanes && t('group.held_lanes', held_lanes)].filter(Boolean).join('; ');
}

function groupName(td) {
  const link = h('a', { dir: 'auto' });
  const flag = badge();
  const [retry, limits] = [h('div', { class: 'hint' }), h('div', { class: 'hint' })];
  td.append(h('span', { class: 'name' }, link), ' ', flag.node, retry, limits);
  return (it) => {
    text(link, it.group);
    show(retry, Boolean(it.retry));
    text(retry, it.retry ? t('group.retry', it.retry) : '');
    show(limits, Boolean(it.limits || it.held_lanes));
    text(limits, limitsOf(it));
    attribute(link, 'href', `#/clients?q=${encodeURIComponent(it.group)}`);
    if (it.never_came) flag.set('warn', t('group.never_came'));
    else if (it.paused) flag.set('warn', t('group.paused'));
    else if (it.clients === 0 && it.lag > 0) flag.set('warn', t('group.nobody'));
    else flag.set('', null);
  };
}

/** A cell that is a number, and leads to what it counts. */
const numberLink = (of, hrefOf) => (td) => {
  const link = h('a', {});
  const none = h('span', { class: 'dim' }, '0');
  td.append(link, none);
  return (it) => {
    const number = of(it);
    show(link, number > 0);
    show(none, number === 0);
    text(link, count(number));
    attribute(link, 'href', hrefOf(it));
  };
};

function oldest(td) {
  const link = h('a', {});
  const at = time('for');
  link.append(at.node);
  td.append(link);
  return (it) => {
    show(link, Boolean(it.oldest));
    at.set(it.oldest_at);
    attribute(link, 'href', it.oldest ? `#/tasks/${it.oldest}` : null);
    attribute(link, 'aria-label', it.oldest ? `${t('task.number', it.oldest)}, ${at.node.textContent}` : null);
  };
}

function used(td) {
  const at = time('ago');
  td.append(at.node);
  return (it) => at.set(it.last_used);
}

/** The switch; and where no client is there, the way to be rid of the group. */
function actions(td, state) {
  let group = null;
  const button = action({
    label: t('group.pause'),
    run: () => post('/api/groups/pause', { group: group.group, paused: !group.paused }).then(() => ''),
  });
  const remove = action({
    label: t('group.remove'), style: 'danger',
    run: () => post('/api/groups/remove', { group: group.group }).then(() => t('group.removed')),
  });
  const shell = command('', { quiet: true });
  const shellRemove = command('', { quiet: true });
  const doRemove = h('span', { class: 'do' }, remove.node, shellRemove.node);
  const doPause = h('span', { class: 'do' }, button.node, shell.node);
  td.append(h('div', { class: 'doing' }, doPause, doRemove));
  return (it) => {
    group = it;
    // What is not there cannot be paused or removed.
    show(doPause, !it.never_came);
    button.set(t(it.paused ? 'group.resume' : 'group.pause'));
    shell.set(ctl(state(), it.paused ? 'resume' : 'pause', it.group));
    show(doRemove, it.clients === 0 && !it.never_came);
    remove.set(t('group.remove'), t('group.remove.sure', it.lag));
    shellRemove.set(ctl(state(), 'group', 'rm', it.group));
  };
}

export function mount(root, query) {
  const groups = groupTable();
  return listView(root, {
    view: 'groups',
    query,
    rows: groups,
    fromState: (state) => ({ items: state.groups, total: state.groups.length + state.groups_left_out }),
    search: async (query) => {
      const found = await get('/api/groups', query);
      return { items: found.groups, total: found.total };
    },
    emptyText: t('group.none'),
    emptyCommand: client,
  });
}
