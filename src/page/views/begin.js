// A run by hand: what is to be done on which machines, for how many that is, and then the run, live.

import { post } from '../api.js';
import { attribute, h, keyed, show, text } from '../dom.js';
import { parseDuration } from '../format.js';
import { t } from '../i18n.js';
import { clipped, command, field, invalid, options, sends } from '../parts.js';
import { ctl } from '../verdict.js';

/** A number of targets, or a part of them. */
const SHARE = /^\d+(\.\d+)?%?$/;
/** Texts that contactctl would take for an option or a verb, unless they stand behind `--`. */
const NO_TEXT = /^(-.*|list|show|watch|pause|resume|abort|cancel|retry-failed|help)$/s;

export function mount(root, _query, go) {
  let state = null;
  const input = (id, props = {}) => h('input', { id, autocomplete: 'off', spellcheck: 'false', 'aria-describedby': `${id}-hint`, ...props });
  const texts = h('textarea', { id: 'begin-text', rows: 4, dir: 'auto', spellcheck: 'false', 'aria-describedby': 'begin-text-hint' });
  const select = input('begin-select', { maxlength: 1024, dir: 'auto' });
  const to = names(input('begin-to', { list: 'begin-groups', maxlength: 256, dir: 'auto' }), () => sameByHand());
  const groups = h('datalist', { id: 'begin-groups' });
  const [deadline, timeout, soak] = ['deadline', 'timeout', 'soak'].map((it) => input(`begin-${it}`));
  const [canary, batch, most] = ['canary', 'batch', 'most'].map((it) => input(`begin-${it}`));
  const attempts = input('begin-attempts', { type: 'number', min: 1, step: 1 });
  const later = h('input', { type: 'checkbox' });
  const next = h('button', { class: 'button primary' }, t('begin.go'));
  const note = h('p', { class: 'note', role: 'status' });
  const shell = command();
  const labelled = (id, it) => field(id, t(id.replace('-', '.')), it);
  const form = h('form', { class: 'submit', novalidate: true },
    labelled('begin-text', texts),
    h('div', { class: 'fields' }, labelled('begin-select', select), labelled('begin-to', to.node)),
    groups,
    h('div', { class: 'fields' }, labelled('begin-deadline', deadline), labelled('begin-timeout', timeout)),
    h('details', {}, h('summary', {}, t('begin.more')),
      h('div', { class: 'fields' },
        labelled('begin-canary', canary), labelled('begin-batch', batch),
        labelled('begin-soak', soak), labelled('begin-most', most), labelled('begin-attempts', attempts),
        h('label', { class: 'field choice' }, later, h('span', {}, t('begin.later'))))),
    h('div', { class: 'doing' }, next, note),
    h('div', { class: 'same' }, h('span', { class: 'dim' }, t('submit.same')), shell.node));
  const asking = question();
  root.append(
    h('p', { class: 'back' }, h('a', { href: '#/runs' }, `← ${t('run.back')}`)),
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('run.begin'))),
    h('p', { class: 'intro' }, t('run.intro')), form, asking.node,
  );

  function sameByHand() {
    const said = Object.entries({
      select, deadline, 'task-timeout': timeout, canary, batch, soak, 'max-failed': most, 'max-attempts': attempts,
    }).filter(([, it]) => it.value.trim());
    const given = said.flatMap(([flag, it]) => [`--${flag}`, it.value.trim()]);
    const behind = [...to.names().flatMap((it) => ['--to', it]), ...(later.checked ? ['--include-new'] : [])];
    const what = texts.value || '…';
    shell.set(ctl(state, 'run', ...given, ...behind, ...(NO_TEXT.test(what) ? ['--'] : []), what));
  }

  /** What to send, or null after saying what is wrong beside the field. */
  function request() {
    const wrong = (it, why) => invalid(it, note, why);
    for (const it of form.querySelectorAll('[aria-invalid]')) attribute(it, 'aria-invalid', null);
    const selector = select.value.trim();
    const named = to.names();
    if (!texts.value) return wrong(texts, t('submit.empty'));
    if (!selector && !named.length) return wrong(select, t('begin.nobody'));
    if (selector && named.length) return wrong(select, t('begin.either'));
    if (later.checked && !selector) return wrong(select, t('begin.later.select'));
    const times = [deadline, timeout, soak].map((it) => parseDuration(it.value) ?? 0);
    const noTime = [deadline, timeout, soak].find((_, i) => Number.isNaN(times[i]));
    if (noTime) return wrong(noTime, t('submit.bad_duration'));
    const shares = [canary, batch, most].map((it) => it.value.trim());
    const noShare = [canary, batch, most].find((_, i) => shares[i] && !SHARE.test(shares[i]));
    if (noShare) return wrong(noShare, t('begin.bad_share'));
    const rollout = { canary: shares[0], batch: shares[1], soak_ms: times[2], max_failed: shares[2] };
    return {
      text: texts.value, select: selector, to: named, include_new: later.checked, deadline_ms: times[0], timeout_ms: times[1], rollout,
      // As contactctl: what fails has failed, unless more is said.
      max_attempts: attempts.value ? Number(attempts.value) : 1,
    };
  }

  form.addEventListener('input', sameByHand);
  form.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  sends(form, next, note, request, async (wanted) => {
    const would = await post('/api/runs', { ...wanted, dry_run: true });
    if (await asking.agreed(would)) {
      const { run } = await post('/api/runs', wanted);
      go(`#/runs/${run}`);
    }
  });
  sameByHand();

  return {
    update(live) {
      if (!live.state) return;
      state = live.state;
      options(groups, state.groups.map((it) => it.group));
      sameByHand();
    },
  };
}

