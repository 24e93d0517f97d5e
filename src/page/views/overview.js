// The first view: the verdict in words, the key figures, the charts, and the rest in short.

import { chart, spanChoice } from '../charts.js';
import { attribute, h, keyed, show, text } from '../dom.js';
import { bytes, clock, count, duration, latency, moment, rate } from '../format.js';
import { t } from '../i18n.js';
import { post } from '../api.js';
import { action, command, section } from '../parts.js';
import { client, ctl, judge, serverCommand } from '../verdict.js';
import { clientTable } from './clients.js';
import { serversPart } from './servers.js';
import { groupTable } from './groups.js';
import { taskTable } from './tasks.js';

const SHORT = 6;

export function mount(root) {
  const verdict = verdictPart();
  const first = firstSteps();
  const figures = figuresPart();
  const charts = ['throughput', 'latency', 'backlog'].map(chart);
  const groups = groupTable({ short: true });
  const clients = clientTable({ short: true });
  const tasks = taskTable();
  const servers = serversPart();
  const server = serverPart();
  const groupsSection = more(section(t('view.groups'), groups.node), '#/groups', t('list.all.groups'));
  const clientsSection = more(section(t('view.clients'), clients.node), '#/clients', t('list.all.clients'));
  const tasksSection = more(section(t('view.tasks'), tasks.node), '#/tasks', t('list.all.tasks'));
  const span = spanChoice(() => charts.forEach((it) => it.update()));
  const chartsNode = section(t('chart.title'), h('div', { class: 'charts' }, charts.map((it) => it.node)));
  chartsNode.classList.add('fresh');
  chartsNode.firstChild.append(span);
  root.append(
    verdict.node, first.node, figures.node, chartsNode,
    h('div', { class: 'pair fresh' }, groupsSection, clientsSection),
    h('div', { class: 'fresh' }, tasksSection),
    h('div', { class: 'fresh' }, servers.node),
    h('div', { class: 'fresh' }, server.node),
  );
  return {
    update(live) {
      verdict.update(live);
      const { state } = live;
      show(figures.node, Boolean(state));
      show(chartsNode, Boolean(state));
      show(server.node, Boolean(state));
      show(servers.node, false);
      show(first.node, false);
      show(groupsSection, Boolean(state?.groups.length));
      show(clientsSection, Boolean(state?.clients.length));
      show(tasksSection, Boolean(state?.recent.length));
      if (!state) return;
      const fresh = judge(state).level === 'first';
      first.update(state, fresh && live.contact === 'live');
      show(chartsNode, !fresh);
      figures.update(state);
      for (const it of charts) it.update();
      groups.update(state.groups.slice(0, SHORT), state);
      clients.update(state.clients.slice(0, SHORT), state);
      tasks.update(state.recent.slice(0, SHORT + 2), state);
      servers.update(state);
      server.update(state);
    },
    recolour: () => charts.forEach((it) => it.recolour()),
    destroy: () => charts.forEach((it) => it.destroy()),
  };
}

function more(node, href, label) {
  node.firstChild.append(h('a', { href, class: 'more' }, label));
  return node;
}

/** The sentence, and below it what can be done about each thing that is wrong. */
function verdictPart() {
  const headline = h('h1', { tabindex: '-1', dir: 'auto' });
  const mark = h('span', { class: 'mark', 'aria-hidden': 'true' });
  const note = h('p', { class: 'verdict-note' });
  const list = h('ul', { class: 'issues' });
  const node = h('section', { class: 'verdict' }, mark, h('div', { class: 'verdict-body' }, headline, note, list));
  const issues = keyed(list, (it) => `${it.kind} ${it.link ?? ''} ${it.resume ?? ''}`, issuePart);
  return {
    node,
    update(live) {
      const { state, contact } = live;
      const judged = contact === 'live' && state ? judge(state) : null;
      const level = judged?.level ?? (contact === 'lost' ? 'lost' : 'opening');
      attribute(node, 'data-level', level);
      text(mark, { well: '✓', first: '→', watch: '!', wrong: '✕', lost: '✕', opening: '…' }[level]);
      text(headline, judged?.headline ?? contactSentence(live));
      text(note, level === 'well' ? t('verdict.note.well') : level === 'lost' && state ? t('contact.lost.hint') : '');
      show(note, note.textContent !== '');
      const alone = judged?.issues.length === 1 && judged.count === 1;
      issues(
        judged
          ? judged.issues.map((it) => ({ ...it, alone }))
          : level === 'lost' ? [{ kind: 'lost', alone: true, command: serverCommand(state) }] : [],
      );
    },
  };
}

/** Where contact stands, in words. */
export function contactSentence({ contact, heard }) {
  if (contact === 'opening') return t('contact.opening');
  return heard ? t('contact.lost', clock(heard)) : t('contact.never');
}

