// Whether the fleet is all right, and if not, with which command to change it. Pure: a state goes in, a judgement comes out.

import { t } from './i18n.js';
import { bytes, duration, quoted } from './format.js';

/** A backlog that takes longer than this, at the pace of the last ten seconds, is worth a word. */
const BEHIND = 60_000;
/** So is the oldest task, where nothing at all gets settled. */
const STUCK = 300_000;
const DISK_LOW = 1e9;
const DISK_FULL = 2e8;
/** Issues of one kind that are shown one by one. */
const EACH = 3;
/** A client that comes back sooner than this was never missed. */
const MISSED = 5000;

/** `contactctl`, with the address of this server where that is not the one it tries anyway. */
export function ctl(state, ...words) {
  return ['contactctl', ...words.map(quoted), ...address('--server', state?.server.control, '127.0.0.1:50052')].join(' ');
}

/** A client that makes or joins a group; what it runs is an example. */
export function client(state, group = 'workers', flag = '--group') {
  const server = address('--server', state?.server.listen, '127.0.0.1:50051');
  return ['contact-client', ...server, flag, quoted(group), '--exec', `'tr a-z A-Z'`].join(' ');
}

function address(flag, at, usual) {
  if (!at || at === usual) return [];
  // What listens everywhere is reached as this page was.
  return [flag, quoted(at.replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname))];
}

/**
 * The judgement: `{ level, headline, issues }`. Level is `wrong` (nothing is taken any more), `watch`, `first` (nothing
 * has happened yet) or `well`. An issue is `{ kind, level, text, help, command, link, resume }`, the gravest first.
 */
export function judge(state) {
  const { totals } = state;
  const issues = [...ofTheServer(state), ...ofGroups(state)];
  const fresh = totals.tasks === 0 || (totals.results === 0 && totals.clients === 0);
  if (!issues.length && !fresh && totals.clients === 0) {
    issues.push({
      kind: 'quiet', level: 'watch', text: t('issue.quiet'), help: t('issue.quiet.help'), command: client(state),
    });
  }
  issues.sort((a, b) => (b.level === 'wrong') - (a.level === 'wrong'));
  if (issues.length) {
    const count = issues.reduce((sum, issue) => sum + (issue.count ?? 1), 0);
    return { level: issues[0].level, headline: count === 1 ? issues[0].text : t('verdict.many', count), issues, count };
  }
  if (fresh) return { level: 'first', headline: t('verdict.first'), issues, count: 0 };
  const queue = totals.lag - totals.in_flight;
  const headline =
    queue > 0
      ? t('verdict.well.queue', totals.clients, queue)
      : totals.in_flight > 0
        ? t('verdict.well.busy', totals.clients, totals.in_flight)
        : t('verdict.well.idle', totals.clients);
  return { level: 'well', headline, issues, count: 0 };
}

function* ofTheServer({ server }) {
  if (!server.ready) {
    yield {
      kind: 'not_ready', level: 'wrong', text: t('issue.not_ready', server.why), help: t('issue.not_ready.help'),
      command: serverCommand({ server }),
    };
  }
  const free = server.disk_free_bytes;
  if (free !== null && free < DISK_LOW) {
    yield {
      kind: 'disk', level: free < DISK_FULL ? 'wrong' : 'watch', text: t('issue.disk', bytes(free)),
      help: t('issue.disk.help'), command: `contact-server --data ${quoted(server.data)} --retain 1d`,
    };
  }
}

/** How the server is started again on its data. */
export const serverCommand = (state) =>
  ['contact-server', ...(state ? ['--data', quoted(state.server.data)] : [])].join(' ');

function* ofGroups(state) {
  const found = { nobody: [], paused: [], dead: [], behind: [] };
  for (const group of state.groups) {
    const name = group.group;
    if (group.paused) {
      found.paused.push({ text: t('issue.paused', name, group.lag), command: ctl(state, 'resume', name), resume: name });
    } else if (group.lag > 0 && group.clients === 0 && state.at - (group.last_used ?? 0) > MISSED) {
      // A group that is named like a client of its own is that client.
      const own = state.clients.some((it) => it.client === name && it.group === name);
      found.nobody.push({
        text: t('issue.nobody', name, group.lag), help: t('issue.nobody.help'),
        command: client(state, name, own ? '--id' : '--group'), link: `#/groups?q=${encodeURIComponent(name)}`,
      });
    } else if (group.clients > 0) {
      const behind = lateness(group, state.at);
      if (behind) {
        found.behind.push({
          text: behind, help: t('issue.behind.help'), command: client(state, name),
          link: `#/clients?q=${encodeURIComponent(name)}`,
        });
      }
    }
    if (group.dead > 0) {
      found.dead.push({
        text: t('issue.dead', group.dead, name), help: t('issue.dead.help'),
        command: ctl(state, 'dead', '--group', name), link: `#/dead?group=${encodeURIComponent(name)}`,
      });
    }
  }
  for (const [kind, issues] of Object.entries(found)) {
    for (const issue of issues.slice(0, EACH)) yield { kind, level: 'watch', ...issue };
    const more = issues.length - EACH;
    if (more > 0) {
      yield {
        kind: `${kind}.more`, level: 'watch', text: t('verdict.more', more), count: more,
        link: kind === 'dead' ? '#/dead' : '#/groups',
      };
    }
  }
}

/**
 * In words, if its clients are at work and yet it will take them long. Where nothing is in flight, what is open is
 * delayed, and on time.
 */
function lateness(group, now) {
  const queue = group.lag - group.in_flight;
  if (queue <= 0 || group.in_flight === 0) return null;
  if (group.rate > 0) {
    const span = (queue / group.rate) * 1000;
    return span > BEHIND ? t('issue.behind', group.group, queue, duration(span)) : null;
  }
  const age = group.oldest_at ? now - group.oldest_at : 0;
  return age > STUCK ? t('issue.stuck', group.group, queue, duration(age)) : null;
}
