import {
  BundleError, MultimodalClassifier, type Benchmark, type Classification, type View,
} from "msd-classifier";

const classifier: MultimodalClassifier = await MultimodalClassifier.load("/model/", {
  runtime: "/runtime/ort.mjs",
  wasm: new URL("https://example.org/ort.wasm"),
});
const answer: Classification = await classifier.classify({
  image: new Blob([]), text: "a", topK: 3, threshold: 0.5,
});
const view: View = answer.view;
const best: { label: string; probability: number } | undefined = answer.labels[0];
const decided: string[] = answer.decided, isCut: boolean = answer.isTextCut;
const differences: string[] = await classifier.selfTest();
const measured: Benchmark = await classifier.benchmark({
  runs: 10, onProgress: (share: number) => console.log(share),
});
const rounds: number[][] = measured.latency_ms.text, battery: number | undefined =
  measured.conditions.after.battery;
await classifier.close();
// @ts-expect-error a text is a string
await classifier.classify({ text: 3 });
// @ts-expect-error it is loaded, never constructed
new MultimodalClassifier();
console.log(view, best, decided, isCut, differences, rounds, battery, BundleError);
