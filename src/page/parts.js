// The small things that every view is made of: commands to copy, buttons that say what failed, times, badges, tables.

import { attribute, h, keyed, show, svg, text } from './dom.js';
import { clock, duration, iso, moment, percent } from './format.js';
import { t } from './i18n.js';
import { now } from './live.js';

/** A command, and a button that copies it. `set(command)` changes it. */
export function command(initial = '', { quiet = false } = {}) {
  const code = h('code', {});
  const button = h('button', { type: 'button', class: 'copy' }, copyIcon(), h('span', { class: 'copy-word' }));
  const node = h('span', { class: quiet ? 'command quiet' : 'command' }, code, button);
  const word = button.lastChild;
  let timer = 0;
  button.addEventListener('click', async () => {
    await copy(code.textContent);
    text(word, t('command.copied'));
    node.classList.add('copied');
    clearTimeout(timer);
    timer = setTimeout(() => {
      text(word, t('command.copy'));
      node.classList.remove('copied');
    }, 1500);
  });
  text(word, t('command.copy'));
  const set = (value) => {
    text(code, value);
    attribute(button, 'title', t('command.copy.title', value));
    attribute(button, 'aria-label', t('command.copy.title', value));
  };
  set(initial);
  return { node, set };
}

async function copy(value) {
  try {
    await navigator.clipboard.writeText(value);
  } catch {
    // Only what comes by HTTPS or from this machine has a clipboard; elsewhere the old way is left.
    const area = h('textarea', { class: 'visually-hidden', value });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    focused?.focus();
  }
}

function copyIcon() {
  return svg('svg', { viewBox: '0 0 16 16', class: 'icon', 'aria-hidden': 'true' },
    svg('rect', { x: 5.5, y: 5.5, width: 8, height: 8, rx: 1.5 }),
    svg('path', { d: 'M10.5 5.5v-1.5a1.5 1.5 0 0 0-1.5-1.5h-5a1.5 1.5 0 0 0-1.5 1.5v5a1.5 1.5 0 0 0 1.5 1.5h1.5' }));
}

/** A button that is at it takes no second press. It is not disabled: that would take the focus away from it. */
const busy = (button, is) => attribute(button, 'aria-disabled', is && 'true');
const isBusy = (button) => button.getAttribute('aria-disabled') === 'true';

/** Does what a button is for: `run` returns what `note` says then, and what fails is said there, too. */
async function attempt(button, note, run) {
  busy(button, true);
  note.className = 'note';
  text(note, '');
  try {
    text(note, (await run()) ?? '');
  } catch (error) {
    note.className = 'note failed';
    text(note, t('action.failed', error.message));
  }
  busy(button, false);
}

/** Has a form sent by its button: `request` returns what is wanted, or null after saying what is wrong; `send` is as `run` of `attempt`. */
export function sends(form, button, note, request, send) {
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const wanted = isBusy(button) ? null : request();
    if (wanted) await attempt(button, note, () => send(wanted));
  });
}

/**
 * A button that does something on the server. What the server refuses stands beside it, in the server's words; what went
 * well too, if `run` returns a sentence. With `sure`, it asks once more.
 */
export function action({ label, sure, run, style = '' }) {
  const button = h('button', { type: 'button', class: `button ${style}` }, label);
  const note = h('span', { class: 'note', role: 'status' });
  const node = h('span', { class: 'action' }, button, note);
  let asked = 0;
  const calm = () => {
    clearTimeout(asked);
    asked = 0;
    button.classList.remove('sure');
    text(button, label);
  };
  button.addEventListener('blur', calm);
  button.addEventListener('click', async () => {
    if (isBusy(button)) return;
    if (sure && !asked) {
      asked = setTimeout(calm, 5000);
      button.classList.add('sure');
      text(button, sure);
      return;
    }
    calm();
    await attempt(button, note, () => run((progress) => text(note, progress)));
  });
  const set = (next, nextSure = sure) => {
    // What is being asked stands until it is answered.
    if (label !== next) calm();
    else if (asked) return;
    [label, sure] = [next, nextSure];
    text(button, label);
  };
  return { node, button, set };
}

/** A time with ISO as its title. `as` is `clock`, `moment`, `ago` or `for`. */
export function time(as = 'ago') {
  const node = h('time', {});
  return {
    node,
    set(at) {
      show(node, Boolean(at));
      if (!at) return;
      attribute(node, 'datetime', iso(at));
      attribute(node, 'title', iso(at));
      const age = now() - at;
      const write = {
        clock, moment,
        ago: () => (age < 1000 ? t('time.now') : t('time.ago', duration(age))),
        for: () => duration(age),
      };
      text(node, write[as](at));
    },
  };
}

/** A word in a coloured shape: the word says it, the colour only helps. */
export function badge() {
  const node = h('span', { class: 'badge' });
  return {
    node,
    set(kind, word) {
      show(node, Boolean(word));
      node.className = `badge ${kind}`;
      text(node, word ?? '');
    },
  };
}

const TONES = {
  waiting: 'idle', 'in flight': 'busy', settled: 'good', dead: 'bad',
  DONE: 'good', RETRY: 'warn', FAILED: 'bad', LOST: 'warn', TIMED_OUT: 'warn', EXHAUSTED: 'bad', EXPIRED: 'warn',
  CANCELLED: 'idle', REVIVED: 'busy', DROPPED: 'idle', RELEASED: 'idle', NOT_SELECTED: 'idle', REPLACED: 'idle',
};

