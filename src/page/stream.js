// The stream of the server's events: one, for all who watch.
//
// Over HTTP/1.1 a browser opens six connections to a server, for all its tabs together. With a stream for each tab, the seventh
// tab would wait for ever.

/** How long until the next try. The browser does not always try by itself. */
const AGAIN = 2000;

const watching = new Set();
let source = null;
let again = 0;

/**
 * From now on `watcher` is posted `{ name, data }` for each event, beginning with the history, and `{ name: 'lost' }` when the
 * stream has ended. It begins anew, for the others too: the history is sent at the start of a stream only.
 */
export function watch(watcher) {
  watching.add(watcher);
  open();
}

/** Nothing more is posted to it. The stream ends with its last watcher. */
export function leave(watcher) {
  watching.delete(watcher);
  if (!watching.size) close();
}

function open() {
  close();
  source = new EventSource('/api/events');
  for (const name of ['history', 'state']) source.addEventListener(name, ({ data }) => tell({ name, data }));
  source.addEventListener('error', () => {
    close();
    again = setTimeout(open, AGAIN);
    tell({ name: 'lost' });
  });
}

function close() {
  source?.close();
  clearTimeout(again);
}

function tell(event) {
  for (const watcher of [...watching]) watcher.postMessage(event);
}
