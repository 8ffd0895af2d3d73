/**
 * Opens one model in a worker of a page, and times it there; web_worker.mjs starts the worker.
 *
 * In a worker rather than in the page, as an app runs a model: the page's own work does not come
 * between two calls, and a thread may wait for others instead of spinning. All samples of a turn
 * are taken in here, so that no message between processes is within a sample.
 *
 * A classic script, since LiteRT.js loads its runtime by `importScripts`, which modules lack.
 */
"use strict";

const NAMES = ["image", "image_present", "input_ids", "attention_mask"];
const TEXT_NAMES = ["input_ids", "attention_mask"];
const OUTPUT_NAMES = ["logits", "probabilities"];
const MAIN_ENTRY = "serving_default", TEXT_ENTRY = "text";
const LEAST_SAMPLES = 5;
const BLOCK = 10, STEADY = 0.02;

/** Models in onnxruntime-web, WebAssembly, any number of examples at once. */
class OnnxRuntimeWeb {
  #ort;
  #session;

  /** Load the runtime, without a model. */
  static async start(threads) {
    const engine = new OnnxRuntimeWeb(), root = "/packages/onnxruntime-web/dist/";
    engine.#ort = await import(`${root}ort.wasm.bundle.min.mjs`);
    engine.#ort.env.wasm.wasmPaths = { wasm: `${root}ort-wasm-simd-threaded.wasm` };
    engine.#ort.env.wasm.numThreads = threads;
    engine.#ort.env.logLevel = "error";
    // It is compiled when the first model is opened; this one is refused after that.
    const reason = await reasonOf(() => engine.load(new Uint8Array(1)));
    if (!reason || reason.includes("no available backend")) {
      throw new Error(reason ?? "accepts a file of one byte as a model");
    }
    return engine;
  }

  async load(model) {
    this.#session = await this.#ort.InferenceSession.create(model, {
      executionProviders: ["wasm"], logSeverityLevel: 3,
    });
  }

  /** Return a call that runs the model on inputs, which are copied into WebAssembly's memory. */
  prepare(inputs) {
    const feeds = this.#feeds(inputs);
    return () => this.#session.run(feeds, ["logits"]);
  }

  async predict(inputs) {
    const outputs = await this.#session.run(this.#feeds(inputs), OUTPUT_NAMES);
    return Object.fromEntries(OUTPUT_NAMES.map((name) => [name, outputs[name].data]));
  }

  #feeds(inputs) {
    const types = new Map([[Uint8Array, "uint8"], [Int32Array, "int32"]]);
    return Object.fromEntries(NAMES.map((name) => {
      const { data, shape } = inputs[name];
      return [name, new this.#ort.Tensor(types.get(data.constructor), data, shape)];
    }));
  }
}

/** Models in LiteRT.js, WebAssembly (XNNPACK), one example at a time. */
class LiteRTjs {
  #litert;
  #threads;
  #model;

  /** Load the runtime, without a model. */
  static async start(threads) {
    const engine = new LiteRTjs(), root = "/packages/@litertjs/core/";
    engine.#litert = await import(`${root}dist/index.js`);
    engine.#threads = threads;
    // In a worker it looks for its files beside the worker's script otherwise.
    const script = "litert_wasm_threaded_internal.js";
    self.Module = {
      locateFile: (name) => `${root}wasm/${name}`, mainScriptUrlOrBlob: `${root}wasm/${script}`,
    };
    await engine.#litert.loadLiteRt(`${root}wasm/`, { threads: threads > 1 });
    return engine;
  }

