/** What a bundle or an input of it has wrong, with what to do about it. */
export class BundleError extends Error {}

/** What an example had: image and text, the image alone, or the text alone. */
export type View = "multimodal" | "image" | "text";

export interface Addresses {
  /** Of onnxruntime-web's module, its entry `/wasm`. */
  runtime: string | URL;
  /** Of its .wasm file. */
  wasm: string | URL;
}

export interface Request {
  /** An image file. */
  image?: Blob;
  /** A blank text counts as none. */
  text?: string;
  /** How many labels are returned; 5 by default. */
  topK?: number;
  /** In place of the model's operating point, 0 to 1. */
  threshold?: number;
}

export interface Classification {
  view: View;
  /** The most probable labels, the first the most probable one. */
  labels: { label: string; probability: number }[];
  /** The labels that are decided; none is an abstention. */
  decided: string[];
  /** Whether the text has more tokens than the model takes. */
  isTextCut: boolean;
}

export interface BenchmarkOptions {
  /** The image file whose stages are timed, in place of the bundle's own. */
  image?: Blob;
  text?: string;
  /** 4 by default; the views take turns in each. */
  rounds?: number;
  /** Least samples of a view over all rounds; 200 by default. */
  runs?: number;
  /** Least seconds of a view over all rounds; 3 by default. */
  seconds?: number;
  /** Is called with the share of the views' time that has passed, 0 to 1. */
  onProgress?: (share: number) => void;
}

/** What was measured; milliseconds. `msd bench RUN --import FILE` reads it as JSON. */
export interface Benchmark {
  schema_version: 1;
  kind: "app_benchmark";
  platform: "web";
  form: string;
  bundle_digest: string;
  export_digest: string;
  runtime: string;
  threads: number;
  device: { model: string; system: string; cores: number };
  measured_utc: string;
  load_ms: number;
  first_ms: number;
  clock_step_ms: number;
  /** Of inference alone: every sample, a list per round. */
  latency_ms: Record<View, number[][]>;
  photo: { bytes: number; width: number; height: number; characters: number };
  stages_ms: Record<"decode" | "resize" | "tokenize" | "inference" | "total", number[]>;
  /** `hidden`: the page is hidden, or was while it was measured, which slows it down. */
  conditions: Record<
    "before" | "after", { battery?: number; charging?: boolean; hidden: boolean }
  >;
}

/**
 * Classifies an image, a text, or both, in a worker: the page stays responsive.
 *
 * Calls may overlap; they are answered one after the other. Promises are rejected with a
 * `BundleError` where the bundle or an input is wrong.
 */
export class MultimodalClassifier {
  private constructor();

  /** Load and verify a bundle: `source` is the folder that holds manifest.json. */
  static load(source: string | URL, addresses: Addresses): Promise<MultimodalClassifier>;

  /** Classify an image, a text, or both. */
  classify(request: Request): Promise<Classification>;

  /** Replay the test vectors; return every difference from Python, in words. */
  selfTest(): Promise<string[]>;

  /** Measure latency, for about 10 seconds: of each view, and of each stage of a classification. */
  benchmark(options?: BenchmarkOptions): Promise<Benchmark>;

  /** End the worker, and with it the model; calls that still wait are rejected. */
  close(): Promise<void>;
}
