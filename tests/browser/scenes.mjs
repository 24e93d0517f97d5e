// What is played in the browser. Each scene has its test in tests/browser.rs, which moves the servers and clients.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { contrasts, sideways } from './measure.mjs';

const VIEWS = ['overview', 'groups', 'clients', 'tasks', 'runs', 'schedules', 'dead', 'submit'];
/** Those that are a form, and have no list. */
const FORMS = ['submit', 'runs/new'];
const hashOf = (view) => (view === 'overview' ? '#/' : `#/${view}`);
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };

/** Waits until an element of that kind says so. */
const says = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor();

/** Waits until the page shows figures of the server. */
const live = (page) => page.locator('html[data-contact=live]').waitFor();

async function submit(page, text) {
  await page.getByLabel('Text', { exact: true }).fill(text);
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
}

export async function submitting({ open, go, reached }) {
  const page = await open();
  await says(page, 'h1', 'Ready. Two commands');
  await says(page, '.first code', /contactctl submit hello world/);
  await says(page, '.first code', /contact-client .*--group workers/);
  reached('nothing has happened yet');
  await says(page, '.first li', /Start a client.*done/);

  await page.getByRole('link', { name: 'Submit', exact: true }).click();
  await page.getByLabel('Text', { exact: true }).fill('hello page');
  await page.getByLabel('For', { exact: true }).fill('workers');
  await page.getByLabel('high').check();
  await page.locator('form.submit summary').click();
  await page.getByLabel('Lane', { exact: true }).fill('tenant 7');
  await page.getByLabel('Replaces by the key', { exact: true }).fill('config');
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await says(page, '.note', /leave out the lane, or the key/);
  await page.getByLabel('Replaces by the key', { exact: true }).fill('');
  await says(page, '.same code', /^contactctl submit --to workers --priority high --lane 'tenant 7' 'hello page' --server /);
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await says(page, '.note', /^Task 1 is accepted/);
  await says(page, '.followed .history li', /done.*workers.*w1.*attempt 1/s);
  await says(page, '.followed .ret', 'HELLO PAGE');

  await page.getByRole('link', { name: 'Overview', exact: true }).click();
  await says(page, 'h1', 'All is well: 1 client, nothing waits');
  await says(page, '.tasks tr', /hello page.*done/s);
  await page.locator('.charts canvas').nth(2).waitFor();
  await go(page, '#/clients');
  await says(page, 'tbody tr', /w1.*workers.*done.*HELLO PAGE/s);
}

export async function output({ open, reached }) {
  const page = await open('#/tasks/1');
  await says(page, '.output', 'green <b>bold</b>');
  reached('the first line is shown');
  await says(page, '.output', /bold.*the last line/s);
  await says(page, '.history li', /done.*w1/s);
}

export async function killedClient({ open, reached }) {
  const page = await open('#/clients');
  await says(page, 'tbody tr:not(.gone)', 'w1');
  reached('the client is shown');
  await says(page, 'tbody tr.gone', /w1.*gone/s);
  assert.notEqual(
    await page.locator('tr.gone .name').evaluate((it) => getComputedStyle(it).color),
    await page.locator('h1').evaluate((it) => getComputedStyle(it).color),
  );
}

export async function servers({ open, reached, shot }) {
  const page = await open();
  const row = (role) => `table[aria-label="Servers"] tr:has(.badge:text-is("${role}"))`;
  await says(page, row('leads'), '127.0.0.1');
  await says(page, row('follows'), '127.0.0.1');
  await says(page, 'section', /The log CONTACT_\w+ has \d+ messages?, .* 3 of 3 have all of it/);
  await shot(page, 'servers');
  reached('both are shown');
  await says(page, row('silent'), '127.0.0.1');
  await says(page, 'h1, .issue', '1 server of the cluster is silent, and no other is there');
}

