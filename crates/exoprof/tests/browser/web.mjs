// Drives the page of `exoprof view --http` in a real browser. Arguments: the folder of
// playwright-core, and the page's address.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, address] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const page = await browser.newPage({ viewport: { width: 1200, height: 800 } });
page.setDefaultTimeout(30000);
page.on('pageerror', (e) => assert.fail(e.message));
// The browser logs the one failed request that this test makes.
let expectedFailures = 0;
page.on('console', (m) => {
  if (m.type() !== 'error') return;
  if (expectedFailures > 0 && m.text().includes('status of 400')) expectedFailures -= 1;
  else assert.fail(m.text());
});
page.on('dialog', (d) => assert.fail(`a name became code: ${d.message()}`));
page.on('request', (r) => assert.ok(r.url().startsWith(address) || r.url() === 'data:,', r.url()));
const shown = (hash) => page.waitForFunction((h) => document.body.dataset.shown === h, hash);
const width = (locator) => locator.evaluate((e) => e.querySelector('rect').getBBox().width);
const frame = (name) => page.locator('#flame .frame', { hasText: name }).first();

// The flame graph: zoom, invert, group by thread. Trees are fetched on demand.
await page.goto(address);
await page.waitForSelector('#flame .frame');
assert.equal(Math.round(await width(frame('root:'))), 1200);
await frame('hot:').click();
assert.equal(Math.round(await width(frame('hot:'))), 1200);
await page.locator('#reset').click();
await page.locator('#invert').click();
await page.waitForSelector('#flame .frame[y="0"]:has-text("spin:")');
await page.locator('#invert').click();
await page.locator('#by').selectOption('thread');
await page.waitForSelector('#flame .frame[y="0"]:has-text("thread: main")');

// The table is sorted by the clicked column.
await page.locator('nav a', { hasText: 'Top' }).click();
await shown('#top');
const names = () => page.locator('#table tbody tr td:last-child a:first-child').allTextContents();
assert.equal((await names())[0].trim(), 'spin');
await page.locator('#table th button', { hasText: 'cum' }).click();
assert.equal((await names())[0].trim(), 'root');
assert.ok((await names()).some((n) => n.startsWith('</script><img src=x onerror=alert(1)>')));
assert.equal(await page.locator('img').count(), 0);

// A click on a function lists the callers of exactly this function. Then filters.
await page.locator('#table tbody a', { hasText: 'cold' }).first().click();
await page.waitForFunction(() => document.getElementById('text').textContent.includes('| cold'));
const peek = await page.locator('#text').textContent();
assert.ok(peek.includes('|   root') && peek.includes('|   recursive'));
await page.locator('nav a', { hasText: 'Source' }).click();
await page.waitForFunction(() => document.getElementById('text').textContent.includes('No source information for cold'));
await page.locator('nav a', { hasText: 'Top' }).click();
await page.locator('#focus').fill('hot');
await page.locator('#focus').press('Enter');
await page.waitForFunction(() => document.querySelectorAll('#table tbody tr').length === 3);
expectedFailures = 1;
await page.locator('#focus').fill('(');
await page.locator('#focus').press('Enter');
await page.waitForFunction(() => document.getElementById('message').textContent.includes('invalid regular expression'));
// The Back button returns to the previous view.
await page.goBack();
await page.waitForFunction(() => document.getElementById('focus').value === 'hot');
await browser.close();
console.log('ok');
