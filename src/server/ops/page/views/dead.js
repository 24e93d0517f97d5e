// Dead letters: what was given up and why; retry or drop.

import { get, post } from '../api.js';
import { h, keyed, show, text } from '../dom.js';
import { count } from '../format.js';
import { t } from '../i18n.js';
import { action, clipped, command, outcome, time } from '../parts.js';
import { ctl } from '../verdict.js';

const PAGE = 50;

export function mount(root, query, go) {
  const group = query.group ?? null;
  let state = null;
  let loaded = [];
  let mark = '';
  let gone = false;
  let busy = false;

  const total = h('span', { class: 'total' });
  const choice = h('select', { 'aria-label': t('dead.group'), onchange: () => go(choice.value ? `#/dead?group=${encodeURIComponent(choice.value)}` : '#/dead') });
  const failed = h('p', { class: 'failed', role: 'alert' });
  const nothing = h('p', { class: 'empty good' }, group ? t('dead.none.group', group) : t('dead.none'));
  const list = h('ol', { class: 'letters' });
  const letters = keyed(list, (it) => it.seq, (it) => letter(it, () => state, after));
  const retryAll = action({ label: '', sure: t('dead.retry.all.sure'), run: everyOne });
  const shell = command('', { quiet: true });
  const bulk = h('div', { class: 'doing' }, h('span', { class: 'do' }, retryAll.node, shell.node));
  const older = h('button', { type: 'button', class: 'button', onclick: () => load(loaded.at(-1)?.seq) }, t('dead.more'));
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.dead')), total, h('label', { class: 'filter' }, choice)),
    h('p', { class: 'intro' }, t('dead.intro')),
    bulk, failed, nothing, h('div', { class: 'fresh' }, list), h('div', { class: 'pages' }, older),
  );
  for (const node of [nothing, bulk, older]) show(node, false);

  /** The newest, or what stands before `before`. */
  async function load(before = null) {
    try {
      const { dead, more } = await get('/api/dead', { group, before, limit: before ? PAGE : Math.max(PAGE, loaded.length) });
      if (gone) return;
      loaded = before ? [...loaded, ...dead] : dead;
      text(failed, '');
      show(older, more);
      draw();
    } catch (error) {
      mark = '';
      if (!gone) text(failed, t('load.failed', error.message));
    }
  }

  function draw() {
    letters(loaded);
    text(total, loaded.length ? t('list.total', group ? loaded.length : Math.max(loaded.length, state?.totals.dead ?? 0)) : '');
    show(nothing, loaded.length === 0);
    show(bulk, loaded.length > 1);
    retryAll.set(t('dead.retry.all', loaded.length));
  }

  /** A letter is off the list once the server has said so, and not before. */
  function after(seq) {
    loaded = loaded.filter((it) => it.seq !== seq);
    if (!busy) draw();
  }

  async function everyOne(progress) {
    busy = true;
    const all = [...loaded];
    try {
      for (const [i, it] of all.entries()) {
        progress(t('dead.progress', i, all.length));
        await post(`/api/tasks/${it.task}/retry`, { group: it.group });
        after(it.seq);
      }
    } finally {
      busy = false;
      draw();
    }
    return t('dead.progress', all.length, all.length);
  }

  function options(groups) {
    const names = [...new Set([group, ...groups.filter((it) => it.dead > 0).map((it) => it.group)].filter(Boolean))];
    const key = names.join('\n');
    if (choice.dataset.names === key) return;
    choice.dataset.names = key;
    choice.replaceChildren(
      h('option', { value: '' }, t('dead.group.all')),
      ...names.map((it) => h('option', { value: it, selected: it === group }, it)),
    );
  }

  return {
    update(live) {
      if (!live.state || live.contact !== 'live') return;
      state = live.state;
      options(state.groups);
      shell.set(ctl(state, 'dead', ...(group ? ['--group', group] : []), '--retry'));
      // A retry that failed again is another letter, though their number is the same: results count too.
      const next = `${state.totals.dead} ${state.totals.results}`;
      if (next === mark || busy) return;
      mark = next;
      load();
    },
    destroy: () => (gone = true),
  };
}

function letter(first, state, after) {
  const number = h('a', { class: 'number', href: `#/tasks/${first.task}` }, t('task.number', first.task));
  const what = outcome();
  const facts = h('span', { class: 'dim', dir: 'auto' });
  const at = time('ago');
  const content = clipped('mono');
  const error = clipped('ret');
  const cut = h('a', { href: `#/tasks/${first.task}` }, t('task.cut'));
  const body = { group: first.group };
  const retry = action({
    label: t('dead.retry'),
    run: () => post(`/api/tasks/${first.task}/retry`, body).then(() => (after(first.seq), t('dead.retried'))),
  });
  const drop = action({
    label: t('dead.drop'), sure: t('dead.drop.sure'), style: 'danger',
    run: () => post(`/api/tasks/${first.task}/drop`, body).then(() => (after(first.seq), t('dead.dropped'))),
  });
  const shellRetry = command('', { quiet: true });
  const node = h('li', { class: 'letter' },
    h('div', { class: 'letter-head' }, number, what.node, facts, at.node),
    content.node, cut, error.node,
    h('div', { class: 'doing' }, h('span', { class: 'do' }, retry.node, shellRetry.node), drop.node));
  return {
    node,
    update(it) {
      what.set(it.outcome);
      text(facts, [it.group, it.client, it.attempt ? t('task.attempt', count(it.attempt)) : ''].filter(Boolean).join(' · '));
      at.set(it.at);
      content.set(it.text);
      show(cut, Boolean(it.cut));
      error.set(it.ret);
      show(error.node, Boolean(it.ret));
      shellRetry.set(ctl(state(), 'retry', String(it.task), '--group', it.group));
    },
  };
}
