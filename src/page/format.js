// Numbers, times and commands as people read them, in the language of the page.

import { language, t } from './i18n.js';

const formats = new Map();

function format(kind, options) {
  const key = language() + kind + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl[kind](language(), options));
  return formats.get(key);
}

/** A whole number, grouped: 1,284,031. */
export const count = (n) => format('NumberFormat', { maximumFractionDigits: 0 }).format(n ?? 0);

/** Something a second: 0.4, 7.3, 1,204. */
export function rate(n) {
  return format('NumberFormat', { maximumFractionDigits: !n || Math.abs(n) >= 10 ? 0 : 1 }).format(n ?? 0);
}

/** A latency in milliseconds, with three digits at most: 0.42 ms, 12 ms, 1.3 s, 4 min. */
export function latency(ms) {
  if (ms === null || ms === undefined) return '–';
  const number = (n) => format('NumberFormat', { maximumSignificantDigits: n < 100 ? 2 : 3 }).format(n);
  if (ms < 1000) return `${number(ms)} ms`;
  if (ms < 120_000) return `${number(ms / 1000)} s`;
  return duration(ms);
}

/** A span of time, to the two largest units: 45 s, 3 min, 2 h 5 min, 4 d. */
export function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 1) return t('unit.none');
  if (s < 60) return t('unit.s', s);
  if (s < 3600) return t('unit.min', Math.floor(s / 60));
  const pair = (big, small) => (small ? `${big} ${small}` : big);
  if (s < 86_400) return pair(t('unit.h', Math.floor(s / 3600)), s < 36_000 && s % 3600 >= 60 ? t('unit.min', Math.floor((s % 3600) / 60)) : '');
  return pair(t('unit.d', Math.floor(s / 86_400)), s < 864_000 && s % 86_400 >= 3600 ? t('unit.h', Math.floor((s % 86_400) / 3600)) : '');
}

/** Bytes: 117 MB. */
export function bytes(n) {
  if (n === null || n === undefined) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000;
    i += 1;
  }
  return `${format('NumberFormat', { maximumSignificantDigits: 3 }).format(n)} ${units[i]}`;
}

/** A part of one, in per cent. */
export const percent = (part) => format('NumberFormat', { style: 'percent', maximumFractionDigits: 0 }).format(part);

/** Local time of day, to the second. */
export const clock = (at) => format('DateTimeFormat', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' }).format(at);

/** Local time, with the day where it is not today. */
export function moment(at) {
  const date = new Date(at);
  if (date.toDateString() === new Date().toDateString()) return clock(at);
  const year = date.getFullYear() === new Date().getFullYear() ? undefined : 'numeric';
  return format('DateTimeFormat', { year, day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(at);
}

/** ISO 8601, in UTC: what stands in every title of a time. */
export const iso = (at) => new Date(at).toISOString();

/** `10s`, `1h 30min` or `2d` in milliseconds; null for nothing, NaN for what is none. */
export function parseDuration(value) {
  const string = value.trim();
  if (!string) return null;
  const units = { ms: 1, s: 1000, sec: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
  const parts = [...string.matchAll(/(\d+(?:\.\d+)?)\s*([a-z]+)\s*/gy)];
  if (parts.map((part) => part[0]).join('') !== string) return NaN;
  return Math.round(parts.reduce((sum, [, n, unit]) => sum + n * (units[unit] ?? NaN), 0));
}

/** A word for a POSIX shell. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
