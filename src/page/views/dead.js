// Dead letters: what was given up and why; retry or drop, one by one, or all that are shown, or those with one error.

import { get, post } from '../api.js';
import { attribute, h, keyed, show, text } from '../dom.js';
import { count } from '../format.js';
import { t } from '../i18n.js';
import { action, clipped, command, options, outcome, time } from '../parts.js';
import { ctl } from '../verdict.js';

const PAGE = 50;
/** Errors that are shown as a choice: the most frequent. */
const ERRORS = 6;
/** A command with more numbers than this is nothing to read or copy. */
const NUMBERS = 12;

export function mount(root, query, go) {
  const group = query.group ?? null;
  let state = null;
  let loaded = [];
  let more = false;
  /** The error that the list is narrowed to. */
  let error = null;
  let mark = '';
  let gone = false;
  let busy = false;

  const total = h('span', { class: 'total' });
  const choice = h('select', { 'aria-label': t('dead.group'), onchange: () => go(choice.value ? `#/dead?group=${encodeURIComponent(choice.value)}` : '#/dead') });
  const failed = h('p', { class: 'failed', role: 'alert' });
  const nothing = h('p', { class: 'empty good' }, group ? t('dead.none.group', group) : t('dead.none'));
  const list = h('ol', { class: 'letters' });
  const letters = keyed(list, (it) => it.seq, (it) => letter(it, () => state, after));
  const retryAll = bulkPart((progress) => everyOne('retry', progress));
  const dropAll = bulkPart((progress) => everyOne('drop', progress), 'danger');
  const bulk = h('div', { class: 'doing' }, retryAll.node, dropAll.node);
  const errors = errorsPart((next) => {
    error = next;
    draw();
  });
  const older = h('button', { type: 'button', class: 'button', onclick: () => load(loaded.at(-1)?.seq) }, t('dead.more'));
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.dead')), total, h('label', { class: 'filter' }, choice)),
    h('p', { class: 'intro' }, t('dead.intro')),
    errors.node, bulk, failed, nothing, h('div', { class: 'fresh' }, list), h('div', { class: 'pages' }, older),
  );
  for (const node of [nothing, bulk, errors.node, older]) show(node, false);

  /** The newest, or what stands before `before`. */
  async function load(before = null) {
    try {
      const page = await get('/api/dead', { group, before, limit: before ? PAGE : Math.max(PAGE, loaded.length) });
      if (gone) return;
      loaded = before ? [...loaded, ...page.dead] : page.dead;
      more = page.more;
      text(failed, '');
      show(older, more);
      draw();
    } catch (why) {
      mark = '';
      if (!gone) text(failed, t('load.failed', why.message));
    }
  }

  /** What the list is narrowed to; what is shown is what the buttons are for. */
  const shown = () => (error === null ? loaded : loaded.filter((it) => it.ret === error));

  function draw() {
    if (error !== null && !shown().length) error = null;
    errors.update(loaded, error, more);
    const these = shown();
    letters(these);
    text(total, loaded.length ? t('list.total', group ? loaded.length : Math.max(loaded.length, state?.totals.dead ?? 0)) : '');
    show(nothing, loaded.length === 0);
    show(bulk, these.length > 1);
    retryAll.set(t('dead.retry.all', these.length), t('dead.retry.all.sure', these.length), words(these, '--retry'), more);
    dropAll.set(t('dead.drop.all', these.length), t('dead.drop.all.sure', these.length), words(these, '--drop'), more);
  }

  /** The command for these: for all of the list, or by their numbers where they are few and of one group. */
  function words(these, verb) {
    if (error === null) return ctl(state, 'dead', ...(group ? ['--group', group] : []), verb);
    const groups = new Set(these.map((it) => it.group));
    if (these.length > NUMBERS || groups.size > 1) return null;
    return ctl(state, 'dead', ...these.map((it) => String(it.task)), '--group', ...groups, verb);
  }

  /** A letter is off the list once the server has said so, and not before. */
  function after(seq) {
    loaded = loaded.filter((it) => it.seq !== seq);
    if (!busy) draw();
  }

  async function everyOne(verb, progress) {
    busy = true;
    const all = shown();
    try {
      for (const [i, it] of all.entries()) {
        progress(t('dead.progress', i, all.length));
        await post(`/api/tasks/${it.task}/${verb}`, { group: it.group });
        after(it.seq);
      }
    } finally {
      busy = false;
      draw();
    }
    return t('dead.progress', all.length, all.length);
  }

  /** The groups to choose from; first none of them, which is all. */
  function offer(groups) {
    const names = new Set(['', ...(group ? [group] : []), ...groups.filter((it) => it.dead > 0).map((it) => it.group)]);
    options(choice, [...names], (value) => h('option', { value, selected: value === (group ?? '') }, value || t('dead.group.all')));
  }

  return {
    update(live) {
      if (!live.state || live.contact !== 'live') return;
      state = live.state;
      offer(state.groups);
      // A retry that failed again is another letter, though their number is the same: results count too.
      const next = `${state.totals.dead} ${state.totals.results}`;
      if (next === mark || busy) return;
      mark = next;
      load();
    },
    destroy: () => (gone = true),
  };
}

