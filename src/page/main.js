// The frame around the views: which one is shown, the line of contact, the switches, the keys.

import { attribute, h, show, svg, text } from './dom.js';
import { language, recall, remember, speak, t } from './i18n.js';
import { connect, follow, live } from './live.js';
import { command } from './parts.js';
import { judge, serverCommand } from './verdict.js';
import * as begin from './views/begin.js';
import * as clients from './views/clients.js';
import * as dead from './views/dead.js';
import * as groups from './views/groups.js';
import * as overview from './views/overview.js';
import { contactSentence } from './views/overview.js';
import * as runs from './views/runs.js';
import * as schedules from './views/schedules.js';
import * as submit from './views/submit.js';
import * as task from './views/task.js';
import * as tasks from './views/tasks.js';

const VIEWS = [
  { name: 'overview', hash: '#/', view: overview, icon: 'M3 10a7 7 0 0 1 14 0M10 10l3-3M3 14h14' },
  { name: 'groups', hash: '#/groups', view: groups, icon: 'M3 5h14M3 10h14M3 15h9' },
  { name: 'clients', hash: '#/clients', view: clients, icon: 'M3 4h14v9h-14zM7 17h6M10 13v4' },
  { name: 'tasks', hash: '#/tasks', view: tasks, icon: 'M4 5l1.5 1.5L8 4M4 11l1.5 1.5L8 10M11 5.5h6M11 11.5h6M11 16h6' },
  { name: 'runs', hash: '#/runs', view: runs, icon: 'M4 5h5M4 10h9M4 15h12M13 3l4 3-4 3' },
  { name: 'schedules', hash: '#/schedules', view: schedules, icon: 'M10 3a7 7 0 1 0 .01 0M10 6v4l3 2' },
  { name: 'dead', hash: '#/dead', view: dead, icon: 'M3 5h14v10h-14zM3 6l7 5 7-5' },
  { name: 'submit', hash: '#/submit', view: submit, icon: 'M10 4v12M4 10h12' },
];
/** Those whose name is too long for a phone. */
const SHORT = ['overview', 'schedules', 'dead', 'submit'];
const THEMES = ['auto', 'light', 'dark'];

const root = document.documentElement;
const frame = {};
let shown = { update() {} };
let announced = '';

const go = (hash) => {
  location.hash = hash;
};