export async function deadLetters({ open, go }) {
  const page = await open();
  await says(page, 'h1, .issue', '2 dead letters of workers');
  await says(page, '.issue code', /^contactctl dead --group workers/);
  await page.locator('.issue').filter({ hasText: 'contactctl dead' }).getByRole('link', { name: 'Look' }).click();
  const letter = (text) => page.locator('.letter').filter({ hasText: text });
  await says(page, '.letter', /mend me.*the part is missing/s);
  await says(page, '.letter code', /^contactctl retry 1 --group workers/);

  writeFileSync(process.env.CONTACT_PART, '');
  await letter('mend me').getByRole('button', { name: 'Retry', exact: true }).click();
  await letter('mend me').waitFor({ state: 'detached' });
  await letter('drop me').getByRole('button', { name: 'Drop', exact: true }).click();
  assert.equal(await letter('drop me').count(), 1, 'it asks once more');
  await letter('drop me').getByRole('button', { name: 'Really drop?' }).click();
  await says(page, '.empty', 'No dead letters of workers');

  await go(page, '#/tasks/1');
  await says(page, '.history li', 'given again');
  await says(page, '.history li', /done.*mend me/s);
  await says(page, '.table-box .badge', 'done');
}

export async function manyDead({ open, reached, shot }) {
  const page = await open('#/dead?group=workers');
  const letters = page.locator('.letter');
  await says(page, '.doing code', /^contactctl dead --group workers --drop/);
  assert.equal(await letters.count(), 5);
  const same = page.getByRole('button', { name: '3 × exit code 1: connection refused' });
  await same.click();
  await letters.nth(3).waitFor({ state: 'detached' });
  assert.equal(await letters.filter({ hasText: 'disk full' }).count(), 0);
  await says(page, '.doing code', /^contactctl dead 4 3 1 --group workers --drop/);
  await says(page, '.letter code', /^contactctl dead 4 --group workers --drop/);
  await shot(page, 'many-dead');
  const drop = page.getByRole('button', { name: 'Drop these 3' });
  await drop.focus();
  await page.keyboard.press('Enter');
  const sure = page.getByRole('button', { name: 'Really drop 3?' });
  await sure.waitFor();
  assert.equal(await letters.count(), 3, 'it asks once more');
  await page.keyboard.press('Enter');
  // Nothing is left of that error, so the list is all there is again.
  await letters.filter({ hasText: 'disk full' }).nth(1).waitFor();
  assert.equal(await letters.count(), 2);
  reached('the mails are dropped');
  await page.getByRole('button', { name: 'Drop these 2' }).click();
  await page.getByRole('button', { name: 'Really drop 2?' }).click();
  await says(page, '.empty', 'No dead letters of workers');
}

export async function runs({ open, go, reached, shot }) {
  const page = await open('#/runs');
  await says(page, 'tbody tr', /stopped: too many failed.*1 failed.*upgrade/s);
  await page.locator('tbody tr').first().getByRole('link').click();
  await says(page, 'h1', /^Run \d+$/);
  await says(page, 'tbody tr', /away|queued/);
  await says(page, 'tbody tr', /bad.*failed/s);
  await shot(page, 'run');
  await page.getByRole('button', { name: 'Resume', exact: true }).click();
  await says(page, 'tbody tr', /good.*done/s);
  await says(page, '.view-head .badge', 'completed');
  await page.getByRole('button', { name: 'Do again what failed', exact: true }).click();
  await says(page, '.note', /^Begun again as run \d+\.$/);
  await go(page, '#/runs');
  await page.locator('tbody tr').nth(1).waitFor();
  reached('the run was done again');
}