/** For whom a task is. */
export function audience(task) {
  if (task.to !== null) return task.to;
  if (task.groups) return task.groups.join(', ');
  return task.select ? t('task.select', task.select) : t('group.everyone');
}

/** A badge for an outcome. */
export function outcome() {
  const it = badge();
  return { node: it.node, set: (name) => it.set(TONES[name] ?? 'idle', name && t(`outcome.${name}`)) };
}

/** A badge for a state; how it was settled is worth more than that it was. */
export function standing() {
  const it = badge();
  const set = (state, last) => {
    // The last outcome of a task that is dead may be another group's.
    const telling = last && (state === 'settled' || (state === 'dead' && TONES[last] === 'bad'));
    it.set(TONES[telling ? last : state] ?? 'idle', state && t(telling ? `outcome.${last}` : `state.${state}`));
  };
  return { node: it.node, set };
}

/** A text that may be long: some lines of it, and a button that shows all. */
export function clipped(className = '') {
  const body = h('span', { class: `clip ${className}`, dir: 'auto' });
  const button = h('button', { type: 'button', class: 'linklike', 'aria-expanded': 'false' });
  const node = h('span', { class: 'clipped' }, body, button);
  let open = false;
  const draw = () => {
    body.classList.toggle('open', open);
    attribute(button, 'aria-expanded', String(open));
    text(button, t(open ? 'clip.less' : 'clip.more'));
  };
  button.addEventListener('click', () => {
    open = !open;
    draw();
  });
  draw();
  return {
    node,
    set(value) {
      // The end of the last line is none of its lines.
      const shown = (value ?? '').trimEnd();
      text(body, shown);
      show(button, shown.length > 120 || shown.split('\n').length > 2);
    },
  };
}

/**
 * A table that keeps itself in step with its items. A column is `{ head, title, num, wide, bare, cell(td) }`, where `cell` fills the
 * cell once and returns what updates it. On a narrow screen each row is a card, and each cell says what it is.
 */
export function table(columns, { keyOf, label, rowClass = () => '' }) {
  const head = h('tr', {}, columns.map((it) =>
    h('th', { scope: 'col', class: it.num && 'num', title: it.title }, it.head)));
  const body = h('tbody', {});
  const node = h('table', { 'aria-label': label }, h('thead', {}, head), body);
  const update = keyed(body, keyOf, (item) => {
    const tr = h('tr', {});
    const cells = columns.map((it) => {
      const td = h('td', { class: [it.num && 'num', it.wide && 'wide'].filter(Boolean).join(' '), 'data-label': it.bare ? null : it.head });
      tr.append(td);
      return it.cell(td, item);
    });
    return {
      node: tr,
      update(next) {
        const name = rowClass(next);
        if (tr.className !== name) tr.className = name;
        for (const cell of cells) cell(next);
      },
    };
  });
  return { node, update };
}

/** Puts names into a list that a field offers, when they have changed. */
export function options(list, names, option = (value) => h('option', { value })) {
  const key = names.join('\n');
  if (list.dataset.names === key) return;
  list.dataset.names = key;
  list.replaceChildren(...names.map(option));
}

/** A cell that is a text. */
export const words = (of) => (td) => (item) => text(td, of(item));

/** How far the work on a task is, as its client said: per cent, and words. Empty: it said nothing. */
export const howFar = ({ said, progress }) => [progress == null ? '' : percent(progress), said ?? ''].join(' ').trim();

/** gRPC writes `ipv4:10.0.0.1:4711` and `ipv6:%5B::1%5D:4711`. Other names stay as they are. */
export function address(peer) {
  if (!/^ipv[46]:/.test(peer)) return peer;
  const bare = peer.replace(/^ipv[46]:/, '');
  try {
    return decodeURIComponent(bare);
  } catch {
    return bare;
  }
}

/**
 * One of the facts about a thing: `{ key, value }`, or `{ key, at }` for a time; with `label` instead of what the key is called, and with `href` where
 * it is a file to be saved.
 */
export function factRow(fact) {
  const at = fact.at ? time('moment') : null;
  // Data is saved, and never shown: what is in it, somebody else wrote.
  const link = fact.href ? h('a', { href: fact.href, download: '' }) : null;
  const value = h('dd', { dir: 'auto' }, at?.node ?? link);
  return {
    node: h('div', {}, h('dt', {}, fact.label ?? t(fact.key)), value),
    update(next) {
      if (at) at.set(next.at);
      else text(link ?? value, next.value);
    },
  };
}

/** A field of a form with its label, and what it is for. */
export const field = (id, label, input, hint) =>
  h('div', { class: 'field' }, h('label', { for: id }, label), input, hint ?? h('span', { class: 'hint', id: `${id}-hint` }, t(`${id.replace('-', '.')}.hint`)));

/** Says in `note` what is wrong with a field, and leads there. */
export function invalid(input, note, why) {
  attribute(input, 'aria-invalid', 'true');
  note.className = 'note failed';
  text(note, why);
  input.closest('details')?.setAttribute('open', '');
  input.focus();
  return null;
}

/** A section with a heading, and a link beside it. */
export function section(title, ...children) {
  return h('section', {}, h('div', { class: 'section-head' }, h('h2', {}, title)), ...children);
}