/** A button for all that are shown, and the command beside it. */
function bulkPart(run, style) {
  const button = action({ label: '', run, style });
  const all = h('span', { class: 'hint' }, t('dead.all'));
  const shell = command('', { quiet: true });
  const node = h('span', { class: 'do' }, button.node, all, shell.node);
  return {
    node,
    /** `more`: the command is for more than the button. */
    set(label, sure, words, more) {
      button.set(label, sure);
      show(all, words !== null && more);
      show(shell.node, words !== null);
      if (words !== null) shell.set(words);
    },
  };
}

/** An error in one line. What a command left is how it ended, and then its outputs, each under a line that begins with `---`. */
function brief(ret) {
  const [how, part, ...rest] = ret.split('\n');
  const said = part?.startsWith('--- ') && rest.find((line) => line.trim() && !line.startsWith('--- '));
  return said ? `${how}: ${said}` : ret;
}

/** Which of those that are loaded have the same error. A press narrows the list to these, another one takes that back. */
function errorsPart(choose) {
  const scope = h('span', { class: 'hint' });
  const list = h('span', { class: 'chips' });
  const chips = keyed(list, (it) => it.ret, (first) => {
    const button = h('button', { type: 'button', class: 'chip', dir: 'auto', title: first.ret, onclick: () => choose(button.getAttribute('aria-pressed') === 'true' ? null : first.ret) });
    return {
      node: button,
      update(it) {
        text(button, `${count(it.times)} × ${brief(it.ret)}`);
        attribute(button, 'aria-pressed', String(it.pressed));
      },
    };
  });
  const node = h('div', { class: 'same-error' }, scope, list);
  return {
    node,
    update(loaded, error, more) {
      const times = new Map();
      for (const { ret } of loaded) if (ret) times.set(ret, (times.get(ret) ?? 0) + 1);
      const most = [...times].sort((a, b) => b[1] - a[1]).slice(0, ERRORS).filter(([ret, n]) => n > 1 || ret === error);
      text(scope, t(more ? 'dead.errors.some' : 'dead.errors', loaded.length));
      chips(most.map(([ret, n]) => ({ ret, times: n, pressed: ret === error })));
      show(node, most.length > 0);
    },
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
  const shellDrop = command('', { quiet: true });
  const node = h('li', { class: 'letter' },
    h('div', { class: 'letter-head' }, number, what.node, facts, at.node),
    content.node, cut, error.node,
    h('div', { class: 'doing' }, h('span', { class: 'do' }, retry.node, shellRetry.node), h('span', { class: 'do' }, drop.node, shellDrop.node)));
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
      shellDrop.set(ctl(state(), 'dead', String(it.task), '--group', it.group, '--drop'));
    },
  };
}
