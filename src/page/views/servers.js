// The servers of a cluster, and the log that they share. Where there is one server there is nothing of this.

import { h, show, text } from '../dom.js';
import { bytes, count } from '../format.js';
import { t } from '../i18n.js';
import { badge, section, table, time, words } from '../parts.js';

export function serversPart() {
  const moment = (of) => (td) => {
    const at = time('ago');
    td.append(at.node);
    return (it) => at.set(of(it));
  };
  const rows = table([
    { head: t('col.server'), wide: true, cell: words((it) => it.name) },
    { head: t('col.role'), cell: role },
    { head: t('col.epoch'), num: true, cell: words((it) => (it.epoch ? String(it.epoch) : '–')) },
    { head: t('col.behind'), num: true, cell: words((it) => count(it.lag)) },
    { head: t('col.clients'), num: true, cell: words((it) => count(it.clients)) },
    { head: t('col.version'), cell: words((it) => it.version) },
    { head: t('col.heard'), num: true, cell: moment((it) => it.heard_at) },
  ], { keyOf: (it) => it.name, label: t('servers.title'), rowClass: (it) => (it.silent ? 'gone' : '') });
  const log = h('p', { class: 'intro', dir: 'auto' });
  const node = section(t('servers.title'), log, h('div', { class: 'table-box' }, rows.node));
  return {
    node,
    update({ cluster }) {
      show(node, Boolean(cluster));
      if (!cluster) return;
      rows.update(cluster.servers);
      text(log, cluster.log ? said(cluster.log) : t('servers.log.unknown'));
    },
  };
}

function role(td) {
  const node = badge();
  td.append(node.node);
  return ({ role: is, silent }) => {
    if (silent) node.set('bad', t('role.silent'));
    else node.set(is === 'leading' ? 'good' : 'idle', t(is === 'leading' ? 'role.leading' : 'role.following'));
  };
}

function said({ stream, replicas, messages, bytes: size }) {
  const leader = replicas.find((it) => it.leads)?.name;
  const current = replicas.filter((it) => it.current).length;
  return t('servers.log', stream, messages, bytes(size), leader, current, replicas.length);
}
