// The workers that the server dials: how that goes with each, and the form that adds one.

import { get, post } from '../api.js';
import { attribute, h, show, text } from '../dom.js';
import { duration } from '../format.js';
import { t } from '../i18n.js';
import { now } from '../live.js';
import { action, badge, clipped, command, field, invalid, options, sends, table, time, words } from '../parts.js';
import { ctl } from '../verdict.js';

/** Between two looks. */
const REFRESH = 3000;

/** Below the clients. */
export function dialledPart() {
  let state = null;
  let all = [];
  let asked = 0;
  const rows = table([
    { head: t('col.dialled'), wide: true, cell: words((it) => it.address) },
    { head: t('col.group'), cell: words((it) => it.group ?? '–') },
    { head: t('col.client'), cell: words((it) => it.connected_as ?? it.client ?? '–') },
    { head: t('col.state'), wide: true, cell: how },
    { head: t('col.since'), num: true, cell: (td) => {
      const at = time('ago');
      td.append(at.node);
      return (it) => at.set(it.connected_since ?? it.trouble_since ?? it.since);
    } },
    { head: t('col.actions'), wide: true, bare: true, cell: (td, { address }) => {
      const remove = action({
        label: t('dialled.remove'), sure: t('dialled.remove.sure'), style: 'danger',
        run: () => post('/api/dialled/remove', { address }).then(refresh),
      });
      const shell = command('', { quiet: true });
      td.append(h('span', { class: 'do' }, remove.node, shell.node));
      return () => shell.set(ctl(state, 'dial', 'rm', address));
    } },
  ], { keyOf: (it) => it.address, label: t('dialled.title'), rowClass: (it) => (it.connected_since ? '' : 'gone') });
  const box = h('div', { class: 'table-box two fresh' }, rows.node);
  const form = addForm(refresh);
  const node = h('section', {},
    h('div', { class: 'section-head' }, h('h2', {}, t('dialled.title'))), h('p', { class: 'intro' }, t('dialled.intro')),
    box, h('details', { class: 'add' }, h('summary', {}, t('dialled.add')), form.node));

  function draw() {
    show(box, all.length > 0);
    rows.update(all);
  }

  async function refresh() {
    asked = Date.now();
    try {
      all = (await get('/api/dialled')).dialled;
      draw();
    } catch {
      // The list of clients says that the server cannot be asked.
    }
  }

  draw();
  return {
    node,
    update(live) {
      if (!live.state || live.contact !== 'live') return;
      state = live.state;
      form.update(state);
      draw();
      if (Date.now() - asked >= REFRESH) refresh();
    },
  };
}

/** Whether it is connected; else why not, and when that is tried again. */
function how(td) {
  const flag = badge();
  const why = clipped();
  const again = h('span', { class: 'sub' });
  td.append(flag.node, why.node, again);
  return (it) => {
    const left = it.again_at && it.again_at - now();
    flag.set(...(it.connected_since ? ['good', t('client.connected')] : it.trouble ? ['warn', t('dialled.trouble')] : ['busy', t('dialled.connecting')]));
    why.set(it.connected_since ? '' : it.trouble);
    text(again, left > 0 ? t('dialled.again', duration(left)) : t('dialled.connecting'));
    show(again, !it.connected_since && Boolean(it.trouble));
  };
}

function addForm(added) {
  let state = null;
  const input = (id, props = {}) => h('input', { id, autocomplete: 'off', spellcheck: 'false', dir: 'auto', maxlength: 256, 'aria-describedby': `${id}-hint`, ...props });
  const address = input('dialled-address');
  const group = input('dialled-group', { list: 'dialled-groups' });
  const client = input('dialled-client');
  const groups = h('datalist', { id: 'dialled-groups' });
  const go = h('button', { class: 'button primary' }, t('dialled.add.go'));
  const note = h('p', { class: 'note', role: 'status' });
  const shell = command();
  const node = h('form', { class: 'submit', novalidate: true },
    h('div', { class: 'fields' },
      field('dialled-address', t('col.dialled'), address), field('dialled-group', t('col.group'), group),
      field('dialled-client', t('dialled.client'), client)),
    groups,
    h('div', { class: 'doing' }, go, note),
    h('div', { class: 'same' }, h('span', { class: 'dim' }, t('submit.same')), shell.node));

  const said = () => ({ address: address.value.trim(), group: group.value.trim(), client: client.value.trim() });

  function sameByHand() {
    const it = said();
    shell.set(ctl(state, 'dial', 'add', it.address || '…', ...(it.group ? ['--group', it.group] : []), ...(it.client ? ['--client', it.client] : [])));
  }

  node.addEventListener('input', sameByHand);
  function request() {
    attribute(address, 'aria-invalid', null);
    const wanted = said();
    return wanted.address ? wanted : invalid(address, note, t('dialled.address.none'));
  }

  sends(node, go, note, request, async (wanted) => {
    const { is_new } = await post('/api/dialled/add', wanted);
    address.value = '';
    sameByHand();
    await added();
    return t(is_new ? 'dialled.added' : 'dialled.changed', wanted.address);
  });
  return {
    node,
    update(next) {
      state = next;
      options(groups, state.groups.map((it) => it.group));
      sameByHand();
    },
  };
}
