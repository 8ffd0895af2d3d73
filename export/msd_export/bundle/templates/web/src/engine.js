import { VIEWS, clockStep, refusePlan, rounded, timeStages, timeViews } from "./benchmark.js";
import { decode } from "./decode.js";
import { BundleError, check } from "./errors.js";
import { Labels } from "./labels.js";
import { modelPixels, readImageSpec } from "./pixels.js";
import { Tokenizer } from "./tokenizer.js";

const MANIFEST = "manifest.json";

/** A loaded bundle, in the thread that it is loaded in; `MultimodalClassifier` has one in a worker. */
export class Engine {
  #files;
  #ort;
  #session;
  #tokenizer;
  #spec;
  #labels;
  #loadMs;
  #firstMs = null;

  /**
   * Load and verify a bundle.
   *
   * @param {string} source address of the folder that holds manifest.json
   * @param {{runtime: string, wasm: string}} addresses of onnxruntime-web's module (its entry
   *   /wasm) and of its .wasm file
   * @throws {BundleError} a file is missing, altered, or not understood
   */
  static async load(source, { runtime, wasm }) {
    const engine = new Engine(), begin = performance.now();
    engine.#files = await Files.open(source);
    engine.#labels = new Labels(await engine.#files.json("labels.json"));
    engine.#spec = readImageSpec(await engine.#files.json("preprocess.json"));
    engine.#tokenizer = new Tokenizer(await engine.#files.json("text.json"));
    const model = await engine.#files.bytes(engine.#files.manifest.model);
    engine.#ort = await import(/* webpackIgnore: true */ /* @vite-ignore */ runtime);
    engine.#ort.env.wasm.wasmPaths = { wasm };
    engine.#ort.env.wasm.numThreads = 1;
    engine.#session = await engine.#ort.InferenceSession.create(model, {
      executionProviders: ["wasm"],
    });
    engine.#loadMs = rounded(performance.now() - begin);
    return engine;
  }

  /** Classify an image, a text, or both; see `MultimodalClassifier`. */
  async classify({ image, text = "", topK = 5, threshold } = {}) {
    if (threshold !== undefined && !(threshold >= 0 && threshold <= 1)) {
      throw new BundleError(`A threshold is from 0 to 1, not ${threshold}.`);
    }
    const pixels = image ? modelPixels(await decode(image, this.#spec), this.#spec) : null;
    const answer = await this.answer(pixels, text);
    const { names } = this.#labels;
    const ranked = names
      .map((label, at) => ({ label, probability: answer.probabilities[at], at }))
      .sort((a, b) => answer.logits[b.at] - answer.logits[a.at])
      .map(({ label, probability }) => ({ label, probability }));
    return {
      view: answer.view,
      labels: ranked.slice(0, topK),
      decided: this.#labels.decide(answer.probabilities, answer.logits, answer.view, threshold),
      isTextCut: answer.isTextCut,
    };
  }

  /**
   * Answer for an image as the model takes it.
   *
   * @param {Uint8Array | null} pixels RGB of the model's size; null: no image
   * @param {string} text perhaps blank
   */
  async answer(pixels, text) {
    const hasText = !this.#tokenizer.isAbsent(text);
    if (pixels === null && !hasText) {
      throw new BundleError("There is nothing to classify. Give an image, a text, or both.");
    }
    const tokens = this.#tokenizer.encode(text);
    const outputs = await this.#run(pixels, tokens);
    return {
      view: pixels === null ? "text" : hasText ? "multimodal" : "image",
      logits: Array.from(outputs.logits.data),
      probabilities: Array.from(outputs.probabilities.data),
      isTextCut: tokens.isCut,
    };
  }

  /**
   * Replay the bundle's test vectors.
   *
   * @returns {Promise<string[]>} every difference from Python, in words; empty: none
   */
  async selfTest() {
    const vectors = await this.#files.json("vectors.json");
    const differences = [];
    for (const { text, words, ids } of vectors.texts) {
      if (String(this.#tokenizer.words(text)) !== String(words)) {
        differences.push(`The text ${JSON.stringify(text)} has other words.`);
      }
      const { inputIds, attentionMask } = this.#tokenizer.encode(text);
      const found = inputIds.slice(0, attentionMask.reduce((sum, one) => sum + one));
      if (String(Array.from(found)) !== String(ids)) {
        differences.push(`The text ${JSON.stringify(text)} has other identifiers.`);
      }
    }
    for (const vector of vectors.noise.filter(({ orientation }) => orientation === 1)) {
      if (await digest(modelPixels(noise(vector), this.#spec)) !== vector.model_pixels) {
        const { width, height, channels } = vector;
        differences.push(`Noise of ${width} x ${height} x ${channels} has other pixels.`);
      }
    }
    for (const example of vectors.examples) {
      differences.push(...await this.#replay(example, vectors.tolerance));
    }
    return differences;
  }

  /** Measure latency; see `MultimodalClassifier`. */
  async benchmark({ image, text, rounds = 4, runs = 200, seconds = 3 }, progress) {
    const plan = { rounds, runs, seconds };
    refusePlan(plan);
    const now = () => performance.now(), measured_utc = new Date().toISOString();
    const { examples } = await this.#files.json("vectors.json");
    const usual = examples.find((example) => example.image);
    check(usual, "vectors.json", "has no example with an image");
    const photo = image ?? new Blob([await this.#files.bytes(usual.image)]);
    const words = text ?? usual.text;
    const { width, height } = await decode(photo, this.#spec);
    const latency_ms = await timeViews(await this.#calls(examples), plan, now, progress);
    const stages_ms = await timeStages({
      decode: () => decode(photo, this.#spec),
      resize: (done) => modelPixels(done.decode, this.#spec),
      tokenize: () => this.#tokenizer.encode(words),
      inference: (done) => this.#run(done.resize, done.tokenize),
    }, now);
    return {
      schema_version: 1,
      kind: "app_benchmark",
      platform: "web",
      form: this.#files.manifest.form,
      bundle_digest: this.#files.digest,
      export_digest: this.#files.manifest.export_digest,
      runtime: `onnxruntime-web ${this.#ort.env.versions.web}`,
      threads: 1,
      device: {
        model: navigator.userAgentData?.platform || navigator.platform || "unknown",
        system: navigator.userAgent || "unknown",
        cores: navigator.hardwareConcurrency || 1,
      },
      measured_utc,
      load_ms: this.#loadMs,
      first_ms: this.#firstMs,
      clock_step_ms: clockStep(now),
      latency_ms,
      photo: { bytes: photo.size, width, height, characters: Array.from(words).length },
      stages_ms,
    };
  }

  /** Run the model; `pixels` is null where there is no image. */
  async #run(pixels, { inputIds, attentionMask }) {
    const { width, height } = this.#spec, { Tensor } = this.#ort;
    const image = pixels ?? new Uint8Array(width * height * 3);
    const begin = performance.now();
    const outputs = await this.#session.run({
      image: new Tensor("uint8", image, [1, height, width, 3]),
      image_present: new Tensor("int32", Int32Array.of(pixels === null ? 0 : 1), [1]),
      input_ids: new Tensor("int32", inputIds, [1, inputIds.length]),
      attention_mask: new Tensor("int32", attentionMask, [1, attentionMask.length]),
    });
    this.#firstMs ??= rounded(performance.now() - begin);
    return outputs;
  }

  /** Return calls of the model for examples, by view, with the inputs prepared. */
  async #calls(examples) {
    const calls = Object.fromEntries(VIEWS.map((view) => [view, []]));
    for (const example of examples) {
      for (const { view, pixels, text } of await this.#viewsOf(example)) {
        const tokens = this.#tokenizer.encode(text);
        calls[view].push(() => this.#run(pixels, tokens));
      }
    }
    for (const view of VIEWS) {
      check(calls[view].length > 0, "vectors.json", `has no example of the view ${view}`);
    }
    return calls;
  }

  async #replay(example, tolerance) {
    const differences = [];
    for (const { view, pixels, text, expected } of await this.#viewsOf(example)) {
      const found = await this.answer(pixels, text);
      const furthest = Math.max(
        ...found.probabilities.map((value, at) => Math.abs(value - expected.probabilities[at])),
      );
      if (!(furthest <= tolerance)) {
        const name = example.image ?? example.text;
        differences.push(`${name}, ${view}: probabilities differ by ${furthest}.`);
      }
    }
    return differences;
  }

  /** Return the input of each view of an example of vectors.json, and what Python answered. */
  async #viewsOf({ image, text, views }) {
    const file = image && new Blob([await this.#files.bytes(image)]);
    const pixels = file && modelPixels(await decode(file, this.#spec), this.#spec);
    return Object.entries(views).map(([view, expected]) => ({
      view, expected, pixels: view === "text" ? null : pixels, text: view === "image" ? "" : text,
    }));
  }
}

/** The files of a bundle, verified when they are read. */
class Files {
  manifest;
  /** SHA-256 of manifest.json, which has those of all files. */
  digest;
  #source;

  static async open(source) {
    const files = new Files();
    files.#source = source.endsWith("/") ? source : `${source}/`;
    const content = await files.#fetch(MANIFEST);
    files.digest = await digest(content);
    files.manifest = parsed(new TextDecoder().decode(content), MANIFEST);
    check(files.manifest?.schema_version === 1 && files.manifest.kind === "bundle", MANIFEST,
      "is not of a bundle that this code knows");
    check(typeof files.manifest.files === "object", MANIFEST, "has no files");
    check(files.manifest.model in files.manifest.files, MANIFEST, "has no model");
    return files;
  }

  /** Return a file's bytes, whose SHA-256 is that of the manifest. */
  async bytes(name) {
    const content = await this.#fetch(name);
    check(await digest(content) === this.manifest.files[name], name, "was altered or cut");
    return content;
  }

  async json(name) {
    return parsed(new TextDecoder().decode(await this.bytes(name)), name);
  }

  async #fetch(name) {
    const address = this.#source + name.split("/").map(encodeURIComponent).join("/");
    const response = await fetch(address).catch(() => null);
    if (!response?.ok) {
      throw new BundleError(`${name}: cannot be read from ${address}.`);
    }
    return new Uint8Array(await response.arrayBuffer());
  }
}

function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch {
    throw new BundleError(`${name}: is not JSON. Write the bundle again with msd bundle.`);
  }
}

/** Return the SHA-256 of bytes in hexadecimal digits. */
async function digest(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new BundleError("Files can only be verified in a page served by https or localhost.");
  }
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Generate an image of noise; see docs/preprocessing.md, test vectors. */
function noise({ width, height, channels, seed }) {
  const data = new Uint8Array(width * height * 4).fill(255);
  let state = seed;
  const next = () => {
    state = (Math.imul(1664525, state) + 1013904223) >>> 0;
    return state >>> 24;
  };
  for (let at = 0; at < data.length; at += 4) {
    for (let channel = 0; channel < channels; channel++) {
      data[at + channel] = next();
    }
    if (channels === 1) {
      data.fill(data[at], at + 1, at + 3);
    }
  }
  return { width, height, data };
}