export async function schedules({ open, expect, shot }) {
  const page = await open('#/schedules');
  await says(page, 'tbody tr', /nightly.*0 3 \* \* \* Europe\/Berlin.*reindex/s);
  await says(page, 'tbody tr', /often.*every 1 h 30 min/s);
  const nightly = page.locator('tbody tr').filter({ hasText: 'nightly' });
  const button = (name) => nightly.getByRole('button', { name, exact: true });
  await button('Run now').click();
  await says(page, '.note', 'Task 1 was made.');
  await button('Pause').click();
  await says(page, '.badge', 'paused');
  await shot(page, 'schedules');
  await button('Resume').click();
  await nightly.locator('time:visible').waitFor();
  await nightly.getByRole('link', { name: '1', exact: true }).click();
  await says(page, '.facts', 'nightly, run by hand');
  await page.getByRole('link', { name: 'Schedules' }).click();
  await button('Remove').click();
  await button('Really remove it?').click();
  await nightly.waitFor({ state: 'detached' });

  await page.getByText('A new schedule', { exact: true }).click();
  const set = page.getByRole('button', { name: 'Set it', exact: true });
  await page.getByLabel('Schedule', { exact: true }).fill('often');
  await set.click();
  await says(page, '.note', 'There is one of that name.');
  await page.getByLabel('Schedule', { exact: true }).fill('weekly');
  await set.click();
  await says(page, '.note', 'Say when: either with cron, or how often.');
  await page.getByLabel('Cron', { exact: true }).fill('30 6 * * 1');
  await page.getByLabel('Time zone', { exact: true }).fill('Europe/Berlin');
  await page.getByLabel('For', { exact: true }).fill('workers');
  await set.click();
  await says(page, '.note', 'Write what is to be done.');
  await page.getByLabel('Task', { exact: true }).fill('count');
  await says(page, '.same code', /^contactctl schedule set weekly --cron '30 6 \* \* 1' --zone Europe\/Berlin --to workers count --server /);
  await page.getByLabel('Time zone', { exact: true }).fill('Europe/Nowhere');
  expect(/400 \(Bad Request\).*api\/schedules/);
  await set.click();
  await says(page, '.note.failed', /Europe\/Nowhere/);
  await shot(page, 'schedule-new');
  await page.getByLabel('Time zone', { exact: true }).fill('Europe/Berlin');
  await set.click();
  await says(page, '.note', 'The schedule weekly is set.');
  await says(page, 'tbody tr', /weekly.*30 6 \* \* 1 Europe\/Berlin.*workers.*count/s);
}

export async function begin({ open, go, expect, shot }) {
  const page = await open('#/runs');
  await page.getByRole('link', { name: 'Begin a run', exact: true }).click();
  await says(page, 'h1', /^Begin a run$/);
  const ask = page.getByRole('button', { name: 'Begin…' });
  await ask.click();
  await says(page, '.failed', 'Write what is to be done.');
  await page.getByLabel('What is to be done').fill('list');
  await ask.click();
  await says(page, '.failed', 'On which machines?');
  await page.getByLabel('On those that match').fill('role=web');
  await page.locator('summary').click();
  await page.getByLabel('First part').fill('one');
  await ask.click();
  await says(page, '.failed', 'A number of groups');
  await page.getByLabel('First part').fill('1');
  await page.getByLabel('Wait between parts').fill('10ms');
  await says(page, '.same code', /^contactctl run --select role=web --canary 1 --soak 10ms --server \S+ -- list$/);
  await ask.click();
  const dialog = page.getByRole('dialog', { name: 'Begin it on 3 groups?' });
  await says(page, 'dialog[open]', '1 of them is away');
  await shot(page, 'begin');
  // A key that is for the views changes none while this is asked.
  await page.keyboard.press('1');
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'hidden' });
  const begun = () => page.evaluate(() => fetch('/api/runs').then((it) => it.json()).then((it) => it.runs.length));
  assert.equal(await begun(), 0, 'nothing is begun before somebody has said yes');
  await ask.click();
  await page.getByRole('button', { name: 'Begin on 3 groups' }).click();
  await says(page, 'h1', /^Run \d+$/);
  await says(page, 'tbody tr', /good.*done.*LIST/s);
  await says(page, '.facts', /In parts\s*2 parts out so far: 3 of 3/);
  for (const name of ['Abort', 'Cancel']) await page.getByRole('button', { name, exact: true }).waitFor();
  for (const name of ['Pause', 'Resume', 'Do again what failed']) assert.equal(await page.getByRole('button', { name, exact: true }).count(), 0, name);

  await go(page, '#/submit');
  await page.getByRole('link', { name: 'begin a run' }).click();
  await page.getByLabel('What is to be done').fill('by name');
  const names = page.getByLabel('Or on these groups');
  for (const name of ['good', 'nobody']) {
    await names.fill(name);
    await names.press('Enter');
  }
  // The last one counts as it stands there.
  await names.pressSequentially('better');
  await says(page, '.same code', /^contactctl run --to good --to nobody --to better/);
  expect(/status of 40[04]/);
  await ask.click();
  await says(page, '.failed', /^That failed: .*nobody/);
  await page.getByRole('button', { name: 'Take nobody away' }).click();
  await ask.click();
  await page.getByRole('button', { name: 'Begin on 2 groups' }).click();
  await says(page, '.view-head .badge', 'completed');
  assert.equal(await begun(), 2);
}

