import { MultimodalClassifier } from "../src/index.js";

const VIEWS = { multimodal: "Image and text", image: "Image alone", text: "Text alone" };
const PAUSE_MS = 250;
const RUNTIME = {
  runtime: "../runtime/ort.wasm.bundle.min.mjs",
  wasm: "../runtime/ort-wasm-simd-threaded.wasm",
};

const element = (id) => document.getElementById(id);
const file = element("file"), text = element("text"), drop = element("drop");
let classifier = null, image = null, round = 0, timer;

/** Say what cannot be done, or nothing. */
function complain(message = "") {
  element("problem").textContent = message;
}

/** Ask for every view of what there is, and show the answers. */
async function answer() {
  const now = ++round;
  complain();
  const requests = {
    multimodal: image && text.value.trim() ? { image, text: text.value } : null,
    image: image ? { image } : null,
    text: text.value.trim() ? { text: text.value } : null,
  };
  const start = performance.now(), answers = {};
  let problem = "";
  for (const [view, request] of Object.entries(requests)) {
    try {
      answers[view] = request && await classifier.classify(request);
    } catch (error) {
      problem = error.message;
    }
  }
  if (now !== round) {
    return; // a later input has been asked for meanwhile
  }
  complain(problem);
  const count = Object.values(answers).filter(Boolean).length;
  const took = `${Math.round(performance.now() - start)} ms for ${count}`;
  element("status").textContent = count
    ? `${took} ${count === 1 ? "answer" : "answers"}, decoding included.`
    : "Give an image, a text, or both.";
  show(answers);
}

function show(answers) {
  const articles = Object.entries(VIEWS).map(([view, title]) => {
    const article = element("view").content.cloneNode(true), found = answers[view];
    article.querySelector("h2").textContent = title;
    const decided = article.querySelector(".decided");
    if (!found) {
      decided.textContent = "Nothing to answer from.";
      return article;
    }
    const named = found.decided.join(", ") || "nothing: it abstains";
    decided.textContent = `Decided: ${named}.${found.isTextCut ? " The text was cut." : ""}`;
    for (const { label, probability } of found.labels) {
      const item = element("label").content.cloneNode(true);
      const share = `${(100 * probability).toFixed(1)} %`;
      item.querySelector(".name").textContent = label;
      item.querySelector(".share").textContent = share;
      const meter = item.querySelector("meter");
      meter.value = probability;
      meter.setAttribute("aria-label", `${label}: ${share}`);
      article.querySelector("ol").append(item);
    }
    return article;
  });
  element("views").replaceChildren(...articles);
}

/** Take an image, or none; the page shows it as it is stored. */
function take(blob) {
  image = blob;
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = element("remove").hidden = blob === null;
  file.hidden = element("hint").hidden = blob !== null;
  if (blob === null) {
    preview.removeAttribute("src");
    file.value = "";
  } else {
    preview.src = URL.createObjectURL(blob);
    preview.alt = blob.name ? `The image ${blob.name}` : "The pasted image";
  }
  answerSoon(0);
}

function answerSoon(pause = PAUSE_MS) {
  clearTimeout(timer);
  if (classifier) {
    timer = setTimeout(answer, pause);
  }
}

/** Take the first file of a drop or of the clipboard; the model refuses what is no image. */
function takeFrom(event, transfer) {
  const [first] = transfer.files;
  if (first) {
    event.preventDefault();
    take(first);
  }
}

async function runCheck() {
  const button = element("check"), output = element("checked");
  button.disabled = true;
  output.textContent = "Running …";
  try {
    const differences = await classifier.selfTest();
    output.textContent = differences.length
      ? `${differences.length} differences. ${differences[0]}`
      : "This browser computes what Python computes.";
  } catch (error) {
    output.textContent = error.message;
  }
  button.disabled = false;
}

async function runBenchmark() {
  const button = element("measure"), output = element("measured"), link = element("save");
  button.disabled = true;
  output.textContent = "Measuring …";
  link.hidden = true;
  try {
    const found = await classifier.benchmark({
      image: image ?? undefined,
      text: text.value.trim() ? text.value : undefined,
      onProgress: (share) => {
        output.textContent = `Measuring … ${Math.round(100 * share)} %`;
      },
    });
    const views = Object.entries(VIEWS)
      .map(([view, title]) => `${title} ${medianText(found.latency_ms[view].flat())}`);
    const { decode, resize, total } = found.stages_ms;
    output.textContent = `Median of inference: ${views.join(", ")}. A whole classification`
      + ` ${medianText(total)}, of which decoding ${medianText(decode)} and resizing`
      + ` ${medianText(resize)}.${found.conditions.after.hidden
        ? " The page was hidden for a while: measure again and keep it in front." : ""}`;
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(
      new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }),
    );
    link.hidden = false;
  } catch (error) {
    output.textContent = error.message;
  }
  button.disabled = false;
}

/** Return the median of milliseconds, as the reports state it. */
function medianText(samples) {
  const sorted = [...samples].sort((a, b) => a - b), middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  return `${median.toPrecision(3)} ms`;
}

file.addEventListener("change", () => take(file.files[0] ?? null));
text.addEventListener("input", () => answerSoon());
element("remove").addEventListener("click", () => {
  take(null);
  file.focus();
});
element("inputs").addEventListener("submit", (event) => event.preventDefault());
element("check").addEventListener("click", runCheck);
element("measure").addEventListener("click", runBenchmark);
document.addEventListener("paste", (event) => takeFrom(event, event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  takeFrom(event, event.dataTransfer);
});

try {
  classifier = await MultimodalClassifier.load("../model/", RUNTIME);
  element("check").disabled = element("measure").disabled = false;
  await answer();
  await navigator.serviceWorker?.register("../offline.js", { type: "module" });
} catch (error) {
  element("status").textContent = "The model could not be loaded.";
  complain(error.message);
}
