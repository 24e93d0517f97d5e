// What all tabs of a browser share: the stream of events. A tab says `watch` or `leave`, and `here` to each event.
//
// It lives until the last tab is closed, so a tab of a newer server may talk to an older worker: what is said here only grows.

import { leave, watch } from './stream.js';

/** Events that a tab leaves without a word before it counts as gone: nobody tells of one that was killed. */
const UNANSWERED = 10;

addEventListener('connect', ({ ports: [port] }) => {
  let unanswered = 0;
  const tab = {
    postMessage(event) {
      unanswered += 1;
      if (unanswered > UNANSWERED) leave(tab);
      else port.postMessage(event);
    },
  };
  port.onmessage = ({ data }) => {
    unanswered = 0;
    if (data === 'watch') watch(tab);
    if (data === 'leave') leave(tab);
  };
});
