/** The worker of `MultimodalClassifier`: one call after the other on one engine. */

import { Engine } from "./engine.js";

let engine;
let last = Promise.resolve();

const CALLS = {
  load: async (source, options) => {
    engine = await Engine.load(source, options);
  },
  classify: (request) => engine.classify(request),
  selfTest: () => engine.selfTest(),
  /** Is answered when all earlier calls are. */
  wait: () => {},
  benchmark: (options, progress) => engine.benchmark(options, progress),
};

self.addEventListener("message", ({ data: { id, call, given } }) => {
  last = last.then(async () => {
    try {
      const progress = (share) => self.postMessage({ id, progress: share });
      self.postMessage({ id, result: await CALLS[call](...given, progress) });
    } catch ({ name, message }) {
      self.postMessage({ id, error: { name, message } });
    }
  });
});
