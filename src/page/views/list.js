// What the lists of groups and of clients have in common: a search that stands in the address, how many there are, and
// what to do where there are none.

import { h, show, text } from '../dom.js';
import { t } from '../i18n.js';
import { command } from '../parts.js';

/** Between two searches while nothing else is typed. */
const REFRESH = 2000;
/** After a key, before the search. */
const TYPING = 200;
/** Rows that one press shows more, and the most that the server gives. */
const STEP = 200;
const MOST = 1000;

export function listView(root, { view, query, rows, fromState, search, emptyText, emptyCommand }) {
  const input = h('input', {
    type: 'search', value: query.q ?? '', placeholder: t(`list.search.${view}`), 'aria-label': t(`list.search.${view}`), autocomplete: 'off', spellcheck: 'false', dir: 'auto', maxlength: 256,
  });
  const total = h('span', { class: 'total' });
  const left = h('p', { class: 'left-out' });
  const further = h('button', { type: 'button', class: 'button', onclick: () => {
    limit = Math.min(MOST, shown + STEP);
    refresh();
  } }, t('list.more'));
  const failed = h('p', { class: 'failed', role: 'alert' });
  const nothing = h('p', { class: 'empty', dir: 'auto' });
  const shell = command();
  const begin = h('div', { class: 'empty' }, h('p', {}, emptyText), shell.node);
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t(`view.${view}`)), total, h('form', { class: 'filter', role: 'search', onsubmit: (event) => event.preventDefault() }, input)),
    h('p', { class: 'intro' }, t(`${view.slice(0, -1)}.intro`)),
    failed, h('div', { class: 'fresh' }, rows.node, left), h('div', { class: 'pages' }, further), nothing, begin,
  );
  let state = null;
  /** How many were asked for; null: what comes with the state. */
  let limit = null;
  let shown = 0;
  let typed = 0;
  let asked = 0;
  let gone = false;

  function draw({ items, total: all }) {
    const q = input.value.trim();
    show(rows.node, items.length > 0);
    rows.update(items, state);
    text(total, all === items.length ? t('list.total', all) : t('list.shown', items.length, all));
    text(left, all > items.length ? t('list.left_out', all - items.length) : '');
    shown = items.length;
    show(further, all > shown && shown < MOST);
    text(nothing, t('list.none', q));
    show(nothing, Boolean(q) && all === 0);
    show(begin, !q && all === 0);
    shell.set(emptyCommand(state));
  }

  async function refresh() {
    const q = input.value.trim();
    asked = Date.now();
    try {
      const wanted = limit;
      const found = q || wanted ? await search({ q, limit: wanted }) : fromState(state);
      // An answer to what was asked before is old.
      if (gone || input.value.trim() !== q || wanted !== limit) return;
      text(failed, '');
      draw(found);
    } catch (error) {
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  input.addEventListener('input', () => {
    clearTimeout(typed);
    limit = null;
    typed = setTimeout(() => {
      const q = input.value.trim();
      history.replaceState(null, '', q ? `#/${view}?q=${encodeURIComponent(q)}` : `#/${view}`);
      if (state) refresh();
    }, TYPING);
  });
  for (const node of [nothing, begin, further]) show(node, false);
  return {
    update(live) {
      if (!live.state || live.contact !== 'live') return;
      state = live.state;
      if (!(input.value.trim() || limit) || Date.now() - asked >= REFRESH) refresh();
    },
    destroy() {
      gone = true;
      clearTimeout(typed);
    },
  };
}