export async function dialled({ open, reached, expect, shot }) {
  const page = await open('#/clients');
  await live(page);
  await page.locator('summary').click();
  const dial = page.getByRole('button', { name: 'Dial it' });
  await dial.click();
  await says(page, '.failed', 'Where does it listen?');
  expect(/status of 400/);
  await page.getByLabel('Address', { exact: true }).fill('worker.example:50061');
  await dial.click();
  await says(page, '.failed', /^That failed: .*--dial-tls-ca/);
  const address = process.env.CONTACT_WORKER;
  await page.getByLabel('Address', { exact: true }).fill(address);
  await page.getByLabel('Group', { exact: true }).fill('workers');
  await says(page, '.same code', new RegExp(`^contactctl dial add ${address} --group workers --server`));
  await dial.click();
  await says(page, '.note', 'is dialled from now on');
  await says(page, 'tr', /not connected.*refused.*(again in|connecting)/s);
  await shot(page, 'dialled');
  reached('it is dialled');
  await says(page, 'tr', new RegExp(`${address}.*workers.*connected`, 's'));
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await page.getByRole('button', { name: 'Really dial it no more?' }).click();
  await page.locator('tbody tr').filter({ hasText: `contactctl dial rm ${address}` }).waitFor({ state: 'detached' });
}

