/**
 * A new process that runs one model in a headless Chromium, for `msd bench`.
 *
 * node web_worker.mjs --runtime NAME --threads N --browser PATH --package NAME=FOLDER ...
 *
 * It speaks the protocol of worker.py: one JSON object per line of stdin, {"task": ..., arguments},
 * one line of stdout for each, until stdin ends. A task that fails is answered with {"error": ...};
 * anything unexpected ends the process, with its reason as the last line of stderr. The control
 * kernel is not timed here: JavaScript computes it dozens of times slower than numpy, so that the
 * host's one kernel has to serve all runtimes.
 *
 * The page gets everything from a server in this process, on 127.0.0.1; nothing else is asked.
 * Memory is that of the renderer process, which holds the page, its workers and the model.
 */

import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { writeArray } from "./web_arrays.mjs";

const HOST = "127.0.0.1";
const HERE = path.dirname(fileURLToPath(import.meta.url));
const PAGE = "<!doctype html><meta charset=\"utf-8\"><title>msd bench</title>";
const TITLES = { "onnxruntime-web": "onnxruntime-web", "litert.js": "LiteRT.js" };
const PACKAGES = { "onnxruntime-web": "onnxruntime-web", "litert.js": "@litertjs/core" };
const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const HEADERS = {
  // Isolated from other sites, a page has a clock of 5 microseconds instead of 100, and threads.
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "content-security-policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
};
const BROWSER_OPTIONS = [
  "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--no-proxy-server",
  `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${HOST}`,
];
const WORKER_THREAD = "DedicatedWorker";
const START_MS = 120_000;
const KIB = 1024;

/** An error that the host reports; `kind` is a class of msd_deploy/errors.py. */
class TaskError extends Error {
  constructor(kind, what, where, fix = "") {
    super(what);
    this.parts = { kind, what, where, fix };
  }
}

/** Serves the files that were named to it, to this machine alone. */
class FileServer {
  #contents = new Map();
  #server = http.createServer((request, response) => this.#answer(request, response));

  async listen() {
    await new Promise((listening) => this.#server.listen(0, HOST, listening));
    this.origin = `http://${HOST}:${this.#server.address().port}`;
  }

  /** Serve a file, or what a function makes of it, at a path; it is read when it is asked for. */
  add(address, file, change = (content) => content) {
    fs.accessSync(file, fs.constants.R_OK);
    this.#contents.set(encodeURI(address), () => change(fs.readFileSync(file)));
  }

  addText(address, text) {
    this.#contents.set(address, () => text);
  }

  /** Serve the arrays of a folder; return the path of each by name. */
  addArrays(root, folder) {
    const names = fs.readdirSync(folder).filter((name) => name.endsWith(".npy"));
    return Object.fromEntries(names.map((name) => {
      const address = `/arrays/${root}/${name}`;
      this.add(address, path.join(folder, name));
      return [name.slice(0, -".npy".length), address];
    }));
  }

  close() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  #answer(request, response) {
    // Another site whose name leads to this machine must not read what is served here.
    if (`http://${request.headers.host}` !== this.origin) {
      response.writeHead(403).end();
      return;
    }
    const name = request.url === "/" ? "/index.html" : request.url;
    const content = this.#contents.get(name);
    if (content === undefined) {
      response.writeHead(404, HEADERS).end();
      return;
    }
    const type = TYPES[path.extname(name)] ?? "application/octet-stream";
    response.writeHead(200, { ...HEADERS, "content-type": type }).end(content());
  }
}

/** A page in a browser of its own, whose worker opens one model. */
class BrowserPage {
  #browser;
  #page;
  #failed;
  #rendererId = null;

