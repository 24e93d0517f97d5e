// A task by hand: what can be said about it, the command that says the same, and then its ledger, live.

import { post } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { count, parseDuration } from '../format.js';
import { t } from '../i18n.js';
import { command, field, invalid, options, sends } from '../parts.js';
import { ctl } from '../verdict.js';
import { ledgerPart } from './task.js';

export function mount(root) {
  let state = null;
  let ledger = null;
  const texts = h('textarea', { id: 'submit-text', rows: 4, dir: 'auto', spellcheck: 'false', 'aria-describedby': 'submit-text-hint' });
  const to = h('input', { id: 'submit-to', list: 'submit-groups', maxlength: 256, dir: 'auto', autocomplete: 'off', 'aria-describedby': 'submit-to-hint' });
  const select = h('input', { id: 'submit-select', maxlength: 1024, dir: 'auto', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'submit-select-hint' });
  const groups = h('datalist', { id: 'submit-groups' });
  const delay = h('input', { id: 'submit-delay', autocomplete: 'off', 'aria-describedby': 'submit-delay-hint' });
  const ttl = h('input', { id: 'submit-ttl', autocomplete: 'off', 'aria-describedby': 'submit-ttl-hint' });
  const key = h('input', { id: 'submit-key', autocomplete: 'off', dir: 'auto', 'aria-describedby': 'submit-key-hint' });
  const replace = h('input', { id: 'submit-replace', maxlength: 256, autocomplete: 'off', dir: 'auto', 'aria-describedby': 'submit-replace-hint' });
  const lane = h('input', { id: 'submit-lane', maxlength: 256, autocomplete: 'off', dir: 'auto', 'aria-describedby': 'submit-lane-hint' });
  const quiet = h('input', { id: 'submit-quiet', autocomplete: 'off', 'aria-describedby': 'submit-quiet-hint' });
  const maxWait = h('input', { id: 'submit-max_wait', autocomplete: 'off', 'aria-describedby': 'submit-max_wait-hint' });
  const attempts = h('input', { id: 'submit-attempts', type: 'number', min: 1, step: 1, 'aria-describedby': 'submit-attempts-hint' });
  const priorities = ['high', 'normal', 'low'].map((it) =>
    h('label', {}, h('input', { type: 'radio', name: 'priority', value: it, checked: it === 'normal' }), h('span', {}, t(`task.priority.${it}`))));
  const go = h('button', { class: 'button primary' }, t('submit.go'));
  const note = h('p', { class: 'note', role: 'status' });
  const shell = command();
  const attemptsHint = h('span', { class: 'hint', id: 'submit-attempts-hint' });
  const followed = h('section', { class: 'followed' });
  const form = h('form', { class: 'submit', novalidate: true },
    field('submit-text', t('submit.text'), texts),
    h('div', { class: 'fields' },
      field('submit-to', t('submit.to'), to),
      field('submit-select', t('submit.select'), select),
      h('fieldset', { class: 'field' }, h('legend', {}, t('submit.priority')), h('div', { class: 'segments' }, priorities))),
    groups,
    h('details', {}, h('summary', {}, t('submit.more')),
      h('div', { class: 'fields' },
        field('submit-delay', t('submit.delay'), delay), field('submit-ttl', t('submit.ttl'), ttl),
        field('submit-key', t('submit.key'), key), field('submit-attempts', t('submit.attempts'), attempts, attemptsHint),
        field('submit-lane', t('submit.lane'), lane),
        field('submit-replace', t('submit.replace'), replace), field('submit-quiet', t('submit.quiet'), quiet),
        field('submit-max_wait', t('submit.max_wait'), maxWait))),
    h('div', { class: 'doing' }, go, note),
    h('div', { class: 'same' }, h('span', { class: 'dim' }, t('submit.same')), shell.node));
  root.append(
    h('div', { class: 'view-head' }, h('h1', { tabindex: '-1' }, t('view.submit'))),
    h('p', { class: 'intro' }, t('submit.intro')), form,
    h('p', { class: 'dim' }, h('a', { href: '#/runs/new' }, t('submit.run'))), followed,
  );

  const priority = () => form.elements.priority.value;

  function sameByHand() {
    const options = [
      ...(to.value.trim() ? ['--to', to.value.trim()] : []),
      ...(select.value.trim() ? ['--select', select.value.trim()] : []),
      ...(priority() === 'normal' ? [] : ['--priority', priority()]),
      ...(delay.value.trim() ? ['--delay', delay.value.trim()] : []),
      ...(ttl.value.trim() ? ['--ttl', ttl.value.trim()] : []),
      ...(key.value ? ['--key', key.value] : []),
      ...(attempts.value ? ['--max-attempts', attempts.value] : []),
      ...(lane.value ? ['--lane', lane.value] : []),
      ...(replace.value ? ['--replace', replace.value] : []),
      ...(quiet.value.trim() ? ['--quiet', quiet.value.trim()] : []),
      ...(maxWait.value.trim() ? ['--max-wait', maxWait.value.trim()] : []),
    ];
    // The text stands last: behind `--`, if it looks like an option.
    const said = texts.value || '…';
    const words = said.startsWith('-') ? [...options, '--', said] : [...options, said];
    shell.set(ctl(state, 'submit', ...words));
  }

  /** What to send, or null after saying what is wrong beside the field. */
  function request() {
    const wrong = (input, why) => invalid(input, note, why);
    for (const input of [texts, select, delay, ttl, attempts, lane, quiet, maxWait]) attribute(input, 'aria-invalid', null);
    if (!texts.value) return wrong(texts, t('submit.empty'));
    if (to.value.trim() && select.value.trim()) return wrong(select, t('submit.select.alone'));
    const times = [delay, ttl, quiet, maxWait];
    const [delayMs, ttlMs, quietMs, maxWaitMs] = times.map((it) => parseDuration(it.value));
    const noTime = times.find((it) => Number.isNaN(parseDuration(it.value)));
    if (noTime) return wrong(noTime, t('submit.bad_duration'));
    if (lane.value && replace.value) return wrong(lane, t('submit.lane.alone'));
    if (quiet.value.trim() && !replace.value) return wrong(quiet, t('submit.quiet.alone'));
    if (maxWait.value.trim() && !quiet.value.trim()) return wrong(maxWait, t('submit.max_wait.alone'));
    return {
      text: texts.value, to: to.value.trim() || null, select: select.value.trim(), key: key.value || null, priority: priority(),
      delay_ms: delayMs ?? 0, ttl_ms: ttlMs, max_attempts: attempts.value ? Number(attempts.value) : null,
      lane: lane.value, replace: replace.value, quiet_ms: quietMs, max_wait_ms: maxWaitMs,
    };
  }

  form.addEventListener('input', sameByHand);
  form.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  sends(form, go, note, request, async (wanted) => {
    const { id, known } = await post('/api/tasks', wanted);
    texts.value = '';
    key.value = '';
    sameByHand();
    ledger?.destroy();
    ledger = ledgerPart(id);
    followed.replaceChildren(
      h('div', { class: 'section-head' }, h('h2', {}, h('a', { href: `#/tasks/${id}` }, t('task.number', id))), h('span', { class: 'badge busy' }, t('task.followed'))),
      ledger.node,
    );
    ledger.update({ state, contact: 'live' });
    return t(known ? 'submit.known' : 'submit.accepted', id);
  });
  sameByHand();
  show(followed, true);

  return {
    update(live) {
      if (!live.state) return;
      state = live.state;
      text(attemptsHint, t('submit.attempts.hint', count(state.server.max_attempts)));
      options(groups, state.groups.map((it) => it.group));
      sameByHand();
      ledger?.update(live);
    },
    destroy: () => ledger?.destroy(),
  };
}
