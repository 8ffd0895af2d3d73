/**
 * Opens a bundle in a browser, asks it everything that its vectors hold, and prints what it says.
 *
 * node browser.mjs BUNDLE NODE_MODULES CHROMIUM
 */

import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const [bundle, modules, executablePath] = process.argv.slice(2);
const { chromium } = await import(path.join(modules, "playwright-core/index.mjs"));

const TYPES = {
  ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json",
  ".wasm": "application/wasm", ".html": "text/html",
};
const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'";

/** Files that the server sends otherwise than they are, by path. */
const altered = new Map();

function contentOf(name) {
  if (name === "/") {
    return "<!doctype html><title>test</title>";
  }
  const file = name.startsWith("/modules/")
    ? path.join(modules, name.slice("/modules/".length))
    : path.join(bundle, name);
  return fs.existsSync(file) && fs.statSync(file).isFile() ? fs.readFileSync(file) : null;
}

const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const found = contentOf(name);
  const content = found !== null && altered.has(name) ? altered.get(name)(found) : found;
  response.writeHead(content === null ? 404 : 200, {
    "content-type": TYPES[path.extname(name)] ?? (name === "/" ? "text/html" : "image/*"),
    "content-security-policy": POLICY,
    "cache-control": "no-store",
  });
  response.end(content);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const origin = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
});
const page = await browser.newPage();
const foreign = [], problems = [];
page.on("request", (request) => {
  if (!request.url().startsWith(`${origin}/`)) {
    foreign.push(request.url());
  }
});
page.on("pageerror", (error) => problems.push(error.message));
await page.goto(`${origin}/`);
await page.evaluate(async () => {
  const dist = "/modules/onnxruntime-web/dist/";
  const { MultimodalClassifier } = await import("/src/index.js");
  globalThis.load = () => MultimodalClassifier.load("/model/", {
    runtime: `${dist}ort.wasm.bundle.min.mjs`, wasm: `${dist}ort-wasm-simd-threaded.wasm`,
  });
  globalThis.json = async (name) => (await fetch(name)).json();
  globalThis.hash = async (bytes) => {
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  globalThis.reasonOf = async (work) => {
    try {
      await work();
      return null;
    } catch ({ name, message }) {
      return `${name}: ${message}`;
    }
  };
});

/** Of texts.json: how many digests differ. */
const texts = await page.evaluate(async () => {
  const { Tokenizer } = await import("/src/tokenizer.js");
  const tokenizer = new Tokenizer(await json("/vectors/text.json"));
  const stated = await json("/vectors/texts.json");
  const hashOf = (lines) => hash(new TextEncoder().encode(lines.join("")));
  const lineOf = (text) => `${tokenizer.words(text).join(" ")}\n`;
  const differ = { texts: 0, words: 0, characters: 0, seen: 0 };
  for (const [part, expected] of stated.ids.entries()) {
    const some = stated.texts.slice(part * stated.texts_a_digest).slice(0, stated.texts_a_digest);
    const ids = some.flatMap((text) => Array.from(tokenizer.encode(text).inputIds));
    differ.texts += await hash(Int32Array.from(ids)) !== expected;
    differ.words += await hashOf(some.map(lineOf)) !== stated.words_of_texts[part];
  }
  for (const [part, expected] of stated.words.entries()) {
    const lines = [];
    for (let at = 0; at < stated.characters_a_digest; at++) {
      const scalar = part * stated.characters_a_digest + at;
      if (scalar < 0xd800 || scalar > 0xdfff) {
        lines.push(lineOf(`a${String.fromCodePoint(scalar)}b`));
      }
    }
    differ.seen += lines.length;
    differ.characters += await hashOf(lines) !== expected;
  }
  const lone = tokenizer.words("a\ud800b\udc00").join(" ");
  return { ...differ, lone };
});

/** Image files whose pixels differ from Python's, and how many there are. */
const images = await page.evaluate(async () => {
  const { decode } = await import("/src/decode.js");
  const { modelPixels, readImageSpec } = await import("/src/pixels.js");
  const spec = readImageSpec(await json("/model/preprocess.json"));
  const differ = [], vectors = (await json("/vectors/vectors.json")).images;
  for (const { file, model_pixels } of vectors) {
    const picture = await decode(await (await fetch(`/vectors/${file}`)).blob(), spec);
    if (await hash(modelPixels(picture, spec)) !== model_pixels) {
      differ.push(file);
    }
  }
  return { count: vectors.length, differ };
});

/** The examples: the largest difference of a probability, and other decisions. */
const examples = await page.evaluate(async () => {
  const classifier = await load(), { labels } = await json("/model/labels.json");
  const found = { count: 0, furthest: 0, otherwise: 0, views: 0 };
  for (const { image, text, views } of (await json("/vectors/vectors.json")).examples) {
    const file = image && await (await fetch(`/vectors/${image}`)).blob();
    for (const [view, expected] of Object.entries(views)) {
      const answer = await classifier.classify({
        image: view === "text" ? undefined : file, text: view === "image" ? "" : text,
        topK: labels.length,
      });
      const by = new Map(answer.labels.map(({ label, probability }) => [label, probability]));
      const distances = labels.map((label, at) => Math.abs(by.get(label) - expected.probabilities[at]));
      found.furthest = Math.max(found.furthest, ...distances);
      found.otherwise += String(answer.decided) !== String(expected.decided);
      found.views += answer.view === view;
      found.count++;
    }
  }
  await classifier.close();
  return found;
});

const selfTest = await page.evaluate(async () => {
  const classifier = await load(), differences = await classifier.selfTest();
  await classifier.close();
  return differences;
});

/** What a short benchmark returns, and what is refused. */
const benchmark = await page.evaluate(async () => {
  const classifier = await load(), plan = { rounds: 2, runs: 5, seconds: 0.01 };
  const shares = [], onProgress = (share) => shares.push(share);
  const result = await classifier.benchmark({ ...plan, text: "look at him go", onProgress });
  const later = classifier.benchmark({ ...plan, onProgress: () => {
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
    delete document.hidden;
  } });
  const { conditions: hidden } = await later;
  const photo = await (await fetch("/vectors/images/large.jpg")).blob();
  const other = await classifier.benchmark({ ...plan, image: photo });
  const reasons = {};
  for (const wrong of [{ rounds: 0 }, { runs: 1.5 }, { seconds: -1 }, { image: new Blob([]) }]) {
    reasons[Object.keys(wrong)[0]] = await reasonOf(() => classifier.benchmark(wrong));
  }
  await classifier.close();
  return { result, shares, hidden, photo: other.photo, bytes: photo.size, reasons };
});

/** Which view was called when, by a clock that every call moves by a millisecond. */
const timed = await page.evaluate(async () => {
  const { timeViews } = await import("/src/benchmark.js");
  let time = 0;
  const called = [], call = (name) => async () => {
    time += name === "text" ? 1 : 2;
    called.push(name);
  };
  const calls = {
    multimodal: [call("a"), call("b")], image: [call("image")], text: [call("text")],
  };
  const plan = { rounds: 2, runs: 30, seconds: 0.1 };
  const samples = await timeViews(calls, plan, () => time);
  const long = await timeViews(calls, { rounds: 1, runs: 5000, seconds: 0 }, () => time);
  const views = called.map((name) => name.length === 1 ? "multimodal" : name);
  const order = views.filter((view, at) => view !== views[at - 1]);
  return { samples, turns: called.slice(0, 4), order, most: long.text[0].length };
});

/** What is refused, and what large inputs do; the page has to tick meanwhile. */
const inputs = await page.evaluate(async () => {
  const classifier = await load();
  const photo = await (await fetch("/vectors/images/large.jpg")).arrayBuffer();
  const stated = new Uint8Array(64); // a PNG of 10,000 by 10,000 pixels, without its pixels
  stated.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52]);
  new DataView(stated.buffer).setUint32(16, 10_000);
  new DataView(stated.buffer).setUint32(20, 10_000);
  const requests = {
    nothing: {}, blank: { text: " \u2003\n" }, empty: { image: new Blob([]) },
    noise: { image: new Blob(["no image"]) }, cut: { image: new Blob([photo.slice(0, 400)]) },
    huge: { image: new Blob([stated]) }, threshold: { text: "a", threshold: 2 },
    path: { image: "photo.jpg" },
  };
  const reasons = {};
  for (const [name, request] of Object.entries(requests)) {
    reasons[name] = await reasonOf(() => classifier.classify(request));
  }
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const long = await classifier.classify({ text: "look at him go ".repeat(70_000) });
  const both = await Promise.all([
    classifier.classify({ image: new Blob([photo]) }), classifier.classify({ text: "a" }),
  ]);
  clearInterval(timer);
  const sure = await classifier.classify({ text: "look", threshold: 0.999999 });
  await classifier.close();
  reasons.closed = await reasonOf(() => classifier.classify({ text: "a" }));
  return {
    reasons, ticks, isTextCut: long.isTextCut, views: both.map(({ view }) => view),
    abstains: sure.decided.length === 0,
  };
});

/** What is said of a damaged file, by its name. */
const damaged = {};
const flipped = (content) => {
  const copy = Buffer.from(content);
  copy[Math.floor(copy.length / 2)] ^= 1;
  return copy;
};
const manifest = JSON.parse(contentOf("/model/manifest.json"));
altered.set("/model/manifest.json", (content) => content.subarray(0, content.length / 2));
damaged["manifest.json"] = await page.evaluate(() => reasonOf(load));
altered.clear();
for (const name of ["labels.json", "preprocess.json", "text.json", manifest.model]) {
  altered.set(`/model/${name}`, flipped);
  damaged[name] = await page.evaluate(() => reasonOf(load));
  altered.clear();
}
altered.set("/model/text.json", () => null);
damaged.missing = await page.evaluate(() => reasonOf(load));
altered.clear();
altered.set("/model/vectors.json", flipped);
damaged["vectors.json"] = await page.evaluate(() => reasonOf(async () => {
  const classifier = await load();
  await classifier.selfTest();
}));

console.log(JSON.stringify({
  texts, images, examples, selfTest, benchmark, timed, inputs, damaged, foreign, problems,
}));
await browser.close();
server.close();
