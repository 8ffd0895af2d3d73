/**
 * Uses the demo page as a person does, and prints what it shows.
 *
 * node person.mjs ADDRESS IMAGE TEXT NODE_MODULES CHROMIUM
 */

import fs from "node:fs";
import path from "node:path";

const [address, image, text, modules, executablePath] = process.argv.slice(2);
const { chromium } = await import(path.join(modules, "playwright-core/index.mjs"));

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
});
const context = await browser.newContext({ viewport: { width: 390, height: 844 } });
const page = await context.newPage();
const foreign = [], problems = [], origin = new URL(address).origin;
page.on("request", (request) => {
  if (!request.url().startsWith(origin) && !/^(blob|data):/.test(request.url())) {
    foreign.push(request.url());
  }
});
page.on("pageerror", (error) => problems.push(error.message));
page.on("console", (message) => problems.push(message.text()));

const loaded = () => page.waitForSelector("#check:not([disabled])");
const answers = async (count) => {
  await page.waitForFunction((wanted) => document.querySelectorAll("ol li").length === wanted, count);
  return page.locator("article").allInnerTexts();
};

await page.goto(address);
await loaded();
const empty = await page.locator("#status").textContent();

const dropped = await page.evaluateHandle((content) => {
  const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], "photo.png", { type: "image/png" }));
  return transfer;
}, fs.readFileSync(image).toString("base64"));
await page.dispatchEvent("#drop", "drop", { dataTransfer: dropped });
const imageAlone = await answers(2);
await page.fill("#text", text);
const all = await answers(6);
const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

/** The least contrast of a text with its ground, as WCAG 2.2 defines it, in light and dark. */
const contrast = {};
for (const colorScheme of ["light", "dark"]) {
  await page.emulateMedia({ colorScheme });
  contrast[colorScheme] = await page.evaluate(() => {
    const channels = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = (color) => {
      const [red, green, blue] = channels(color).map((value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const groundOf = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor;
        if ((channels(color)[3] ?? 1) === 1) {
          return color;
        }
      }
      return null; // the browser's own: luminance fails on it
    };
    const texts = [...document.querySelectorAll("body *")].filter((element) => {
      const isSaid = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      return (isSaid || element.matches("textarea")) && element.checkVisibility();
    });
    return texts.map((element) => {
      const [low, high] = [getComputedStyle(element).color, groundOf(element)]
        .map(luminance).sort((a, b) => a - b);
      const name = element.id || element.className || element.localName;
      return { name, ratio: (high + 0.05) / (low + 0.05) };
    }).sort((a, b) => a.ratio - b.ratio)[0];
  });
}

await page.click("#remove");
const textAlone = await answers(2);
const focused = await page.evaluate(() => document.activeElement.id);

await page.setInputFiles("#file", { name: "a.jpg", mimeType: "image/jpeg", buffer: Buffer.from("no") });
await page.waitForFunction(() => document.getElementById("problem").textContent);
const refused = await page.locator("#problem").textContent();
await page.click("#remove");

await page.click("#check");
await page.waitForFunction(() => /[a-z]\./.test(document.getElementById("checked").textContent));
const checked = await page.locator("#checked").textContent();

await page.fill("#text", text);
await page.click("#measure");
await page.waitForSelector("#save:not([hidden])", { timeout: 120_000 });
const measured = await page.locator("#measured").textContent();
const [saved] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
const benchmark = JSON.parse(fs.readFileSync(await saved.path(), "utf8"));

/** Everything that a keyboard reaches, in its order, with its name for a screen reader. */
const reached = [];
await page.evaluate(() => document.activeElement.blur());
for (let at = 0; at < 8; at++) {
  await page.keyboard.press("Tab");
  reached.push(await page.evaluate(() => {
    const { id, labels, textContent } = document.activeElement;
    return `${id}: ${labels?.[0]?.textContent ?? textContent.trim()}`;
  }));
}

await page.evaluate(() => navigator.serviceWorker.ready);
await page.waitForFunction(async () => (await caches.keys()).length === 1
  && Boolean(await caches.match("/runtime/ort-wasm-simd-threaded.wasm")));
await context.setOffline(true);
await page.reload();
await loaded();
await page.fill("#text", text);
const offline = await answers(2);

console.log(JSON.stringify({
  empty, imageAlone, all, textAlone, focused, refused, checked, measured, benchmark, contrast, reached,
  offline, overflow, foreign, problems,
}));
await browser.close();