function build() {
  const nav = h('nav', { class: 'views', 'aria-label': t('page.views') });
  frame.links = new Map();
  frame.count = h('span', { class: 'count' });
  for (const { name, hash, icon } of VIEWS) {
    const long = h('span', { class: 'long' }, t(`view.${name}`));
    const short = SHORT.includes(name) ? h('span', { class: 'short', 'aria-hidden': 'true' }, t(`view.${name}.short`)) : null;
    if (short) long.classList.add('has-short');
    const link = h('a', { href: hash },
      svg('svg', { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' }, svg('path', { d: icon })),
      long, short, name === 'dead' && frame.count);
    frame.links.set(name, link);
    nav.append(link);
  }
  frame.pill = h('a', { class: 'pill', href: '#/' }, h('span', { class: 'dot', 'aria-hidden': 'true' }), h('span', { class: 'pill-words' }), h('span', { class: 'pill-count', 'aria-hidden': 'true' }));
  frame.search = h('input', { type: 'search', 'aria-label': t('page.search'), placeholder: t('page.search'), autocomplete: 'off', spellcheck: 'false', 'aria-keyshortcuts': '/' });
  const search = h('form', { class: 'search', role: 'search', onsubmit: find }, frame.search, h('kbd', { 'aria-hidden': 'true' }, '/'));
  frame.theme = h('button', { type: 'button', class: 'tool', onclick: nextTheme }, themeIcon());
  const speech = h('button', {
    type: 'button', class: 'tool words', title: t('page.language.title'), lang: language() === 'zh' ? 'en' : 'zh-Hans',
    onclick: () => {
      speak(language() === 'zh' ? 'en' : 'zh');
      build();
      route(false);
    },
  }, t('page.language'));
  const keys = h('button', { type: 'button', class: 'tool', 'aria-label': t('page.keys'), title: t('page.keys'), onclick: () => frame.keys.showModal() }, '?');
  frame.main = h('main', { id: 'main', tabindex: '-1' });
  frame.lost = h('div', { class: 'lost-strip' });
  frame.lostText = h('span', {});
  frame.lostShell = command();
  frame.lost.append(h('strong', {}, frame.lostText), h('span', {}, t('contact.lost.hint')), frame.lostShell.node);
  frame.said = h('p', { class: 'visually-hidden', role: 'status', 'aria-live': 'polite' });
  frame.keys = keysDialog();
  document.body.replaceChildren(
    h('a', { class: 'skip', href: '#main', onclick: (event) => {
      // The hash is the view's address, so the link cannot have it.
      event.preventDefault();
      frame.main.focus();
    } }, t('page.skip')),
    h('header', {}, h('div', { class: 'bar' },
      h('a', { class: 'brand', href: '#/' }, brandIcon(), 'Contact'), nav, frame.pill, search,
      h('div', { class: 'tools' }, speech, frame.theme, keys))),
    frame.lost, frame.main, frame.said, frame.keys,
  );
  theme();
  contact();
}

function brandIcon() {
  return svg('svg', { viewBox: '0 0 20 20', class: 'icon brand-icon', 'aria-hidden': 'true' },
    svg('circle', { cx: 5, cy: 10, r: 2.5, class: 'solid' }),
    svg('path', { d: 'M9.5 6a5.6 5.6 0 0 1 0 8M12.5 3.5a9.2 9.2 0 0 1 0 13' }));
}

function themeIcon() {
  return svg('svg', { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' },
    svg('circle', { cx: 10, cy: 10, r: 6.5 }), svg('path', { class: 'solid', d: 'M10 3.5a6.5 6.5 0 0 1 0 13z' }));
}

function keysDialog() {
  const on = h('input', { type: 'checkbox', checked: keysOn(), onchange: () => remember('contact-keys', on.checked ? 'on' : 'off') });
  const row = (keys, what) => h('div', {}, h('dt', {}, keys.map((it) => h('kbd', {}, it))), h('dd', {}, what));
  const close = h('button', { type: 'button', class: 'button', onclick: () => frame.keys.close() }, t('keys.close'));
  return h('dialog', { class: 'keys', 'aria-labelledby': 'keys-title' },
    h('h2', { id: 'keys-title' }, t('keys.title')),
    h('dl', {}, row(['1', '…', String(VIEWS.length)], t('keys.views')), row(['/'], t('keys.search')), row(['?'], t('keys.help')), row(['Esc'], t('keys.escape'))),
    h('label', {}, on, ' ', t('keys.on')), close);
}

const keysOn = () => recall('contact-keys') !== 'off';

function find(event) {
  event.preventDefault();
  const wanted = frame.search.value.trim();
  if (!wanted) return;
  frame.search.value = '';
  go(/^#?\d+$/.test(wanted) ? `#/tasks/${wanted.replace('#', '')}` : `#/clients?q=${encodeURIComponent(wanted)}`);
}

/** `#/tasks/17`, `#/clients?q=x`: a deep link is a view and what it is about. */
function route(focus = true) {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, id] = path.split('/');
  const params = Object.fromEntries(new URLSearchParams(query ?? ''));
  const entry = VIEWS.find((it) => it.name === (name || 'overview'));
  shown.destroy?.();
  frame.main.replaceChildren();
  const one = id && about(entry?.name, id);
  if (!entry || (id && !one)) {
    frame.main.append(h('h1', { tabindex: '-1' }, t('route.unknown')));
    shown = { update() {} };
  } else {
    shown = (one ?? entry.view.mount)(frame.main, params, go);
  }
  for (const [key, link] of frame.links) attribute(link, 'aria-current', key === entry?.name && 'page');
  attribute(root, 'data-view', entry?.name);
  title();
  shown.update(live);
  if (focus) {
    scrollTo(0, 0);
    frame.main.querySelector('h1')?.focus({ preventScroll: true });
  }
}

/** What mounts one of a view's things: `tasks/17`, `runs/17`, `runs/new`. Undefined: there is no such thing. */
function about(view, id) {
  const one = { tasks: task.mount, runs: runs.mountOne }[view];
  if (view === 'runs' && id === 'new') return begin.mount;
  return one && /^\d+$/.test(id) ? (main) => one(main, Number(id)) : undefined;
}

/** The level and what is wrong, without the figures, which change all the time. */
function judged() {
  if (live.contact !== 'live' || !live.state) return { level: live.contact, count: 0, issues: [], headline: contactSentence(live) };
  return judge(live.state);
}

function contact() {
  const { level, count, issues, headline } = judged();
  attribute(root, 'data-contact', live.contact);
  attribute(frame.pill, 'data-level', level);
  text(frame.pill.lastChild, count > 0 ? count : { well: '✓', lost: '✕' }[level] ?? '');
  text(frame.pill.children[1], {
    well: t('pill.well'), first: t('pill.first'), opening: t('contact.opening'), lost: t('pill.lost'),
  }[level] ?? t('pill.issues', count));
  show(frame.lost, live.contact === 'lost' && Boolean(live.heard));
  text(frame.lostText, contactSentence(live));
  frame.lostShell.set(serverCommand(live.state));
  const letters = live.state?.totals.dead ?? 0;
  text(frame.count, letters > 999 ? '999+' : letters);
  show(frame.count, letters > 0);
  // Said aloud only when the judgement is another one. A tab that is looked at again has none for a moment.
  const kinds = `${level} ${issues.map((it) => it.kind)}`;
  if (level !== 'opening' && kinds !== announced) {
    announced = kinds;
    text(frame.said, headline);
  }
  title(level, count);
}

function title(level, count) {
  const mark = { well: '✓ ', lost: '✕ ', watch: `! ${count} · `, wrong: `✕ ${count} · ` }[level ?? judged().level] ?? '';
  const heading = frame.main.querySelector('h1')?.textContent;
  const place = location.hash.length > 2 && heading ? `${heading} · ` : '';
  const next = `${mark}${place}Contact`;
  if (document.title !== next) document.title = next;
}

function theme() {
  const name = root.dataset.theme ?? 'auto';
  attribute(frame.theme, 'title', t(`page.theme.${name}`));
  attribute(frame.theme, 'aria-label', t(`page.theme.${name}`));
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? 'auto') + 1) % THEMES.length];
  if (next === 'auto') delete root.dataset.theme;
  else root.dataset.theme = next;
  remember('contact-theme', next);
  theme();
  shown.recolour?.();
}

addEventListener('keydown', (event) => {
  const field = event.target.closest?.('input, textarea, select');
  if (event.key === 'Escape' && field) field.blur();
  if (field || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]') || !keysOn()) return;
  if (event.key === '/') frame.search.focus();
  else if (event.key === '?') frame.keys.showModal();
  else if (VIEWS[event.key - 1]) go(VIEWS[event.key - 1].hash);
  else return;
  event.preventDefault();
});
addEventListener('hashchange', () => route());
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => shown.recolour?.());
document.addEventListener('visibilitychange', () => draw());

function draw() {
  // In a tab that nobody looks at the judgement leaves the title, since it is not known any more.
  contact();
  if (!document.hidden) shown.update(live);
}

build();
route(false);
follow(draw);
connect();
