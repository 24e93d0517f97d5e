// What the server found, in words, each with the command that changes it. Pure: a state goes in, a judgement comes out.

import { t } from './i18n.js';
import { bytes, duration, quoted } from './format.js';

/** `contactctl`, with the address of this server where that is not the one it tries anyway. */
export function ctl(state, ...words) {
  // Behind `--` it would be a text.
  const end = words.includes('--') ? words.indexOf('--') : words.length;
  const server = address('--server', state?.server.control, '127.0.0.1:50052');
  return ['contactctl', ...words.slice(0, end).map(quoted), ...server, ...words.slice(end).map(quoted)].join(' ');
}

/** A client that makes or joins a group; what it runs is an example. One of no certain group is to find what is there already. */
export function client(state, group, flag = '--group') {
  const server = address('--server', state?.server.listen, '127.0.0.1:50051');
  const name = group === undefined ? ['workers', '--from', 'first'] : [quoted(group)];
  return ['contact-client', ...server, flag, ...name, '--exec', `'tr a-z A-Z'`].join(' ');
}

function address(flag, at, usual) {
  if (!at || at === usual) return [];
  // What listens everywhere is reached as this page was.
  return [flag, quoted(at.replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname))];
}

/** How the server is started again on its data. */
export const serverCommand = (state) =>
  ['contact-server', ...(state ? ['--data', quoted(state.server.data)] : [])].join(' ');

/**
 * The judgement: `{ level, headline, issues, count }`. Level is `wrong` (the server does not work, or is about not to), `watch`,
 * `first` (nothing has happened yet) or `well`. An issue is `{ kind, level, text, help, command, link, resume }`, the gravest
 * first.
 */
export function judge(state) {
  const { totals, findings } = state;
  const issues = findings.filter((it) => it.severity !== 'note').flatMap((it) => issuesOf(it, state));
  if (issues.length) {
    const count = issues.reduce((sum, issue) => sum + (issue.count ?? 1), 0);
    return { level: issues[0].level, headline: count === 1 ? issues[0].text : t('verdict.many', count), issues, count };
  }
  if (findings.length) return { level: 'first', headline: t('verdict.first'), issues, count: 0 };
  const queue = totals.lag - totals.in_flight;
  const headline =
    queue > 0
      ? t('verdict.well.queue', totals.clients, queue)
      : totals.in_flight > 0
        ? t('verdict.well.busy', totals.clients, totals.in_flight)
        : t('verdict.well.idle', totals.clients);
  return { level: 'well', headline, issues, count: 0 };
}

/** The issue that a finding is, and the one that stands for those that are left out. */
function issuesOf(found, state) {
  const level = found.severity === 'failure' ? 'wrong' : 'watch';
  const issues = [{ kind: found.code, level, ...WORDS[found.code](found, state) }];
  if (found.more > 0) {
    issues.push({
      kind: `${found.code}.more`, level, text: t('verdict.more', found.more), count: found.more,
      link: { dead_letters: '#/dead', schedule: '#/schedules' }[found.code] ?? '#/groups',
    });
  }
  return issues;
}