/** Names that are typed or chosen one after the other. Each becomes a button that takes it away again. */
function names(input, changed) {
  let chosen = [];
  const chips = h('span', { class: 'chips' });
  const buttons = keyed(chips, (name) => name, (name) => ({
    node: h('button', {
      type: 'button', class: 'chip', dir: 'auto', 'aria-label': t('begin.to.remove', name),
      onclick: () => {
        input.focus();
        set(chosen.filter((it) => it !== name));
      },
    }, `${name} ×`),
    update() {},
  }));
  const set = (next) => {
    chosen = next;
    buttons(chosen);
    show(chips, chosen.length > 0);
    changed();
  };
  /** With what stands in the field. */
  const all = () => [...new Set([...chosen, input.value.trim()])].filter(Boolean);
  const take = () => {
    const next = all();
    input.value = '';
    set(next);
  };
  // Not when the field is left: what comes after it would move away under the press that left it.
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    take();
  });
  // One that was chosen from the list.
  input.addEventListener('input', (event) => {
    if (!(event instanceof InputEvent) || event.inputType === 'insertReplacementText') take();
  });
  show(chips, false);
  return { node: h('div', { class: 'names' }, chips, input), names: all };
}

/** Says for how many a run is, and asks. */
function question() {
  const head = h('h2', { id: 'begin-asked' });
  const what = clipped('mono');
  const away = h('p', { class: 'hint' });
  const yes = h('button', { type: 'button', class: 'button primary', onclick: () => node.close('yes') });
  const no = h('button', { type: 'button', class: 'button', onclick: () => node.close() }, t('begin.no'));
  const node = h('dialog', { 'aria-labelledby': 'begin-asked' }, head, what.node, away, h('div', { class: 'doing' }, yes, no));
  return {
    node,
    agreed({ text: todo, targets, counts }) {
      const { offline = 0 } = counts;
      text(head, t('begin.sure', targets));
      what.set(todo);
      text(away, offline ? t('begin.away', offline, targets) : '');
      text(yes, t('begin.yes', targets));
      node.returnValue = '';
      node.showModal();
      return new Promise((answered) => node.addEventListener('close', () => answered(node.returnValue === 'yes'), { once: true }));
    },
  };
}