export async function narrowing({ open, go, shot }) {
  const page = await open('#/tasks');
  const rows = page.locator('tbody tr');
  await rows.nth(2).waitFor();
  const group = page.getByLabel('For group');
  const state = page.getByLabel('In state');
  await group.fill('workers');
  await rows.nth(2).waitFor({ state: 'detached' });
  await says(page, 'tbody tr', /held back.*waiting/s);
  await says(page, 'tbody tr', /for everyone.*done/s);
  assert.ok(await group.evaluate((it) => it === document.activeElement), 'the field keeps the focus');
  await state.focus();
  await page.keyboard.press('w');
  await rows.nth(1).waitFor({ state: 'detached' });
  await says(page, 'tbody tr', 'held back');
  await says(page, '.left-out', 'Looked at tasks 1 to 3.');
  assert.match(page.url(), /#\/tasks\?group=workers&state=waiting$/);
  await shot(page, 'narrowed');
  await page.reload();
  await says(page, 'tbody tr', 'held back');
  assert.equal(await rows.count(), 1, 'it stands in the address');
  await state.selectOption('dead');
  await says(page, '.empty', 'None like that. Looked at tasks 1 to 3.');

  await go(page, '#/groups');
  await page.locator('tbody tr').filter({ hasText: 'workers' }).getByRole('link', { name: '1', exact: true }).first().click();
  await says(page, 'tbody tr', 'held back');
  assert.match(page.url(), /#\/tasks\?group=workers&state=waiting$/);
}

export async function theHour({ open, reached }) {
  const page = await open();
  await page.locator('.charts canvas').nth(2).waitFor();
  reached('the charts are shown');
  const hour = page.getByRole('radio', { name: '1 h' });
  assert.equal(await hour.isChecked(), false);
  await page.getByRole('radio', { name: '5 min' }).focus();
  await page.keyboard.press('ArrowRight');
  assert.equal(await hour.isChecked(), true);
  // Its first step takes ten seconds; the value under the chart is that of the newest one.
  await page.locator('.legend-entry').filter({ hasText: /accepted\s*0\.\d/ }).waitFor();
  await page.reload();
  await page.locator('.legend-entry').filter({ hasText: /accepted/ }).waitFor();
  assert.equal(await hour.isChecked(), true, 'the choice is remembered');
  await page.getByRole('radio', { name: '5 min' }).check();
  // Now it is that of the last second, in which nothing came.
  await page.locator('.legend-entry').filter({ hasText: /accepted\s*0$/ }).waitFor();
}

export async function removing({ open, shot }) {
  const page = await open();
  await says(page, '.issue, h1', 'No client of retired is connected; 1 task waits');
  await page.locator('.issue').getByRole('link', { name: 'Look' }).click();
  const row = page.locator('tbody tr').filter({ hasText: 'retired' });
  await says(page, 'tbody code', /^contactctl group rm retired/);
  await shot(page, 'removing');
  await row.getByRole('button', { name: 'Remove', exact: true }).click();
  await row.getByRole('button', { name: 'Really remove? It is owed 1 task' }).click();
  // What is addressed to it stays in the log, for a client of that name.
  await says(page, 'tbody', /retired.*no such group/s);
  await page.getByRole('link', { name: 'Groups', exact: true }).click();
  const other = page.locator('tbody tr').filter({ hasText: 'workers' });
  await other.waitFor();
  assert.equal(await other.getByRole('button', { name: 'Remove', exact: true }).count(), 0, 'its client would make it anew');
  await page.getByRole('link', { name: 'Overview', exact: true }).click();
  await says(page, 'h1', 'There is no group retired; 1 task waits. Is the name right?');
}

export async function neverCame({ open, go, shot }) {
  const page = await open();
  await says(page, 'h1', 'There is no group emials; 2 tasks wait. Is the name right?');
  await says(page, '.issue', 'There is a group emails.');
  await says(page, '.issue code', /^contact-client .*--group emials/);
  await shot(page, 'never-came');
  await page.locator('.issue').getByRole('link', { name: 'Look' }).click();
  await says(page, 'h1', 'Task 2');
  await go(page, '#/groups');
  const row = page.locator('tbody tr.attention').filter({ hasText: 'emials' });
  await says(page, 'tbody tr.attention', /emials.*no such group/s);
  assert.equal(await row.getByRole('button', { name: 'Pause', exact: true }).count(), 0, 'it is not there to be paused');
  await shot(page, 'never-came-groups');
  const theirs = await open('#/', { locale: 'zh-CN' });
  await says(theirs, 'h1', '没有名为 emials 的组，却有 2 个任务在等待。组名写对了吗？');
  await says(theirs, '.issue', '已有名为 emails 的组');
  await shot(theirs, 'never-came-chinese');
}

export async function manyGroups({ open }) {
  const page = await open('#/groups');
  const rows = page.locator('tbody tr');
  await says(page, '.total', '100 of 150');
  assert.equal(await rows.count(), 100);
  const more = page.getByRole('button', { name: 'Show more' });
  await more.focus();
  await page.keyboard.press('Enter');
  await rows.nth(149).waitFor();
  await more.waitFor({ state: 'hidden' });
  await says(page, '.total', /^150$/);
  await page.getByLabel('Search groups').fill('-149');
  await rows.nth(1).waitFor({ state: 'detached' });
  await says(page, '.total', /^1$/);
}

export async function pausing({ open, reached }) {
  const page = await open('#/groups');
  const row = page.locator('tbody tr').filter({ hasText: 'workers' });
  await says(page, 'tbody .hint', 'Retries: max=5');
  await row.getByRole('button', { name: 'Pause', exact: true }).click();
  await says(page, 'tbody tr.attention', /workers.*paused/s);
  await says(page, 'tbody code', /^contactctl resume workers/);
  reached('the group is paused');
  await page.getByRole('link', { name: 'Overview', exact: true }).click();
  await says(page, 'h1', 'workers is paused; 1 task waits');
  await page.locator('.issue').getByRole('button', { name: 'Resume', exact: true }).click();
  await says(page, 'h1', 'All is well');
}

export async function lostContact({ open, reached, expect, shot }) {
  const page = await open();
  await live(page);
  await says(page, 'h1', 'Ready');
  // The browser says itself that a request failed.
  expect(/Failed to load resource: net::ERR_/, /net::ERR_(INCOMPLETE_CHUNKED_ENCODING|CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE)/);
  reached('contact');
  await says(page, 'h1', /^Lost contact since \d\d:\d\d:\d\d, trying again$/);
  await says(page, '.verdict code', /^contact-server --data /);
  const opacity = await page.locator('.figures').evaluate((it) => {
    for (const animation of it.getAnimations()) animation.finish();
    return Number(getComputedStyle(it).opacity);
  });
  assert.ok(opacity < 0.6, 'figures of the past are greyed');
  assert.match(await page.title(), /^✕/);
  await page.getByRole('link', { name: 'Submit', exact: true }).click();
  await submit(page, 'into the void');
  await says(page, '.failed', 'The server cannot be reached');
  assert.equal(await page.getByLabel('Text', { exact: true }).inputValue(), 'into the void', 'what was written is kept');
  await shot(page, 'lost-contact');
  reached('lost contact');
  await live(page);
  await page.locator('.lost-strip').waitFor({ state: 'hidden' });
  await submit(page, 'and again');
  await says(page, '.note', /^Task 1 is accepted/);
}

/** Waits until so many streams of events are open at the server. */
async function streams(wanted) {
  const deadline = Date.now() + 45_000;
  for (;;) {
    const metrics = await (await fetch(`${process.env.CONTACT_PAGE}/metrics`)).text();
    const open = Number(/^contact_event_listeners (\d+)$/m.exec(metrics)[1]);
    if (open === wanted) return;
    assert.ok(Date.now() < deadline, `${open} streams are open, not ${wanted}`);
    await sleep(200);
  }
}

/** As when another tab is looked at, or this one again. */
const lookedAt = (page, is) => page.evaluate((hidden) => {
  Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });
  document.dispatchEvent(new Event('visibilitychange'));
}, !is);

