// What a task prints while clients are at work on it. Nothing of that is kept: it is there while somebody looks.

import { h, show, text } from '../dom.js';
import { address, section } from '../parts.js';
import { t } from '../i18n.js';

/** So much of it is shown, in characters: the newest. */
const MOST = 64 * 1024;
/** With more groups than this the server wants one of them. */
const GROUPS = 16;
/** How long until the next try where it was refused, or the server went away. */
const AGAIN = 5000;
/** Colours and other orders to a terminal (ECMA-48). */
const ORDERS = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;

/** Shown as soon as something comes. It asks as soon as the task is with a client. */
export function outputPart(id) {
  const groups = new Map();
  const boxes = h('div', {});
  const node = section(t('task.output'), boxes);
  let source = null;
  let asked = 0;
  show(node, false);

  function open() {
    asked = Date.now();
    source = new EventSource(`/api/tasks/${id}/output`);
    source.addEventListener('output', ({ data }) => draw(JSON.parse(data)));
    source.addEventListener('end', close);
    source.addEventListener('error', close);
  }

  function close() {
    source?.close();
    source = null;
  }

  function draw(part) {
    if (!part.base64) return;
    show(node, true);
    let group = groups.get(part.group);
    if (!group || group.client !== part.client || group.attempt !== part.attempt) {
      group?.node.remove();
      group = box(part);
      groups.set(part.group, group);
      boxes.append(group.node);
    }
    group.add(part);
  }

  return {
    node,
    update(inFlight) {
      const isDue = Date.now() - asked >= AGAIN;
      if (!source && isDue && inFlight > 0 && inFlight <= GROUPS) open();
    },
    destroy: close,
  };
}

/** What one client prints in one attempt. */
function box({ group, client, attempt }) {
  const decoder = new TextDecoder();
  const body = h('pre', { class: 'output', tabindex: '0', dir: 'auto' });
  const node = h('div', {}, h('p', { class: 'sub', dir: 'auto' }, t('task.output.by', group, address(client), attempt)), body);
  let shown = '';
  let next = 0;
  return {
    node,
    client,
    attempt,
    add({ from, base64 }) {
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      if (from > next) shown += `\n${t('task.output.missing', from - next)}\n`;
      next = from + bytes.length;
      shown = (shown + decoder.decode(bytes, { stream: true })).slice(-MOST);
      const atEnd = body.scrollTop + body.clientHeight >= body.scrollHeight - 4;
      text(body, shown.replace(ORDERS, ''));
      if (atEnd) body.scrollTop = body.scrollHeight;
    },
  };
}
