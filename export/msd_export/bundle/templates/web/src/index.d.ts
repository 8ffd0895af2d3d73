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

  /** Free the model and end the worker. */
  close(): Promise<void>;
}