export async function manyTabs({ open, go }) {
  const tabs = [await open('#/submit')];
  while (tabs.length < 8) {
    tabs.push(await tabs[0].context().newPage());
    await go(tabs.at(-1), '#/submit');
  }
  for (const tab of tabs) await live(tab);
  await streams(1);
  const [last, ...others] = tabs.toReversed();
  await submit(last, 'from the eighth');
  await says(last, '.note', /^Task 2 is accepted/);

  for (const tab of others) await lookedAt(tab, false);
  await streams(1);
  await live(last);
  assert.match(await last.title(), /^✓ Submit/);
  await lookedAt(last, false);
  await streams(0);
  assert.match(await last.title(), /^Submit/, 'a tab that is not looked at says nothing of what is now');
  await lookedAt(last, true);
  await live(last);
  await streams(1);
  await last.close();
  await streams(0);
}

export async function noSharedWorker({ open, go }) {
  const page = await open();
  await page.addInitScript(() => delete globalThis.SharedWorker);
  await go(page, '#/groups');
  await page.reload();
  await live(page);
  await streams(1);
  await lookedAt(page, false);
  await streams(0);
  await lookedAt(page, true);
  await live(page);
}

export async function languages({ open, go }) {
  const page = await open();
  const { en, zh } = await page.evaluate(async () => {
    const { LANGUAGES } = await import('/assets/i18n.js');
    const kinds = (texts) => Object.fromEntries(Object.entries(texts).map(([key, it]) => [key, typeof it === 'function' ? it.length : typeof it]));
    return { en: kinds(LANGUAGES.en), zh: kinds(LANGUAGES.zh) };
  });
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  assert.deepEqual(zh, en);
  // A key that is no text would be shown as it stands.
  const key = new RegExp(`\\b(${[...new Set(Object.keys(en).map((it) => it.split('.')[0]))].join('|')})\\.[a-z_]+\\b`);
  const walk = async (at, lang) => {
    assert.equal(await at.locator('html').getAttribute('lang'), lang);
    for (const view of [...VIEWS, 'tasks/1', 'runs/new']) {
      await go(at, hashOf(view));
      await live(at);
      await at.locator(view === 'tasks/1' ? '.history li' : 'h1').first().waitFor();
      assert.doesNotMatch((await at.locator('body').innerText()).replaceAll(/contact(ctl|-client|-server).*/g, ''), key);
    }
  };
  await walk(page, 'en');
  await page.getByRole('button', { name: '中文' }).click();
  await walk(page, 'zh-Hans');
  await go(page, '#/');
  await says(page, 'h1', '一切正常：1 个客户端');
  await page.reload();
  await says(page, 'h1', '一切正常');
  const theirs = await open('#/', { locale: 'zh-CN' });
  await says(theirs, 'h1', '一切正常');
  await theirs.getByRole('button', { name: 'English' }).click();
  await says(theirs, 'h1', 'All is well: 1 client');
}

