import { BundleError } from "./errors.js";

export { BundleError };

/**
 * Classifies an image, a text, or both, in a worker: the page stays responsive.
 *
 * Calls may overlap; they are answered one after the other.
 */
export class MultimodalClassifier {
  #worker;
  #waiting = new Map();
  #calls = 0;

  /**
   * Load and verify a bundle.
   *
   * @param {string | URL} source the folder that holds manifest.json
   * @param {{runtime: string | URL, wasm: string | URL}} options addresses of onnxruntime-web's
   *   module (its entry /wasm) and of its .wasm file
   * @returns {Promise<MultimodalClassifier>}
   * @throws {BundleError} a file is missing, altered, or not understood
   */
  static async load(source, { runtime, wasm }) {
    const classifier = new MultimodalClassifier();
    classifier.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    classifier.#worker.addEventListener("message", ({ data }) => classifier.#settle(data));
    classifier.#worker.addEventListener("error", ({ message }) => {
      classifier.#end(`The worker has ended: ${message ?? "it cannot be loaded"}.`);
    });
    const whole = (address) => new URL(address, document.baseURI).href;
    try {
      const addresses = { runtime: whole(runtime), wasm: whole(wasm) };
      await classifier.#call("load", whole(source), addresses);
    } catch (error) {
      classifier.#end("The bundle could not be loaded.");
      throw error;
    }
    return classifier;
  }

  /**
   * Classify an image, a text, or both. A blank text counts as none.
   *
   * @param {{image?: Blob, text?: string, topK?: number, threshold?: number}} request
   *   `threshold` takes the place of the model's operating point
   * @returns {Promise<{view: string, labels: {label: string, probability: number}[],
   *   decided: string[], isTextCut: boolean}>} the most probable labels; nothing decided is an
   *   abstention
   * @throws {BundleError} neither is given, or the image cannot be read
   */
  classify({ image, text, topK, threshold } = {}) {
    return this.#call("classify", { image, text, topK, threshold });
  }

  /**
   * Replay the bundle's test vectors.
   *
   * @returns {Promise<string[]>} every difference from Python, in words; empty: none
   */
  selfTest() {
    return this.#call("selfTest");
  }

  /**
   * Measure latency, for about 10 seconds: of each view, and of each stage of a classification.
   *
   * Keep the page visible, and the device idle. `msd bench RUN --import FILE` reads the result.
   *
   * @param {{image?: Blob, text?: string, rounds?: number, runs?: number, seconds?: number,
   *   onProgress?: (share: number) => void}} options the photo and the text of the stages, in place
   *   of the bundle's own; least runs and seconds of a view, over all rounds; a function that is
   *   called with the share of the views' time that has passed, 0 to 1
   * @returns {Promise<object>} see docs/embedding.md
   * @throws {BundleError} a number is out of range, or the image cannot be read
   */
  async benchmark({ image, text, rounds, runs, seconds, onProgress } = {}) {
    await this.#call("wait");
    let wasHidden = document.hidden;
    const watch = () => {
      wasHidden ||= document.hidden;
    };
    document.addEventListener("visibilitychange", watch);
    try {
      const before = { ...await conditions(), hidden: wasHidden };
      const request = { image, text, rounds, runs, seconds };
      const measured = await this.#callWithProgress(onProgress, "benchmark", request);
      const after = { ...await conditions(), hidden: wasHidden };
      return { ...measured, conditions: { before, after } };
    } finally {
      document.removeEventListener("visibilitychange", watch);
    }
  }

  /** End the worker, and with it the model; calls that still wait are rejected. */
  async close() {
    this.#end("The classifier is closed.");
  }

  #call(call, ...given) {
    return this.#callWithProgress(undefined, call, ...given);
  }

  #callWithProgress(onProgress, call, ...given) {
    return new Promise((resolve, reject) => {
      if (this.#worker === null) {
        reject(new BundleError("The classifier is closed."));
        return;
      }
      const id = this.#calls++;
      this.#waiting.set(id, { resolve, reject, onProgress });
      this.#worker.postMessage({ id, call, given });
    });
  }

  #settle({ id, result, error, progress }) {
    const { resolve, reject, onProgress } = this.#waiting.get(id);
    if (progress !== undefined) {
      onProgress?.(progress);
      return;
    }
    this.#waiting.delete(id);
    if (error) {
      reject(error.name === "BundleError" ? new BundleError(error.message) : new Error(error.message));
    } else {
      resolve(result);
    }
  }

  #end(reason) {
    this.#worker?.terminate();
    this.#worker = null;
    for (const { reject } of this.#waiting.values()) {
      reject(new BundleError(reason));
    }
    this.#waiting.clear();
  }
}

/** Return what the browser says of the device within a second: its battery at most. */
async function conditions() {
  try {
    const late = new Promise((resolve) => setTimeout(resolve, 1000));
    const battery = await Promise.race([navigator.getBattery?.(), late]);
    const isKnown = Number.isFinite(battery?.level);
    return isKnown ? { battery: battery.level, charging: Boolean(battery.charging) } : {};
  } catch {
    return {};
  }
}
