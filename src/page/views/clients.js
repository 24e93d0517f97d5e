// Clients: who is there, since when, what each holds, and what it said last.

import { get } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { count, moment } from '../format.js';
import { t } from '../i18n.js';
import { address, badge, clipped, howFar, outcome, table, time, words } from '../parts.js';
import { client } from '../verdict.js';
import { dialledPart } from './dialled.js';
import { listView } from './list.js';

/** The table of clients; `short` leaves out what only matters to those who look closer. */
export function clientTable({ short = false } = {}) {
  const columns = [
    { head: t('col.client'), wide: true, cell: who },
    { head: t('col.group'), cell: groupLink },
    { head: t('col.since'), num: true, cell: since },
    { head: t('col.holding'), title: t('col.holding.title'), num: true, cell: holding },
    { head: t('col.delivered'), num: true, cell: words((it) => count(it.delivered)) },
    { head: t('col.status'), wide: true, cell: lastStatus },
    { head: t('col.result'), wide: true, cell: lastResult },
  ];
  const rows = table(short ? columns.filter((_, i) => [0, 1, 2, 3].includes(i)) : columns, {
    // An anonymous client is its address; one that came back is another than the one that went.
    keyOf: (it) => `${it.client ?? ''} ${it.peer} ${it.since}`,
    label: t('view.clients'),
    rowClass: (it) => (it.connected ? '' : 'gone'),
  });
  return { node: h('div', { class: 'table-box two' }, rows.node), update: rows.update };
}

function who(td) {
  const id = h('span', { class: 'name', dir: 'auto' });
  const dot = h('span', { class: 'dot', 'aria-hidden': 'true' });
  const flag = badge();
  const note = h('span', { class: 'sub', dir: 'auto' });
  const labels = h('span', { class: 'sub', dir: 'auto' });
  const peer = h('span', { class: 'sub' });
  td.append(dot, id, ' ', flag.node, note, labels, peer);
  return (it) => {
    text(id, it.client ?? t('client.anonymous'));
    id.classList.toggle('dim', it.client === null);
    const { draining } = it;
    const drained = draining && t(draining.stopping ? 'client.stopping' : 'client.drained');
    flag.set('idle', it.connected ? drained : t('client.gone'));
    text(note, it.connected && draining ? draining.note : '');
    show(note, it.connected && Boolean(draining?.note));
    attribute(flag.node, 'title', draining?.until ? t('client.drained.until', moment(draining.until)) : null);
    const about = [it.labels, it.version, it.system].filter(Boolean).join(' · ');
    text(labels, about);
    show(labels, Boolean(about));
    text(peer, address(it.peer));
    attribute(dot, 'title', t(it.connected ? 'client.connected' : 'client.gone'));
  };
}

function groupLink(td) {
  const link = h('a', { dir: 'auto' });
  const none = h('span', { class: 'dim' }, '–');
  td.append(link, none);
  return (it) => {
    show(link, it.group !== null);
    show(none, it.group === null);
    text(link, it.group ?? '');
    attribute(link, 'href', `#/groups?q=${encodeURIComponent(it.group ?? '')}`);
  };
}

function since(td) {
  const at = time('ago');
  td.append(at.node);
  return (it) => at.set(it.connected ? it.since : it.gone_at);
}

function holding(td) {
  const most = h('span', { class: 'dim' });
  const held = h('span', {});
  const far = h('span', { class: 'sub', dir: 'auto' });
  td.append(held, most, far);
  return (it) => {
    text(held, count(it.in_flight));
    text(far, it.working ? `${t('task.number', it.working.task)}: ${howFar(it.working)}` : '');
    show(far, Boolean(it.working));
    text(most, it.window ? ` / ${count(it.window)}` : '');
    attribute(td, 'title', it.window ? t('client.of', it.in_flight, it.window) : t('client.no_bound'));
  };
}

function lastStatus(td) {
  const said = clipped();
  const at = time('ago');
  at.node.classList.add('sub');
  td.append(said.node, at.node);
  return (it) => {
    attribute(td, 'data-nothing', !it.last_status_at);
    said.set(it.last_status);
    at.set(it.last_status_at);
  };
}

function lastResult(td) {
  const what = outcome();
  const said = clipped();
  const at = time('ago');
  at.node.classList.add('sub');
  td.append(h('span', { class: 'result' }, what.node, said.node), at.node);
  return (it) => {
    attribute(td, 'data-nothing', !it.last_result_at);
    what.set(it.last_outcome);
    said.set(it.last_result);
    at.set(it.last_result_at);
  };
}

export function mount(root, query) {
  const clients = clientTable();
  const dialled = dialledPart();
  const view = listView(root, {
    view: 'clients',
    query,
    rows: clients,
    fromState: (state) => ({ items: state.clients, total: state.clients.length + state.clients_left_out }),
    search: async (query) => {
      const found = await get('/api/clients', query);
      return { items: found.clients, total: found.total };
    },
    emptyText: t('client.none'),
    emptyCommand: client,
  });
  root.append(dialled.node);
  return {
    update(live) {
      view.update(live);
      dialled.update(live);
    },
    destroy: view.destroy,
  };
}