export async function phone({ open, go }) {
  for (const width of [320, 360]) {
    const page = await open('#/', { ...PHONE, viewport: { width, height: 740 } });
    for (const view of [...VIEWS, 'tasks/1', 'runs/new']) {
      await go(page, hashOf(view));
      await live(page);
      await page.locator(FORMS.includes(view) ? 'form.submit' : 'tbody tr:visible, .letter, .empty:visible').first().waitFor();
      assert.deepEqual(await page.evaluate(sideways), [], `${view} at ${width}`);
    }
  }
}

export async function keyboard({ open }) {
  const page = await open();
  await live(page);
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.placeholder || '');

  await press('Tab');
  assert.equal(await focused(), 'Skip to the content');
  await press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');

  // Round the page: nothing traps, and where the focus is can be seen.
  const seen = new Set();
  for (let i = 0; i < 300 && !(seen.size > 5 && (await page.evaluate(() => document.activeElement === document.body))); i += 1) {
    await press('Tab');
    const at = await page.evaluate(() => {
      const it = document.activeElement;
      const style = getComputedStyle(it);
      it.dataset.seen ??= String(Math.random());
      return { seen: it.dataset.seen, visible: it === document.body || style.outlineStyle !== 'none', what: it.outerHTML.slice(0, 80) };
    });
    assert.ok(at.visible, `the focus cannot be seen on ${at.what}`);
    seen.add(at.seen);
  }
  assert.ok(seen.size > 20, `${seen.size} places to go`);

  await press('?');
  await page.locator('dialog[open]').waitFor();
  await press('Escape');
  await page.locator('dialog:not([open])').waitFor({ state: 'attached' });
  await press('8');
  await says(page, 'h1', 'Submit');
  // From the heading, which has the focus, the text is the first thing.
  await press('Tab');
  await page.keyboard.type('by hand');
  await press('Control+Enter');
  await says(page, '.note', /^Task 2 is accepted/);
  await press('Escape', '/');
  await page.keyboard.type('2');
  await press('Enter');
  await says(page, 'h1', 'Task 2');
  await says(page, '.task-text', 'by hand');
  await press('2');
  await says(page, 'h1', 'Groups');
  const pause = page.getByRole('button', { name: 'Pause', exact: true });
  await pause.waitFor();
  for (let i = 0; i < 40 && !(await pause.evaluate((it) => it === document.activeElement)); i += 1) await press('Tab');
  await press('Enter');
  // The button keeps the focus though the figures around it change.
  await page.getByRole('button', { name: 'Resume', exact: true, disabled: false }).waitFor();
  await press('Enter');
  await pause.waitFor();
}

/** What the nasty names and texts of the test would do if they were HTML. */
const hit = () => document.title.includes('hit') || window.hit === true;

/** What could hide in a text or turn it around. Line ends and tabs stand between what the page shows. */
const HIDDEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

export async function textIsText({ open, go }) {
  const page = await open();
  const nasty = await page.evaluate(() => fetch('/api/groups').then((it) => it.json()).then((it) => it.groups.map((group) => group.group)));
  assert.ok(nasty.some((it) => it.includes('<img')), String(nasty));
  for (const view of [...VIEWS, 'tasks/1', 'runs/2', `clients?q=${encodeURIComponent('<img src=x onerror=hit=true>')}`, `dead?group=${encodeURIComponent('<img src=x onerror=hit=true>')}`]) {
    await go(page, hashOf(view));
    await live(page);
    if (view !== 'submit') await says(page, 'main', '<img src=x');
    assert.equal(await page.locator('main img, main script:not([src]), main iframe, main b').count(), 0, view);
    assert.equal(await page.evaluate(hit), false, view);
    assert.doesNotMatch(await page.locator('body').innerText(), HIDDEN, view);
  }
  await go(page, '#/tasks/1');
  await says(page, '.task-text', '\\u{202e}turned\\u{200b}');
  await go(page, '#/tasks/3');
  await says(page, '.facts', '<img src=x onerror=hit=true>');
  const link = page.locator('.facts a');
  assert.match(await link.innerText(), /25 B · text\/html/);
  const saved = page.waitForEvent('download');
  await link.click();
  assert.equal((await saved).suggestedFilename(), 'task-3.bin');
  assert.equal(await page.evaluate(hit), false);
  await go(page, '#/submit');
  await submit(page, '<b>bold</b><script>hit=true</script>');
  await says(page, '.task-text', '<b>bold</b><script>hit=true</script>');
  assert.equal(await page.evaluate(hit), false);
}

