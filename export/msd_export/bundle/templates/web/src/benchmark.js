import { BundleError } from "./errors.js";

export const VIEWS = ["multimodal", "image", "text"];
const WARM_UP_CALLS = 10, WARM_UP_MS = 250, MOST_SAMPLES = 1000, MOST_ROUNDS = 100;
const STAGE_WARM_UPS = 3, STAGE_SAMPLES = 20;
const CLOCK_READING_MS = 20;

/**
 * Time calls of each view: in rounds, the views in turns, every other round backwards.
 *
 * A round of a view ends when it has its share of the runs and of the seconds, or 1,000 samples.
 *
 * @param {Record<string, (() => Promise<unknown>)[]>} calls of each view, taken in turn
 * @param {{rounds: number, runs: number, seconds: number}} plan runs and seconds are of a view
 * @param {() => number} now milliseconds
 * @param {(share: number) => void} [progress] is called with what is done of the whole, 0 to 1
 * @returns {Promise<Record<string, number[][]>>} milliseconds of every sample, a list per round
 */
export async function timeViews(calls, plan, now, progress = () => {}) {
  const samples = Object.fromEntries(VIEWS.map((view) => [view, []]));
  const least = Math.ceil(plan.runs / plan.rounds), leastMs = plan.seconds * 1000 / plan.rounds;
  for (let round = 0; round < plan.rounds; round++) {
    const order = round % 2 ? [...VIEWS].reverse() : VIEWS;
    for (const view of order) {
      const next = turns(calls[view]);
      const begin = now(), wakeMs = view === order[0] ? WARM_UP_MS : 0;
      for (let call = 0; call < WARM_UP_CALLS || now() - begin < wakeMs; call++) {
        await next();
      }
      samples[view].push(await sample(next, least, leastMs, now));
      progress((round + (order.indexOf(view) + 1) / order.length) / plan.rounds);
    }
  }
  return samples;
}

async function sample(next, least, leastMs, now) {
  const samples = [], begin = now();
  do {
    const start = now();
    await next();
    samples.push(rounded(now() - start));
  } while (
    samples.length < MOST_SAMPLES && (samples.length < least || now() - begin < leastMs)
  );
  return samples;
}

/** Return a function that makes one call after the other, again and again. */
function turns(calls) {
  let at = 0;
  return () => calls[at++ % calls.length]();
}

/**
 * Time the stages of whole classifications, 20 after 3 of warm-up.
 *
 * @param {Record<string, (before: any) => any>} stages in order; each is given the results so far
 * @param {() => number} now milliseconds
 * @returns {Promise<Record<string, number[]>>} milliseconds of each stage, and of all as `total`
 */
export async function timeStages(stages, now) {
  const names = Object.keys(stages);
  const samples = Object.fromEntries([...names, "total"].map((name) => [name, []]));
  for (let run = 0; run < STAGE_WARM_UPS + STAGE_SAMPLES; run++) {
    const results = {}, begin = now();
    for (const name of names) {
      const start = now();
      results[name] = await stages[name](results);
      samples[name].push(rounded(now() - start));
    }
    samples.total.push(rounded(now() - begin));
  }
  for (const list of Object.values(samples)) {
    list.splice(0, STAGE_WARM_UPS);
  }
  return samples;
}

/** Return the smallest step of a clock, in milliseconds. */
export function clockStep(now) {
  const begin = now();
  let last = begin, step = Infinity;
  while (last - begin < CLOCK_READING_MS) {
    const next = now();
    if (next > last) {
      step = Math.min(step, next - last);
    }
    last = next;
  }
  return rounded(step);
}

/**
 * Refuse a plan that measures nothing.
 *
 * @throws {BundleError}
 */
export function refusePlan({ rounds, runs, seconds }) {
  for (const [name, value] of Object.entries({ rounds, runs })) {
    if (!(Number.isInteger(value) && value > 0)) {
      throw new BundleError(`${name} is a whole number from 1, not ${value}.`);
    }
  }
  if (rounds > MOST_ROUNDS) {
    throw new BundleError(`rounds is at most ${MOST_ROUNDS}, not ${rounds}.`);
  }
  if (!(seconds >= 0 && seconds < Infinity)) {
    throw new BundleError(`seconds is a number from 0, not ${seconds}.`);
  }
}

export function rounded(milliseconds) {
  return Math.round(milliseconds * 1e4) / 1e4;
}
