/** The service worker of the demo: after the first visit it needs no network. */

const PREFIX = "msd-classifier-";
const MANIFEST = "model/manifest.json";
const CODE = [
  "demo/", "demo/demo.css", "demo/demo.js",
  ...["benchmark", "decode", "engine", "errors", "index", "labels", "pixels", "tokenizer", "worker"]
    .map((name) => `src/${name}.js`),
  "runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm",
];

const whole = (name) => new URL(name, self.registration.scope).href;

/** Return the manifest's response and the name of the cache of what it describes. */
async function current() {
  const response = await fetch(whole(MANIFEST), { cache: "no-store" });
  const digest = await crypto.subtle.digest("SHA-256", await response.clone().arrayBuffer());
  const start = new Uint8Array(digest).slice(0, 8);
  return { response, name: PREFIX + Array.from(start, (byte) => byte.toString(16)).join("-") };
}

async function fill() {
  const { response, name } = await current();
  const { files } = await response.clone().json(), cache = await caches.open(name);
  const model = Object.keys(files).map((file) => `model/${file}`);
  await cache.addAll([...CODE, ...model, MANIFEST].map(whole));
  for (const other of await caches.keys()) {
    if (other.startsWith(PREFIX) && other !== name) {
      await caches.delete(other);
    }
  }
}

/** The network's answer, so that a new bundle is seen at once; without a network, what is kept. */
async function answer(request) {
  try {
    return await fetch(request);
  } catch (error) {
    const kept = await caches.match(request, { ignoreSearch: true });
    if (kept) {
      return kept;
    }
    throw error;
  }
}

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(fill());
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const isOurs = event.request.method === "GET" && event.request.url.startsWith(whole(""));
  if (isOurs) {
    event.respondWith(answer(event.request));
  }
});
