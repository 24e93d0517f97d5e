// The newest state of the server, a second old at most, or the truth that there is none.

/** How long without a word until contact counts as lost. The server sends a state each second. */
const SILENCE = 6000;
/** How long until the next try, when the browser does not try by itself. */
const AGAIN = 2000;
/** How far back the points reach, and the steps of the hour. */
const MINUTES = 300_000;
const HOUR = 3_600_000;

export const live = {
  /** The newest state, null before the first. */
  state: null,
  /** The points of the last five minutes, oldest first. */
  points: [],
  /** The steps of the last hour, the same for longer spans. */
  hour: [],
  /** `opening`, `live` or `lost`. */
  contact: 'opening',
  /** When the server was last heard, by the clock of this machine. */
  heard: null,
};

const listeners = new Set();
let source = null;
let watchdog = 0;
let again = 0;

/** Calls `listener` after each change; returns what ends that. */
export function follow(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The time at the server, so that ages are right whatever the clock of this machine says. */
export const now = () => (live.state ? live.state.at + (Date.now() - live.heard) : Date.now());

export function connect() {
  source?.close();
  clearTimeout(again);
  source = new EventSource('/api/events');
  source.addEventListener('history', (event) => {
    Object.assign(live, JSON.parse(event.data));
  });
  source.addEventListener('state', (event) => {
    live.state = JSON.parse(event.data);
    live.heard = Date.now();
    live.contact = 'live';
    remember(live.points, live.state.point, MINUTES);
    remember(live.hour, live.state.step, HOUR);
    watch();
    tell();
  });
  source.addEventListener('error', lost);
  watch();
}

function remember(points, point, span) {
  const last = points.at(-1);
  if (point && (!last || point.at > last.at)) points.push(point);
  const begin = live.state.at - span;
  const kept = points.findIndex((it) => it.at >= begin);
  if (kept > 0) points.splice(0, kept);
}

/** A connection that is cut without a word raises no error. */
function watch() {
  clearTimeout(watchdog);
  watchdog = setTimeout(lost, SILENCE);
}

function lost() {
  clearTimeout(watchdog);
  source.close();
  again = setTimeout(connect, AGAIN);
  if (live.contact !== 'lost') {
    live.contact = 'lost';
    tell();
  }
}

function tell() {
  for (const listener of [...listeners]) listener(live);
}
