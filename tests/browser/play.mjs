// Plays one scene of scenes.mjs in a real browser: `node play.mjs SCENE`. The test that starts it reads what it prints:
// a line `reached: ...` at each point it is to wait for, a line for each step, `done` at the end. Any error, also one in the browser's console
// that the scene did not expect, is an exit code of 1.
//
// CONTACT_PAGE is the page's address, CONTACT_MODULES where playwright-core is, CONTACT_CHROMIUM the browser,
// CONTACT_SHOTS the folder for screenshots.

import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import * as scenes from './scenes.mjs';

const { CONTACT_PAGE, CONTACT_MODULES, CONTACT_CHROMIUM, CONTACT_SHOTS } = process.env;
const { chromium } = createRequire(join(CONTACT_MODULES, '/'))('playwright-core');
/** For an event that the scene waits for. Shorter than the test's own, so that what is said is what was waited for. */
const DEADLINE = 45_000;

const name = process.argv[2];
const browser = await chromium.launch({
  executablePath: CONTACT_CHROMIUM,
  args: [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const problems = [];
let expected = [];
const pages = [];

const stage = {
  /** Says that a point is reached. */
  reached: (what) => console.log(`reached: ${what}`),
  /** From here on, such lines in the console are no errors. */
  expect: (...likes) => {
    expected = likes;
  },
  /** A picture of the whole page. The window is made as high as that, for what stands at its lower edge. */
  async shot(page, file) {
    const { width, height } = page.viewportSize();
    await page.setViewportSize({ width, height: await page.evaluate((least) => Math.max(least, document.documentElement.scrollHeight), height) });
    await page.screenshot({ path: join(CONTACT_SHOTS, `${file}.png`) });
    await page.setViewportSize({ width, height });
  },
  /** A page at `hash`, in a browser of its own kind. */
  async open(hash = '#/', options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', ...options });
    context.setDefaultTimeout(DEADLINE);
    const page = await context.newPage();
    page.on('console', (message) => {
      const said = `${message.text()} (${message.location().url})`;
      if (['error', 'warning'].includes(message.type()) && !expected.some((like) => like.test(said))) problems.push(`console: ${said}`);
    });
    page.on('pageerror', (error) => problems.push(`error: ${error.stack}`));
    page.on('dialog', (dialog) => {
      problems.push(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    pages.push(page);
    await stage.go(page, hash);
    return page;
  },
  /** Another view, by its address. */
  async go(page, hash) {
    console.log(`at ${hash}`);
    await page.goto(`${CONTACT_PAGE}/${hash}`);
  },
};

try {
  mkdirSync(CONTACT_SHOTS, { recursive: true });
  await scenes[name](stage);
} catch (error) {
  problems.push(error.stack);
  for (const [i, page] of pages.entries()) {
    const file = join(CONTACT_SHOTS, `failed-${name}-${i}.png`);
    await page.screenshot({ path: file }).catch(() => {});
    console.error(`how it looked: ${file}\n${await page.locator('main').innerText({ timeout: 1000 }).catch(String)}`);
  }
}
await browser.close();
for (const problem of problems) console.error(problem);
if (problems.length) process.exit(1);
console.log('done');
