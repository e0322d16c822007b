// Drives a flame graph in a real browser. Arguments: the folder of playwright-core, the HTML page,
// the SVG image, and the HTML page of a diff.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, page_, image, diff] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

async function open(file, options = {}) {
  const page = await browser.newPage({ viewport: { width: 1200, height: 800 }, ...options });
  page.setDefaultTimeout(20000);
  page.on('pageerror', (e) => assert.fail(e.message));
  page.on('dialog', (d) => assert.fail(`a name became code: ${d.message()}`));
  page.on('request', (r) => assert.equal(r.url(), `file://${file}`, 'unexpected request'));
  await page.goto(`file://${file}`);
  await page.waitForSelector('#flame .frame');
  return page;
}
const names = (page) => page.locator('#flame .frame title').allTextContents();
const frame = (page, name) => page.locator('#flame .frame', { hasText: name }).first();
const details = (page) => page.locator('#details').textContent();
// The rectangle itself, without the focus outline.
const width = (locator) => locator.evaluate((e) => e.querySelector('rect').getBBox().width);

{
  const page = await open(page_);
  // Names must be shown as text.
  assert.equal(await page.locator('img, iframe').count(), 0);
  assert.ok((await names(page)).some((n) => n.startsWith('</script><img src=x onerror=alert(1)>')));
  assert.equal(Math.round(await width(frame(page, 'root:'))), 1200);
  const before = await width(frame(page, 'hot:'));
  assert.ok(before > 700 && before < 740, `${before}`);

  // A click zooms in, Escape zooms out through the ancestors.
  await frame(page, 'hot:').click();
  assert.equal(Math.round(await width(frame(page, 'hot:'))), 1200);
  assert.ok(!(await names(page)).some((n) => n.startsWith('cold:')));
  await page.keyboard.press('Escape');
  await page.keyboard.press('Escape');
  assert.ok((await names(page)).some((n) => n.startsWith('cold:')));

  // With the keyboard only.
  await page.keyboard.press('ArrowDown');
  assert.match(await details(page), /^hot: /);
  await page.keyboard.press('ArrowRight');
  assert.match(await details(page), /^cold: /);
  await page.keyboard.press('Enter');
  assert.equal(Math.round(await width(frame(page, 'cold:'))), 1200);
  await page.locator('#reset').click();

  // Search: a stack counts once even if the function calls itself.
  await page.keyboard.press('/');
  await page.keyboard.type('^recursive$');
  assert.match(await details(page), /^3 frames match: 100ms \(10\.00%\)$/);
  assert.equal(await page.locator('.frame.match').count(), 3);
  await page.locator('#search').fill('(');
  assert.equal(await page.locator('#search:invalid').count(), 1);
  await page.locator('#search').fill('');
  assert.equal(await page.locator('.frame.match').count(), 0);

  // Colour by origin: the legend shows each share and marks it.
  const chip = page.locator('#legend .chip', { hasText: 'std 3%' });
  await chip.click();
  assert.match(await details(page), /^1 frame matches: 30ms \(3\.00%\)$/);
  assert.equal(await page.locator('.frame.match', { hasText: 'std::sort' }).count(), 1);
  await chip.click();
  assert.equal(await page.locator('.frame.match').count(), 0);
  assert.match(await details(page), /^cpu: 1s total$/);

  // Invert, then group by thread.
  await page.locator('#invert').click();
  const leaf = await width(page.locator('#flame .frame[y="0"]', { hasText: 'spin:' }));
  assert.ok(leaf > 720 && leaf < 760, `${leaf}`);
  await page.locator('#invert').click();
  await page.locator('#by').selectOption('thread');
  const threads = await page.locator('#flame .frame[y="0"] title').allTextContents();
  assert.deepEqual(threads.map((t) => t.split(':').slice(0, 2).join(':')), ['thread: main', 'thread: worker <b>1</b>']);

  // Narrow and wide windows, then light and dark mode.
  for (const narrow of [320, 2400]) {
    await page.setViewportSize({ width: narrow, height: 700 });
    await page.waitForFunction((w) => document.getElementById('flame').getBoundingClientRect().width === w, narrow);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), narrow);
  }
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: 'light' });
  assert.equal(await background(), 'rgb(255, 255, 255)');
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.equal(await background(), 'rgb(23, 23, 26)');
}
{
  const page = await open(image);
  assert.equal(Math.round(await width(frame(page, 'root:'))), 1200);
  await frame(page, 'hot:').click();
  assert.equal(Math.round(await width(frame(page, 'hot:'))), 1200);
  await page.locator('.button', { hasText: 'Reset zoom' }).click();
  await page.locator('.button', { hasText: 'Invert' }).click();
  assert.ok((await width(page.locator('#flame .frame[y="0"]', { hasText: 'spin:' }))) > 700);
  // The image fits the window, and no name is wider than its frame. Fonts differ by up to a pixel.
  const narrow = await open(image, { viewport: { width: 400, height: 800 } });
  assert.equal(Math.round(await width(frame(narrow, 'root:'))), 400);
  const overflowing = await narrow.locator('#flame .frame').evaluateAll((frames) => frames.filter((f) => {
    const text = f.querySelector('text');
    return text && text.getBBox().width > f.querySelector('rect').getBBox().width + 1;
  }).length);
  assert.equal(overflowing, 0);
  // The graph is also drawn when scripts are disabled.
  const scriptless = await open(image, { javaScriptEnabled: false });
  assert.equal(Math.round(await width(frame(scriptless, 'root'))), 1200);
}
{
  const page = await open(diff);
  assert.equal(await page.locator('.frame.more', { hasText: 'hot:' }).count(), 1);
  assert.equal(await page.locator('.frame.less', { hasText: 'cold:' }).count(), 1);
  await frame(page, 'hot:').hover();
  assert.match(await details(page), /^hot: 600ms, before 300ms \(\+300ms\)$/);
}
await browser.close();
console.log('ok');