export async function refused({ open, go, expect }) {
  const page = await open('#/submit');
  await live(page);
  // The browser says itself that the server refused.
  expect(/status of 40[04]/);
  await submit(page, 'x'.repeat(2000));
  await says(page, '.failed', /^That failed: .*(large|long|most|bytes)/);
  assert.equal((await page.getByLabel('Text', { exact: true }).inputValue()).length, 2000, 'what was written is kept');
  await page.locator('summary').click();
  await page.getByLabel('Delay').fill('soon');
  await page.getByRole('button', { name: 'Submit', exact: true }).click();
  await says(page, '.failed', 'A duration is a number and a unit');
  await go(page, '#/tasks/4711');
  await says(page, '.failed', /there is no task 4711/);
}

export async function looks({ open, go, shot }) {
  const kinds = { light: { colorScheme: 'light' }, dark: { colorScheme: 'dark' }, phone: { ...PHONE, colorScheme: 'light' }, chinese: { locale: 'zh-CN' } };
  for (const [kind, options] of Object.entries(kinds)) {
    const page = await open('#/', { viewport: { width: 1440, height: 900 }, reducedMotion: 'reduce', ...options });
    for (const view of [...VIEWS, 'tasks/1', 'runs/new']) {
      await go(page, hashOf(view));
      await live(page);
      await page.locator(FORMS.includes(view) ? 'form.submit' : 'tbody tr, .letter').first().waitFor();
      if (view === 'overview') await page.locator('.charts canvas').nth(2).waitFor();
      await shot(page, `${view.replace('/1', '').replace('/', '-').replace('tasks', view === 'tasks' ? 'tasks' : 'task')}-${kind}`);
      assert.deepEqual(await page.evaluate(contrasts), [], `${view} ${kind}`);
    }
  }
  const page = await open('#/', { colorScheme: 'light' });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await ground();
  await page.getByRole('button', { name: 'Theme' }).click();
  await page.getByRole('button', { name: 'Theme' }).click();
  assert.notEqual(await ground(), before);
  await page.reload();
  assert.notEqual(await ground(), before, 'the theme is remembered');
}

/** The upper part of the overview while a fleet is at work. */
export async function picture({ open, reached }) {
  const page = await open('#/', { viewport: { width: 1280, height: 1600 }, colorScheme: 'light' });
  await live(page);
  const tasks = `${process.env.CONTACT_PAGE}/api/tasks`;
  const submit = async (text, to) => assert.ok((await page.request.post(tasks, { headers: { 'x-contact': '1' }, data: { text, to } })).ok());
  const kinds = [['resize IMG_', 'thumbnails'], ['letter ', 'letters'], ['index page ', 'search']];
  const seconds = Number(process.env.CONTACT_SECONDS);
  const begun = performance.now();
  const elapsed = () => (performance.now() - begun) / 1000;
  let [number, said, bad] = [4000, 0, 0];
  let over = false;
  // A load that swells and ebbs, at its peak more than the workers can do at once.
  const load = (async () => {
    for (let due = 0; !over; due += 1 / (14 + 7 * Math.sin(due / 25))) {
      await sleep(Math.max(0, (due - elapsed()) * 1000));
      number += 1;
      const [kind, to] = kinds[number % kinds.length];
      await submit(`${kind}${number}`, to);
      if (due >= (bad * seconds) / 3) await submit(`letter to nobody, ${(bad += 1)}`, 'letters');
      if (due >= said + 10) reached(`${(said += 10)} seconds`);
    }
  })();
  await says(page, 'h1, .issue', /dead letters? of letters/);
  await sleep(Math.max(0, (seconds - elapsed()) * 1000));
  await page.mouse.move(0, 0);
  const below = await page.getByRole('heading', { name: 'Tasks', exact: true }).boundingBox();
  const path = join(process.env.CONTACT_SHOTS, 'picture.png');
  await page.screenshot({ path, clip: { x: 0, y: 0, width: 1280, height: Math.floor(below.y) - 8 } });
  over = true;
  await load;
}
