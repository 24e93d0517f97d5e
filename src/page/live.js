// The newest state of the server, a second old at most, or the truth that there is none.

import { leave, watch } from './stream.js';

/** How long without a word until contact counts as lost. The server sends a state each second. */
const SILENCE = 6000;
/** How long until the next try after that. */
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
/** What the stream of this tab alone talks to, where tabs share none. */
const alone = { postMessage: (event) => hear(event) };
/** Ends the watching that is under way. */
let end = () => {};
let watchdog = 0;
let again = 0;

/** Calls `listener` after each change; returns what ends that. */
export function follow(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The time at the server, so that ages are right whatever the clock of this machine says. */
export const now = () => (live.state ? live.state.at + (Date.now() - live.heard) : Date.now());

/** Watches for as long as somebody looks at this tab. */
export function connect() {
  document.addEventListener('visibilitychange', attend);
  addEventListener('pagehide', rest);
  attend();
}

function attend() {
  if (document.hidden) rest();
  else look();
}

/** What is shown from here on is old, so the tab's title says nothing of it. */
function rest() {
  stop();
  became('opening');
}

function look() {
  stop();
  share();
  quiet();
}

function stop() {
  end();
  end = () => {};
  clearTimeout(watchdog);
  clearTimeout(again);
}

/** By the worker that all tabs share; by a stream of this tab's own where the browser has no such worker. */
function share() {
  let worker;
  try {
    worker = new SharedWorker('/assets/worker.js', { type: 'module' });
  } catch {
    return own();
  }
  const { port } = worker;
  port.onmessage = ({ data }) => {
    port.postMessage('here');
    hear(data);
  };
  port.postMessage('watch');
  end = () => {
    port.postMessage('leave');
    port.close();
    worker.onerror = null;
  };
  worker.onerror = own;
}

function own() {
  watch(alone);
  end = () => leave(alone);
}

function hear({ name, data }) {
  if (name === 'history') Object.assign(live, JSON.parse(data));
  if (name === 'state') {
    live.state = JSON.parse(data);
    live.heard = Date.now();
    remember(live.points, live.state.point, MINUTES);
    remember(live.hour, live.state.step, HOUR);
    quiet();
    live.contact = 'live';
    tell();
  }
  // The stream tries again by itself.
  if (name === 'lost') became('lost');
}

function remember(points, point, span) {
  const last = points.at(-1);
  if (point && (!last || point.at > last.at)) points.push(point);
  const begin = live.state.at - span;
  const kept = points.findIndex((it) => it.at >= begin);
  if (kept > 0) points.splice(0, kept);
}

/** A connection that is cut without a word raises no error, nor does a worker that is gone. */
function quiet() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    stop();
    again = setTimeout(look, AGAIN);
    became('lost');
  }, SILENCE);
}

function became(contact) {
  if (live.contact === contact) return;
  live.contact = contact;
  tell();
}

function tell() {
  for (const listener of [...listeners]) listener(live);
}
