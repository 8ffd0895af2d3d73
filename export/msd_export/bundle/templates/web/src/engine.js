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

  /**
   * Load and verify a bundle.
   *
   * @param {string} source address of the folder that holds manifest.json
   * @param {{runtime: string, wasm: string}} addresses of onnxruntime-web's module (its entry
   *   /wasm) and of its .wasm file
   * @throws {BundleError} a file is missing, altered, or not understood
   */
  static async load(source, { runtime, wasm }) {
    const engine = new Engine();
    engine.#files = await Files.open(source);
    engine.#labels = new Labels(await engine.#files.json("labels.json"));
    engine.#spec = readImageSpec(await engine.#files.json("preprocess.json"));
    engine.#tokenizer = new Tokenizer(await engine.#files.json("text.json"));
    const model = await engine.#files.bytes(engine.#files.manifest.model);
    engine.#ort = await import(runtime);
    engine.#ort.env.wasm.wasmPaths = { wasm };
    engine.#ort.env.wasm.numThreads = 1;
    engine.#session = await engine.#ort.InferenceSession.create(model, {
      executionProviders: ["wasm"],
    });
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
    const { inputIds, attentionMask, isCut } = this.#tokenizer.encode(text);
    const { width, height } = this.#spec, { Tensor } = this.#ort;
    const image = pixels ?? new Uint8Array(width * height * 3);
    const outputs = await this.#session.run({
      image: new Tensor("uint8", image, [1, height, width, 3]),
      image_present: new Tensor("int32", Int32Array.of(pixels === null ? 0 : 1), [1]),
      input_ids: new Tensor("int32", inputIds, [1, inputIds.length]),
      attention_mask: new Tensor("int32", attentionMask, [1, attentionMask.length]),
    });
    return {
      view: pixels === null ? "text" : hasText ? "multimodal" : "image",
      logits: Array.from(outputs.logits.data),
      probabilities: Array.from(outputs.probabilities.data),
      isTextCut: isCut,
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

  /** Free the model. */
  async close() {
    await this.#session.release();
  }

  async #replay({ image, text, views }, tolerance) {
    const differences = [];
    const whole = image && await decode(new Blob([await this.#files.bytes(image)]), this.#spec);
    const pixels = image && modelPixels(whole, this.#spec);
    for (const [view, expected] of Object.entries(views)) {
      const found = await this.answer(
        view === "text" ? null : pixels, view === "image" ? "" : text,
      );
      const furthest = Math.max(
        ...found.probabilities.map((value, at) => Math.abs(value - expected.probabilities[at])),
      );
      if (!(furthest <= tolerance)) {
        differences.push(`${image ?? text}, ${view}: probabilities differ by ${furthest}.`);
      }
    }
    return differences;
  }
}

/** The files of a bundle, verified when they are read. */
class Files {
  manifest;
  #source;

  static async open(source) {
    const files = new Files();
    files.#source = source.endsWith("/") ? source : `${source}/`;
    const text = new TextDecoder().decode(await files.#fetch(MANIFEST));
    files.manifest = parsed(text, MANIFEST);
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