  /**
   * Start a browser and open the server's page.
   *
   * @param {string} scratch folder for what the browser writes
   */
  static async open({ browser: executablePath, packages, scratch, origin }) {
    const opened = new BrowserPage(), { TMPDIR = os.tmpdir() } = process.env;
    process.env.TMPDIR = scratch; // playwright's folders go with the benchmark's, however it ends
    const module = path.join(packages["playwright-core"], "index.mjs");
    const { chromium } = await import(pathToFileURL(module));
    const env = { ...process.env, TMPDIR };
    const options = { executablePath, args: BROWSER_OPTIONS, env, timeout: START_MS };
    try {
      opened.#browser = await chromium.launch(options);
    } catch ({ message }) {
      const [reason] = message.split("\n");
      throw new TaskError(
        "RuntimeUnavailableError", `the browser cannot be started (${reason})`, executablePath,
        "Install Chromium, or name another one in CHROME_PATH",
      );
    }
    opened.version = opened.#browser.version();
    opened.#page = await opened.#browser.newPage();
    opened.#page.on("console", (message) => console.error(message.text()));
    opened.#failed = new Promise((resolve, reject) => {
      opened.#page.on("crash", () => reject(new Error("the page crashed")));
      opened.#browser.on("disconnected", () => reject(new Error("the browser was closed")));
    });
    opened.#failed.catch(() => {}); // it may fail between two tasks
    await opened.#page.goto(`${origin}/`, { timeout: START_MS });
    await opened.#page.evaluate(startThread);
    return opened;
  }

  /** Run a task in the page's worker; see web_thread.js. */
  async run(task, given) {
    const line = [task, given];
    const work = this.#page.evaluate(([task, given]) => globalThis.runTask(task, given), line);
    work.catch(() => {}); // a page that crashed
    return Promise.race([work, this.#failed]);
  }

  /** Find the renderer process of the page, whose worker has been started; on Linux alone. */
  async findRenderer() {
    if (process.platform === "linux") {
      const session = await this.#browser.newBrowserCDPSession();
      const { processInfo } = await session.send("SystemInfo.getProcessInfo");
      const ids = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => id);
      this.#rendererId = ids.find(hasWorker) ?? null;
    }
  }

  /** Return a value of the renderer's process in bytes, VmRSS or VmHWM; null where there is none. */
  memory(name) {
    if (this.#rendererId === null) {
      return null;
    }
    const status = fs.readFileSync(`/proc/${this.#rendererId}/status`, "utf8");
    return Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(status)[1]) * KIB;
  }

  /** Forget the renderer's peak, which was of loading the page; a sandboxed process refuses. */
  resetPeak() {
    if (this.#rendererId !== null) {
      try {
        fs.writeFileSync(`/proc/${this.#rendererId}/clear_refs`, "5");
      } catch ({ message }) {
        console.error(message);
      }
    }
  }

  async close() {
    await this.#browser?.close();
  }
}

/** Whether a process has the thread of a page's worker: the browser's other pages have none. */
function hasWorker(id) {
  const folder = `/proc/${id}/task`;
  try {
    return fs.readdirSync(folder).some((thread) => {
      return fs.readFileSync(`${folder}/${thread}/comm`, "utf8").trim() === WORKER_THREAD;
    });
  } catch {
    return false; // it has ended
  }
}

/** In the page: start its worker, and `runTask`, which resolves to the worker's answer. */
function startThread() {
  const thread = new Worker("/web_thread.js");
  let failure = null, answer = () => {};
  thread.onmessage = ({ data }) => answer(data);
  thread.onerror = ({ message }) => {
    failure = { reason: message || "its script cannot be loaded" };
    answer(failure);
  };
  globalThis.runTask = (task, given) => new Promise((resolve) => {
    answer = resolve;
    if (failure) {
      resolve(failure);
    } else {
      thread.postMessage({ task, given });
    }
  });
}

/** One opened model and the tasks that can be run on it. */
class Session {
  #server = new FileServer();
  #options;
  #page;
  #path;
  #scratch = null;
  #predictions = 0;

  constructor(options) {
    this.#options = options;
  }