  async load(model) {
    const options = { accelerator: "wasm", cpuOptions: { numThreads: this.#threads } };
    this.#model = await this.#litert.loadAndCompile(model, options);
    for (const [entry, names] of [[this.#main, NAMES], [TEXT_ENTRY, TEXT_NAMES]]) {
      const found = this.#model.signatures[entry]?.getInputDetails().map(({ name }) => name);
      if (found && String([...names].sort()) !== String(found.sort())) {
        throw new Error(`its inputs are ${found.join(", ")}`);
      }
    }
  }

  /** Return a call that copies inputs into WebAssembly's memory, runs the model and reads it. */
  prepare(inputs) {
    const rows = this.#rows(inputs);
    return async () => {
      for (const row of rows) {
        await this.#run(row);
      }
    };
  }

  async predict(inputs) {
    const answers = [];
    for (const row of this.#rows(inputs)) {
      answers.push(await this.#run(row));
    }
    return Object.fromEntries(OUTPUT_NAMES.map((name) => {
      return [name, Float32Array.from(answers.flatMap((answer) => Array.from(answer[name])))];
    }));
  }

  /** The signature for image and text; older files have no other. */
  get #main() {
    const names = Object.keys(this.#model.signatures);
    return names.includes(MAIN_ENTRY) ? MAIN_ENTRY : names[0];
  }

  /** Return the examples of a batch, each with the signature that answers it. */
  #rows(inputs) {
    const isText = TEXT_ENTRY in this.#model.signatures
      && inputs.image_present.data.every((present) => !present);
    const [entry, names] = isText ? [TEXT_ENTRY, TEXT_NAMES] : [this.#main, NAMES];
    return examplesOf(inputs).map((example) => [entry, names.map((name) => [name, example[name]])]);
  }

  async #run([entry, row]) {
    const { Tensor } = this.#litert;
    const feeds = Object.fromEntries(row.map(([name, { data, shape }]) => {
      return [name, Tensor.fromTypedArray(data, shape)];
    }));
    const outputs = await this.#model.run(entry, feeds);
    const answer = {};
    for (const name of OUTPUT_NAMES) {
      answer[name] = outputs[name].toTypedArray();
    }
    [...Object.values(feeds), ...Object.values(outputs)].forEach((tensor) => tensor.delete());
    return answer;
  }
}

const ENGINES = { "onnxruntime-web": OnnxRuntimeWeb, "litert.js": LiteRTjs };

let engine, examples;

const TASKS = {
  /** Load the runtime and the examples that are timed; the model comes after that. */
  async start({ runtime, threads, views }) {
    if (!crossOriginIsolated) {
      throw new Error("the page is not isolated from other origins, so that its clock is coarse");
    }
    examples = {};
    for (const [view, files] of Object.entries(views)) {
      examples[view] = examplesOf(await readArrays(files));
    }
    engine = await ENGINES[runtime].start(threads);
  },

  async load() {
    const model = new Uint8Array(await read("/model"));
    const begin = performance.now();
    await engine.load(model);
    return performance.now() - begin;
  },

  async first() {
    const [sample] = await timeCalls(engine.prepare(examples.multimodal[0]), { runs: 1 });
    return sample;
  },

  async latency({ plans }) {
    const samples = {};
    for (const [view, plan] of Object.entries(plans)) {
      const calls = examples[view].map((example) => engine.prepare(example));
      samples[view] = await timeCalls((number) => calls[number % calls.length](), plan);
    }
    return samples;
  },

  throughput({ batchSize, plan }) {
    const rows = examples.multimodal;
    const batch = joined(Array.from({ length: batchSize }, (_, row) => rows[row % rows.length]));
    return timeCalls(engine.prepare(batch), plan);
  },

  async predict({ files }) {
    const inputs = await readArrays(files), [rows] = inputs.input_ids.shape;
    return { rows, outputs: await engine.predict(inputs) };
  },
};

/**
 * Time a call again and again; what a plan's numbers mean stands in latency.py.
 *
 * @param {(number: number) => Promise<unknown>} call takes the number of the call, from 0
 * @returns {Promise<number[]>} milliseconds of each sample
 */
async function timeCalls(call, plan) {
  const {
    warm_up = 0, warm_up_seconds = 0, settle_seconds = 0, runs, seconds = 0,
    most_seconds = Infinity,
  } = plan;
  const warmUp = await repeat(call, 0, (took, elapsed) => {
    return took.length < warm_up || elapsed < warm_up_seconds
      || (elapsed < settle_seconds && !isSteady(took));
  });
  return repeat(call, warmUp.length, (took, elapsed) => {
    return (took.length < runs || elapsed < seconds)
      && !(took.length >= LEAST_SAMPLES && elapsed > most_seconds);
  });
}

/** Call as long as `goesOn`, which is given the milliseconds of all calls and the seconds so far. */
async function repeat(call, first, goesOn) {
  const took = [], begin = performance.now();
  let end = begin;
  while (goesOn(took, (end - begin) / 1000)) {
    const start = performance.now();
    await call(first + took.length);
    end = performance.now();
    took.push(end - start);
  }
  return took;
}

/** Whether the last two blocks of calls had the same median, within 2 %. */
function isSteady(took) {
  if (took.length < 2 * BLOCK) {
    return false;
  }
  const before = median(took.slice(-2 * BLOCK, -BLOCK)), after = median(took.slice(-BLOCK));
  return Math.abs(after - before) <= STEADY * before;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

async function read(address) {
  const response = await fetch(address);
  if (!response.ok) {
    throw new Error(`${address} cannot be read (status ${response.status})`);
  }
  return response.arrayBuffer();
}

async function readArrays(files) {
  const { readArray } = await import("/web_arrays.mjs");
  const arrays = {};
  for (const [name, address] of Object.entries(files)) {
    arrays[name] = readArray(await read(address));
  }
  return arrays;
}

/** Return the rows of a batch one by one, their batch dimension kept. */
function examplesOf(inputs) {
  const [rows] = inputs.input_ids.shape;
  return Array.from({ length: rows }, (_, row) => Object.fromEntries(
    Object.entries(inputs).map(([name, { data, shape }]) => {
      const size = data.length / rows;
      return [name, { data: data.slice(row * size, (row + 1) * size), shape: [1, ...shape.slice(1)] }];
    }),
  ));
}

/** Return one batch of several examples. */
function joined(rows) {
  return Object.fromEntries(Object.entries(rows[0]).map(([name, { data, shape }]) => {
    const all = new data.constructor(data.length * rows.length);
    rows.forEach((row, at) => all.set(row[name].data, at * data.length));
    return [name, { data: all, shape: [rows.length, ...shape.slice(1)] }];
  }));
}

/** Return why a call fails; null: it does not. */
async function reasonOf(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

/** Return the message of what was thrown; WebAssembly may throw a number, or an object of its own. */
function messageOf(error) {
  return String(error?.message || error || "no reason is stated");
}

self.addEventListener("message", async ({ data: { task, given } }) => {
  try {
    self.postMessage({ result: await TASKS[task](given) });
  } catch (error) {
    self.postMessage({ reason: messageOf(error) });
  }
});
