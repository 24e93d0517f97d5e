// Elements by hand. Whatever comes from users goes in as text, never as HTML: this file has no way to do otherwise.

const SVG = 'http://www.w3.org/2000/svg';

/** An element: `h('a', { class: 'x', href: '#/', onclick: f }, 'text', child)`. Null and false children are left out. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for drawings. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked') node[name] = value;
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  const shown = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  node.append(...shown.map((child) => (child instanceof Node ? child : spelled(child))));
  return node;
}

// Controls, what turns the text around it, and what has no width but joins nothing. Line ends and tabs stay.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A text of others, with what hides in it spelled out as the programs do it: `\u{202e}`. */
function spelled(value) {
  return String(value ?? '').replace(HIDDEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** Changes a text only if it is another one: what did not change stays selectable, and costs nothing. */
export function text(node, value) {
  const string = spelled(value);
  if (node.textContent !== string) node.textContent = string;
}

/** Sets an attribute, or takes it away for null and false. */
export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? '' : String(value));
}

/** Shows or hides. */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/**
 * Keeps the children of `parent` in step with `items`. A child is made once for each key by `make(item)`, which returns
 * `{ node, update(item) }`; so focus, selection and open details outlive the update each second.
 */
export function keyed(parent, keyOf, make) {
  let rows = new Map();
  return (items) => {
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    const next = new Map();
    let place = parent.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      if (next.has(key)) continue;
      const row = rows.get(key) ?? make(item);
      next.set(key, row);
      row.update(item);
      if (row.node === place) place = place.nextSibling;
      else parent.insertBefore(row.node, place);
    }
    for (const [key, row] of rows) if (!next.has(key)) row.node.remove();
    rows = next;
    // A row that moved has lost the focus on the way.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  };
}
