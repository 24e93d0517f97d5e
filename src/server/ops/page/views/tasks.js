// Tasks: the newest first, older ones page by page, and one of them by its number.

import { get } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { t } from '../i18n.js';
import { badge, command, standing, table, time } from '../parts.js';
import { ctl } from '../verdict.js';

const PAGE = 50;
/** The newest page is asked for again while things move, but not more often than this. */
const REFRESH = 2000;

/** The table of tasks. */
export function taskTable() {
  const columns = [
    { head: t('col.task'), num: true, cell: number },
    { head: t('col.text'), wide: true, cell: what },
    { head: t('col.to'), cell: to },
    { head: t('col.state'), cell: where },
    { head: t('col.accepted'), num: true, cell: accepted },
  ];
  const rows = table(columns, { keyOf: (it) => it.id, label: t('view.tasks') });
  return { node: h('div', { class: 'table-box tasks three' }, rows.node), update: rows.update };
}

function number(td) {
  const link = h('a', {});
  td.append(link);
  return (it) => {
    text(link, it.id);
    attribute(link, 'href', `#/tasks/${it.id}`);
  };
}

function what(td) {
  const line = h('a', { class: 'line', dir: 'auto', tabindex: '-1' });
  td.append(line);
  return (it) => {
    text(line, it.cut ? `${it.text}…` : it.text);
    attribute(line, 'href', `#/tasks/${it.id}`);
    attribute(line, 'title', it.text.length > 60 ? it.text : null);
  };
}

function to(td) {
  const name = h('span', { dir: 'auto' });
  const priority = badge();
  td.append(name, ' ', priority.node);
  return (it) => {
    text(name, it.to ?? t('group.everyone'));
    name.classList.toggle('dim', it.to === null);
    priority.set(it.priority === 'high' ? 'busy' : 'idle', it.priority === 'normal' ? null : t(`task.priority.${it.priority}`));
  };
}

function where(td) {
  const state = standing();
  const at = time('ago');
  at.node.classList.add('sub');
  td.append(state.node, ' ', at.node);
  return (it) => {
    state.set(it.state, it.outcome);
    at.set(it.last_at);
  };
}

function accepted(td) {
  const at = time('moment');
  td.append(at.node);
  return (it) => at.set(it.accepted_at);
}

export function mount(root, query, go) {
  const before = Number(query.before) || null;
  const rows = taskTable();
  const find = h('input', { inputmode: 'numeric', pattern: '[0-9]*', 'aria-label': t('task.find'), placeholder: t('task.find'), autocomplete: 'off' });
  const form = h('form', { class: 'filter', role: 'search' }, find, h('button', { class: 'button' }, t('task.find.go')));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const id = find.value.trim().replaceAll(/[,\s]/g, '');
    if (/^\d+$/.test(id)) go(`#/tasks/${id}`);
    else find.focus();
  });
  const failed = h('p', { class: 'failed', role: 'alert' });
  const shell = command();
  const nothing = h('div', { class: 'empty' }, h('p', {}, t('task.none')), shell.node);
  const end = h('p', { class: 'left-out' }, t('task.end'));
  const newest = h('a', { class: 'button', href: '#/tasks' }, t('task.newest'));
  const older = h('a', { class: 'button' }, t('task.older'));
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.tasks')), form),
    h('p', { class: 'intro' }, t('task.intro')),
    failed, h('div', { class: 'fresh' }, rows.node, end), nothing, h('div', { class: 'pages' }, newest, older),
  );
  for (const node of [nothing, end, older]) show(node, false);
  show(newest, before !== null);
  let mark = '';
  let asked = 0;
  let gone = false;

  async function refresh() {
    asked = Date.now();
    try {
      const { tasks, more } = await get('/api/tasks', { before, limit: PAGE });
      if (gone) return;
      text(failed, '');
      rows.update(tasks);
      show(rows.node, tasks.length > 0);
      show(nothing, tasks.length === 0 && before === null);
      show(end, !more && tasks.length > 0);
      show(older, more);
      if (more) attribute(older, 'href', `#/tasks?before=${tasks.at(-1).id}`);
    } catch (error) {
      mark = '';
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  return {
    update({ state, contact }) {
      if (!state || contact !== 'live') return;
      shell.set(ctl(state, 'submit', 'hello'));
      const { tasks, results, in_flight, dead } = state.totals;
      const next = [tasks, results, in_flight, dead].join();
      if (next === mark || Date.now() - asked < REFRESH) return;
      mark = next;
      refresh();
    },
    destroy: () => (gone = true),
  };
}
