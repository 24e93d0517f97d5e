// Requests to the server. What it refuses, it explains in a sentence; that sentence is the error's message.

import { t } from './i18n.js';

export const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return call(given.length ? `${path}?${new URLSearchParams(given)}` : path, {});
};

/** The header is what tells the server that this is its own page. */
export const post = (path, body = {}) =>
  call(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-contact': '1' },
    body: JSON.stringify(body),
  });

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(t('contact.unreachable'));
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `${response.status} ${response.statusText}`);
  return body ?? {};
}
