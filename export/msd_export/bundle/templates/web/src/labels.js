import { check } from "./errors.js";

const FILE = "labels.json";
const PROBLEMS = ["single_label", "multi_label", "soft_label"];
const VIEWS = ["multimodal", "image", "text"];

/** The classes of a model, and what is decided at which probabilities. */
export class Labels {
  /** Names of the classes, in the order of the model's outputs. */
  names;
  #isMultiLabel;
  #thresholds;

  /**
   * @param {object} content of labels.json
   * @throws {BundleError} a key is missing or has another type
   */
  constructor(content) {
    check(content?.schema_version === 1, FILE, "has an unknown schema_version");
    check(PROBLEMS.includes(content.problem), FILE, "problem is unknown");
    const names = content.labels;
    check(Array.isArray(names) && names.length > 0 && names.every((n) => typeof n === "string"),
      FILE, "labels are not a list of names");
    this.names = names;
    this.#isMultiLabel = content.problem === "multi_label";
    const point = content.operating_point;
    if (point !== undefined) {
      const stated = this.#isMultiLabel ? point?.thresholds : point?.abstain_below;
      const count = this.#isMultiLabel ? names.length : 1;
      this.#thresholds = Object.fromEntries(VIEWS.map((view) => {
        const values = [stated?.[view]].flat();
        check(values.length === count && values.every(isShare), FILE,
          `operating_point has no ${count} numbers from 0 to 1 for the ${view} view`);
        return [view, values];
      }));
    }
  }

  /**
   * Return the names of the classes that are decided; none is an abstention.
   *
   * @param {ArrayLike<number>} probabilities of the classes
   * @param {number[]} logits of the classes: where probabilities round to the same, the
   *   largest one tells which class is the most probable
   * @param {"multimodal" | "image" | "text"} view what the example had
   * @param {number} [threshold] instead of those of the operating point
   */
  decide(probabilities, logits, view, threshold) {
    const values = Array.from(probabilities);
    const given = threshold === undefined ? this.#thresholds?.[view] : [threshold];
    if (this.#isMultiLabel) {
      return this.names.filter((_, at) => isReached(values[at], given?.[at % given.length] ?? 0.5));
    }
    const best = logits.indexOf(Math.max(...logits));
    return given === undefined || isReached(values[best], given[0]) ? [this.names[best]] : [];
  }
}

function isReached(probability, threshold) {
  return probability >= threshold && threshold < 1;
}

function isShare(value) {
  return typeof value === "number" && value >= 0 && value <= 1;
}