  /**
   * Open a model.
   *
   * @param {string} model the exported file
   * @param {string} examples folder of the inputs that are timed; the browser's own files are
   *   written beside it
   */
  async open({ path: model, examples }) {
    const { runtime, threads, packages } = this.#options;
    this.#path = model;
    this.#scratch = fs.mkdtempSync(path.join(path.dirname(path.resolve(examples)), "browser-"));
    await this.#serve(model);
    const place = { scratch: this.#scratch, origin: this.#server.origin };
    this.#page = await BrowserPage.open({ ...this.#options, ...place });
    const views = Object.fromEntries(fs.readdirSync(examples).map((view) => {
      return [view, this.#server.addArrays(view, path.join(examples, view))];
    }));
    await this.#ask("start", { runtime, threads, views }, (reason) => new TaskError(
      "RuntimeUnavailableError", `${TITLES[runtime]} cannot be started (${reason})`,
      packages[PACKAGES[runtime]], "Run msd doctor --install web, or use a newer Chromium",
    ));
    await this.#page.findRenderer();
    const before = this.#page.memory("VmRSS");
    this.#page.resetPeak();
    const loadMs = await this.#ask("load", {}, (reason) => new TaskError(
      "ArtifactError", `${TITLES[runtime]} cannot load it (${reason})`, model,
    ));
    const { version } = JSON.parse(
      fs.readFileSync(path.join(packages[PACKAGES[runtime]], "package.json"), "utf8"),
    );
    return {
      load_time_ms: rounded(loadMs),
      rss_before_load_bytes: before,
      runtime: `${TITLES[runtime]} ${version} in Chromium ${this.#page.version}`,
    };
  }

  async first() {
    return { first_ms: rounded(await this.#ask("first", {})) };
  }

  async latency({ plans }) {
    const samples = await this.#ask("latency", { plans });
    return {
      latency_ms: Object.fromEntries(
        Object.entries(samples).map(([view, values]) => [view, values.map(rounded)]),
      ),
    };
  }

  memory() {
    return { peak_rss_bytes: this.#page.memory("VmHWM") };
  }

  async throughput({ batch_size: batchSize, batches, most_seconds }) {
    const plan = { warm_up: 1, runs: batches, most_seconds };
    const samples = await this.#ask("throughput", { batchSize, plan });
    return { batch_ms: samples.map(rounded) };
  }

  async predict({ inputs, outputs: folder }) {
    const files = this.#server.addArrays(`predict-${this.#predictions++}`, inputs);
    const { rows, outputs } = await this.#ask("predict", { files });
    const wrong = outputs.logits.filter((logit) => !Number.isFinite(logit)).length;
    if (wrong) {
      throw new TaskError(
        "ArtifactError", `${wrong} of its ${outputs.logits.length} logits are not finite numbers`,
        this.#path, "Check the model for values that are NaN or infinite",
      );
    }
    fs.mkdirSync(folder, { recursive: true });
    for (const [name, data] of Object.entries(outputs)) {
      const content = writeArray(data, [rows, data.length / rows]);
      fs.writeFileSync(path.join(folder, `${name}.npy`), content);
    }
    return { rows };
  }

  async close() {
    await this.#page?.close();
    this.#server.close();
    if (this.#scratch !== null) {
      fs.rmSync(this.#scratch, { recursive: true, force: true });
    }
  }

  /** Serve the page, the runtime's package and the model. */
  async #serve(model) {
    await this.#server.listen();
    this.#server.addText("/index.html", PAGE);
    this.#server.addText("/favicon.ico", "");
    for (const name of ["web_thread.js", "web_arrays.mjs"]) {
      this.#server.add(`/${name}`, path.join(HERE, name));
    }
    try {
      this.#server.add("/model", model);
    } catch ({ code }) {
      throw new TaskError("ArtifactError", `cannot be read (${code})`, model);
    }
    for (const [name, folder] of Object.entries(this.#options.packages)) {
      for (const file of name === "playwright-core" ? [] : filesBelow(folder)) {
        this.#server.add(`/packages/${name}/${file}`, path.join(folder, file), resolved(file));
      }
    }
  }

  /** Run a task in the page; `failure` makes the error of a reason. */
  async #ask(task, given, failure = (reason) => new TaskError(
    "MsdError", `${TITLES[this.#options.runtime]} failed during '${task}' (${reason})`, this.#path,
  )) {
    let answer;
    try {
      answer = await this.#page.run(task, given);
    } catch ({ message }) {
      throw new TaskError(
        "WorkerError", `its browser failed during '${task}' (${message.split("\n")[0]})`, this.#path,
        "Check the free memory",
      );
    }
    if ("reason" in answer) {
      throw failure(answer.reason.split("\n")[0]);
    }
    return answer.result;
  }
}

/** Return the paths of the files below a folder, relative to it, that a page may load. */
function filesBelow(folder) {
  const names = fs.readdirSync(folder, { recursive: true }).map(String);
  return names.filter((name) => /\.(m?js|wasm)$/.test(name)).map((name) => {
    return name.split(path.sep).join("/");
  });
}

/** Return what names LiteRT.js's other package by its address: a worker has no import map. */
function resolved(file) {
  if (!file.endsWith("dist/index.js")) {
    return undefined;
  }
  const name = "@litertjs/wasm-utils";
  return (content) => {
    return content.toString().replaceAll(`"${name}"`, `"/packages/${name}/dist/index.js"`);
  };
}

/** Round to 0.1 microseconds, below the resolution of the clock. */
function rounded(milliseconds) {
  return Math.round(milliseconds * 1e4) / 1e4;
}

function readOptions() {
  const { values } = parseArgs({ options: {
    runtime: { type: "string" }, threads: { type: "string" }, browser: { type: "string" },
    package: { type: "string", multiple: true },
  } });
  const packages = Object.fromEntries(values.package.map((given) => {
    const at = given.indexOf("=");
    return [given.slice(0, at), given.slice(at + 1)];
  }));
  return { ...values, threads: Number(values.threads), packages };
}

const TASKS = ["open", "first", "latency", "memory", "throughput", "predict"];

async function main() {
  const session = new Session(readOptions());
  try {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const { task, ...given } = JSON.parse(line);
      if (!TASKS.includes(task)) {
        throw new Error(`no task is named ${task}`);
      }
      let result;
      try {
        result = await session[task](given);
      } catch (error) {
        if (!(error instanceof TaskError)) {
          throw error;
        }
        result = { error: error.parts };
      }
      process.stdout.write(`${JSON.stringify(result)}\n`);
    }
  } catch (error) {
    process.exitCode = 1;
    console.error(`${error.stack}\n${error.name}: ${error.message.split("\n")[0]}`);
  } finally {
    await session.close();
  }
}

await main();