/** By code: what an issue says, and where it leads. What the fields of a finding mean stands in src/server/operator/findings.rs. */
const WORDS = {
  not_ready: ({ text }, state) => ({
    text: t('issue.not_ready', text), help: t('issue.not_ready.help'), command: serverCommand(state),
  }),
  disk: ({ count, limit }, { server }) => ({
    text: t('issue.disk', bytes(count), count < limit / 2 ? 2 : Number(count < limit)), help: t('issue.disk.help'),
    command: `contact-server --data ${quoted(server.data)} --retain 1d`,
  }),
  open_files: ({ count, limit }) => ({
    text: t('issue.open_files', count, limit), help: t('issue.open_files.help'), command: `ulimit -n ${limit * 4}`,
  }),
  clock: ({ millis, limit, text }, state) => ({
    text: t('issue.clock', duration(millis), text === 'behind', duration(limit)), help: t('issue.clock.help'),
    command: ctl(state, 'clock', 'accept'),
  }),
  certificate: ({ millis, text }) => ({
    text: t('issue.certificate', duration(millis), text), help: t('issue.certificate.help'),
  }),
  never_came: ({ group, count, task, text }, state) => ({
    text: t('issue.never_came', group, count), help: t('issue.never_came.help', text),
    command: client(state, group), link: `#/tasks/${task}`,
  }),
  unserved: ({ group, count }, state) => {
    // A group that is named like a client of its own is that client.
    const own = state.clients.some((it) => it.client === group && it.group === group);
    return {
      text: t('issue.unserved', group, count), help: t('issue.unserved.help'),
      command: client(state, group, own ? '--id' : '--group'), link: `#/groups?q=${encodeURIComponent(group)}`,
    };
  },
  paused: ({ group, count }, state) => ({
    text: t('issue.paused', group, count), command: ctl(state, 'resume', group), resume: group,
  }),
  drained: ({ group, count, millis }, state) => {
    const one = state.clients.find((it) => it.group === group && it.draining && !it.draining.stopping);
    return {
      text: t('issue.drained', group, count, duration(millis)), help: t('issue.drained.help'),
      command: one ? ctl(state, 'undrain', one.client ?? one.peer) : client(state, group),
      link: `#/clients?q=${encodeURIComponent(group)}`,
    };
  },
  hanging: ({ group, count, task, millis }, state) => ({
    text: t('issue.hanging', group, count, duration(millis)), help: t('issue.hanging.help'),
    command: ctl(state, 'task', task), link: `#/tasks/${task}`,
  }),
  stuck: ({ group, count, millis }, state) => ({
    text: t('issue.stuck', group, count, duration(millis)), help: t('issue.stuck.help'),
    command: ctl(state, 'clients'), link: `#/clients?q=${encodeURIComponent(group)}`,
  }),
  lagging: ({ group, count, millis }, state) => ({
    text: t('issue.lagging', group, count, duration(millis)), help: t('issue.lagging.help'),
    command: client(state, group), link: `#/clients?q=${encodeURIComponent(group)}`,
  }),
  expired: ({ group, count, millis }, state) => ({
    text: t('issue.expired', group, count, duration(millis)), help: t('issue.expired.help'),
    command: ctl(state, 'tasks', '--state', 'expired'), link: `#/groups?q=${encodeURIComponent(group)}`,
  }),
  dead_letters: ({ group, count }, state) => ({
    text: t('issue.dead_letters', count, group), help: t('issue.dead_letters.help'),
    command: ctl(state, 'dead', '--group', group), link: `#/dead?group=${encodeURIComponent(group)}`,
  }),
  retention: ({ group, task, millis, limit }, state) => ({
    text: t('issue.retention', group, task, duration(millis)),
    help: limit ? t('issue.retention.ends', duration(limit)) : t('issue.retention.help'),
    command: ctl(state, 'cancel', task), link: `#/tasks/${task}`,
  }),
  store_size: ({ count, limit }, state) => ({
    text: t('issue.store_size', bytes(count), bytes(limit)), help: t('issue.store_size.help'),
    command: ctl(state, 'groups'), link: '#/groups',
  }),
  groups: ({ count, limit }, state) => ({
    text: t('issue.groups', count, limit), help: t('issue.groups.help'), command: ctl(state, 'groups'), link: '#/groups',
  }),
  unmatched: ({ count, millis }, state) => ({
    text: t('issue.unmatched', count, duration(millis)), help: t('issue.unmatched.help'), command: ctl(state, 'clients'), link: '#/clients',
  }),
  contested: ({ text: id, count, millis }, state) => ({
    text: t('issue.contested', id, count, duration(millis)), help: t('issue.contested.help'), command: ctl(state, 'clients'),
    link: `#/clients?q=${encodeURIComponent(id)}`,
  }),
  missing: ({ group, millis }, state) => ({
    text: t('issue.missing', group, duration(millis)), help: t('issue.missing.help'), command: ctl(state, 'clients', '--offline', '3d'),
  }),
  standby: ({ count, text }, state) => ({
    text: t('issue.standby', count, text), help: t('issue.standby.help'), command: ctl(state, 'servers'),
  }),
  replicas: ({ count, limit, text }, state) => ({
    text: t('issue.replicas', count, limit, text), help: t('issue.replicas.help'), command: ctl(state, 'servers'),
  }),
  log: ({ text }, state) => ({ text: t('issue.log', text), help: t('issue.log.help'), command: ctl(state, 'servers') }),
  versions: ({ text }, state) => ({
    text: t('issue.versions', text), help: t('issue.versions.help'), command: ctl(state, 'servers'),
  }),
  clocks: ({ text, millis, limit }, state) => ({
    text: t('issue.clocks', text, duration(millis), limit > 0), help: t('issue.clocks.help'), command: ctl(state, 'servers'),
  }),
  behind: ({ text, count }, state) => ({
    text: t('issue.behind', text, count), help: t('issue.behind.help'), command: ctl(state, 'servers'),
  }),
  schedule: ({ text: name }, state) => ({
    text: t('issue.schedule', name), help: t('issue.schedule.help'), command: ctl(state, 'schedule', 'show', name), link: '#/schedules',
  }),
  quiet: (_, state) => ({ text: t('issue.quiet'), help: t('issue.quiet.help'), command: client(state) }),
};
