// Tasks: the newest first, older ones page by page; those of one group, or in one state.

import { get } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { bytes } from '../format.js';
import { t } from '../i18n.js';
import { audience, badge, command, options, standing, table, time } from '../parts.js';
import { ctl } from '../verdict.js';

const PAGE = 50;
/** The newest page is asked for again while things move, but not more often than this. */
const REFRESH = 2000;
/** One that is narrowed: the server goes through the log for it. */
const REFRESH_NARROWED = 5000;
/** After a key, before the list is asked for. */
const TYPING = 300;
const STATES = ['waiting', 'in flight', 'settled', 'dead'];

/** The address of the list, narrowed or not. */
export function tasksHash(query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return given.length ? `#/tasks?${new URLSearchParams(given)}` : '#/tasks';
}

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
    const data = it.data_size ? t('task.data.brief', [bytes(it.data_size), it.content_type].filter(Boolean).join(' · ')) : '';
    text(line, it.cut ? `${it.text}…` : it.text || data);
    attribute(line, 'href', `#/tasks/${it.id}`);
    attribute(line, 'title', it.text.length > 60 ? it.text : null);
  };
}

function to(td) {
  const name = h('span', { dir: 'auto' });
  const priority = badge();
  td.append(name, ' ', priority.node);
  return (it) => {
    text(name, audience(it));
    name.classList.toggle('dim', it.to === null && !it.groups && !it.select);
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

export function mount(root, query) {
  let before = Number(query.before) || null;
  const rows = taskTable();
  const group = h('input', { list: 'tasks-groups', value: query.group ?? '', maxlength: 256, dir: 'auto', autocomplete: 'off', spellcheck: 'false', 'aria-label': t('task.group'), placeholder: t('task.group.any') });
  const groups = h('datalist', { id: 'tasks-groups' });
  const state = h('select', { 'aria-label': t('task.state') },
    h('option', { value: '' }, t('task.state.any')), STATES.map((it) => h('option', { value: it, selected: it === query.state }, t(`state.${it}`))));
  const form = h('form', { class: 'filter', role: 'search', onsubmit: (event) => event.preventDefault() }, group, groups, state);
  const failed = h('p', { class: 'failed', role: 'alert' });
  const shell = command();
  const begin = h('div', { class: 'empty' }, h('p', {}, t('task.none')), shell.node);
  const nothing = h('p', { class: 'empty', dir: 'auto' });
  const looked = h('p', { class: 'left-out', role: 'status' });
  const newest = h('a', { class: 'button' }, t('task.newest'));
  const older = h('a', { class: 'button' });
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.tasks')), form),
    h('p', { class: 'intro' }, t('task.intro')),
    failed, h('div', { class: 'fresh' }, rows.node, nothing, looked), begin, h('div', { class: 'pages' }, newest, older),
  );
  for (const node of [begin, nothing, newest, older]) show(node, false);
  let mark = '';
  let asked = 0;
  let typed = 0;
  let gone = false;

  const narrowed = () => ({ group: group.value.trim(), state: state.value });
  const isNarrowed = () => Object.values(narrowed()).some(Boolean);

  async function refresh() {
    asked = Date.now();
    const wanted = narrowed();
    const from = before;
    try {
      const found = await get('/api/tasks', { ...wanted, before: from, limit: PAGE });
      // An answer to what was asked before is old.
      if (gone || from !== before || tasksHash(wanted) !== tasksHash(narrowed())) return;
      text(failed, '');
      draw(found);
    } catch (error) {
      mark = '';
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  function draw({ tasks, looked: range, more }) {
    const none = tasks.length === 0;
    rows.update(tasks);
    show(rows.node, !none);
    show(begin, none && before === null && !isNarrowed());
    show(nothing, none && isNarrowed());
    const span = range && t('task.looked', range.oldest, range.newest);
    text(nothing, range ? t('task.looked.none', span) : t('task.looked.nothing'));
    // Without a filter, what is shown is what was looked at.
    const scope = isNarrowed() && !none ? span : '';
    text(looked, [scope, more || none ? '' : t('task.end')].filter(Boolean).join(' '));
    show(older, more);
    text(older, t(isNarrowed() ? 'task.further' : 'task.older'));
    if (more) attribute(older, 'href', tasksHash({ ...narrowed(), before: range.oldest }));
    show(newest, before !== null);
    attribute(newest, 'href', tasksHash(narrowed()));
  }

  /** From the newest on. The address is another one; the field keeps the focus. */
  function narrow() {
    before = null;
    history.replaceState(null, '', tasksHash(narrowed()));
    refresh();
  }
  state.addEventListener('change', narrow);
  group.addEventListener('input', () => {
    clearTimeout(typed);
    typed = setTimeout(narrow, TYPING);
  });

  return {
    update({ state: now, contact }) {
      if (!now || contact !== 'live') return;
      shell.set(ctl(now, 'submit', 'hello'));
      options(groups, now.groups.map((it) => it.group));
      const { tasks, results, in_flight, dead } = now.totals;
      const next = [tasks, results, in_flight, dead].join();
      if (next === mark || Date.now() - asked < (isNarrowed() ? REFRESH_NARROWED : REFRESH)) return;
      mark = next;
      refresh();
    },
    destroy() {
      gone = true;
      clearTimeout(typed);
    },
  };
}