function issuePart(issue) {
  const sentence = h('span', { class: 'issue-text', dir: 'auto' });
  const help = h('span', { class: 'issue-help' });
  const shell = command();
  const link = h('a', { class: 'button' });
  const resume = issue.resume && action({
    label: t('group.resume'),
    run: () => post('/api/groups/pause', { group: issue.resume, paused: false }).then(() => ''),
  });
  const node = h('li', { class: 'issue' }, h('span', { class: 'issue-said' }, sentence, help), h('span', { class: 'issue-do' }, resume?.node, shell.node, link));
  return {
    node,
    update(next) {
      text(sentence, next.text ?? '');
      // Alone, the sentence is the headline already.
      show(sentence, !next.alone);
      text(help, next.help ?? '');
      show(help, Boolean(next.help));
      show(shell.node, Boolean(next.command));
      if (next.command) shell.set(next.command);
      show(link, Boolean(next.link));
      if (next.link) {
        attribute(link, 'href', next.link);
        text(link, t('issue.look'));
      }
    },
  };
}

/** Before anything has happened: what to do first, ticked off as it is done. */
function firstSteps() {
  const shellClient = command();
  const shellSubmit = command();
  const link = h('a', { href: '#/submit' }, t('first.submit.link'));
  const [before, after] = t('first.submit.note', '\0').split('\0');
  const step = (title, note, shell) => {
    const done = h('span', { class: 'badge good' }, t('first.done'));
    return { done, node: h('li', {}, h('h2', {}, title, ' ', done), h('p', {}, note), shell.node) };
  };
  const one = step(t('first.client'), t('first.client.note'), shellClient);
  const two = step(t('first.submit'), [before, link, after], shellSubmit);
  const node = h('ol', { class: 'first' }, one.node, two.node);
  return {
    node,
    update(state, visible) {
      show(node, visible);
      shellClient.set(client(state));
      shellSubmit.set(ctl(state, 'submit', 'hello', 'world'));
      show(one.done, state.totals.clients > 0);
      show(two.done, state.totals.tasks > 0);
    },
  };
}

function figuresPart() {
  const figure = (key, href) => {
    const value = h('span', { class: 'figure-value' });
    const note = h('span', { class: 'figure-note' });
    const node = h('a', { href, class: 'figure' }, h('span', { class: 'figure-name' }, t(`figure.${key}`)), value, note);
    return {
      node,
      set(number, remark, tone = '') {
        text(value, number);
        text(note, remark);
        node.className = `figure ${tone}`;
      },
    };
  };
  const clients = figure('clients', '#/clients');
  const waiting = figure('waiting', '#/groups');
  const flight = figure('flight', '#/clients');
  const settled = figure('settled', '#/tasks');
  const wait = figure('wait', '#/tasks');
  const dead = figure('dead', '#/dead');
  const all = [clients, waiting, flight, settled, wait, dead];
  return {
    node: h('nav', { class: 'figures fresh', 'aria-label': t('view.overview') }, all.map((it) => it.node)),
    update({ at, totals, point, groups }) {
      const queue = Math.max(0, totals.lag - totals.in_flight);
      const oldest = groups.reduce((least, it) => (it.oldest_at && it.lag > it.in_flight ? Math.min(least, it.oldest_at) : least), Infinity);
      clients.set(count(totals.clients), t('figure.clients.note', totals.groups));
      waiting.set(count(queue), queue && oldest < at ? t('figure.waiting.note', duration(at - oldest)) : queue ? '' : t('figure.waiting.none'));
      flight.set(count(totals.in_flight), t('figure.flight.note'));
      settled.set(rate(point.settled), t('figure.settled.note', totals.results));
      wait.set(latency(point.wait_p50_ms), t(point.wait_p50_ms === null ? 'figure.wait.none' : 'figure.wait.note'));
      dead.set(count(totals.dead), t(totals.dead ? 'figure.dead.note' : 'figure.dead.none'), totals.dead ? 'alert' : '');
    },
  };
}

function serverPart() {
  const fact = (key) => {
    const value = h('dd', { dir: 'auto' });
    return { node: h('div', {}, h('dt', {}, t(`server.${key}`)), value), value };
  };
  const keys = ['version', 'up', 'listen', 'control', 'data', 'store', 'free', 'commit', 'lease', 'attempts', 'tasks', 'statuses'];
  const facts = Object.fromEntries(keys.map((key) => [key, fact(key)]));
  const node = section(t('server.title'), h('dl', { class: 'facts' }, keys.map((key) => facts[key].node)));
  return {
    node,
    update({ server, totals, point }) {
      const set = (key, value) => text(facts[key].value, value);
      set('version', server.version);
      set('up', moment(server.started_at));
      attribute(facts.up.value, 'title', new Date(server.started_at).toISOString());
      set('listen', server.listen);
      set('control', server.control);
      set('data', server.data);
      set('store', bytes(server.store_bytes));
      set('free', bytes(server.disk_free_bytes));
      set('commit', latency(point.commit_p99_ms));
      set('lease', duration(server.ack_timeout_ms));
      set('attempts', count(server.max_attempts));
      set('tasks', count(totals.tasks));
      set('statuses', count(totals.statuses));
    },
  };
}
