// Every text of the page, in every language. A test holds the languages to the same keys.

import { en } from './texts/en.js';
import { zh } from './texts/zh.js';

export const LANGUAGES = { en, zh };

// early.js has chosen before anything was drawn.
let current = document.documentElement.lang.startsWith('zh') ? 'zh' : 'en';

/** The language of the page, as Intl knows it. */
export const language = () => current;

/** Changes the language, and remembers it for the next visit. */
export function speak(wanted) {
  current = wanted;
  document.documentElement.lang = wanted === 'zh' ? 'zh-Hans' : 'en';
  remember('contact-language', wanted);
}

/** A text by its key; those with numbers and names in them are functions of these. */
export function t(key, ...args) {
  const value = LANGUAGES[current][key];
  return typeof value === 'function' ? value(...args) : (value ?? key);
}

/** What the server said, in the language of the page where that knows the sentence, else in the server's words. */
export function said(sentence, time = String) {
  const [, before, at] = /^(.+) (\d{4}-\d\d-\d\dT\S+Z|\d+)$/.exec(sentence ?? '') ?? [];
  const value = LANGUAGES[current][`said.${before ?? sentence}`] ?? sentence;
  return typeof value === 'function' ? value(/^\d+$/.test(at) ? at : time(Date.parse(at))) : value;
}

/** What was chosen on an earlier visit, null if nothing was. */
export function recall(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** Keeps a choice for the next visit, where the browser lets us. */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}
