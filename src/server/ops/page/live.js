// The newest state of the server, a second old at most, or the truth that there is none.

/** How long without a word until contact counts as lost. The server sends a state each second. */
const SILENCE = 6000;
/** How long until the next try, when the browser does not try by itself. */
const AGAIN = 2000;
/** How far back the charts reach. */
export const SPAN = 300_000;

export const live = {
  /** The newest state, null before the first. */
  state: null,
  /** The points of the last five minutes, oldest first. */
  points: [],
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
    live.points = JSON.parse(event.data).points;
  });
  source.addEventListener('state', (event) => {
    live.state = JSON.parse(event.data);
    live.heard = Date.now();
    live.contact = 'live';
    remember(live.state.point);
    watch();
    tell();
  });
  source.addEventListener('error', lost);
  watch();
}

function remember(point) {
  const last = live.points.at(-1);
  if (point && (!last || point.at > last.at)) live.points.push(point);
  const begin = live.state.at - SPAN;
  const kept = live.points.findIndex((it) => it.at >= begin);
  if (kept > 0) live.points.splice(0, kept);
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
