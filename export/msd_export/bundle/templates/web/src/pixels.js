import { BundleError, check } from "./errors.js";

const FILE = "preprocess.json";
const RESIZE = "pillow-bilinear-antialiased-uint8";
const BITS = 22, ROUND = 2 ** 21;
const WHITE = 255;
/** The most pixels of an image, unless preprocess.json states another number. */
const MAX_PIXELS = 89_478_485;

/**
 * How an image becomes the model's input.
 *
 * @typedef {{width: number, height: number, mode: "fit" | "crop", maxPixels: number}} ImageSpec
 */

/**
 * An upright image: RGB with opacity, not premultiplied, four bytes a pixel, row by row.
 *
 * @typedef {{width: number, height: number, data: Uint8ClampedArray | Uint8Array}} Picture
 */

/**
 * Read the image part of preprocess.json.
 *
 * @returns {ImageSpec}
 * @throws {BundleError} it has values that this code does not know
 */
export function readImageSpec(content) {
  const image = content?.image;
  check(content?.schema_version === 1, FILE, "has an unknown schema_version");
  check(image?.resize === RESIZE, FILE, "image.resize is unknown");
  check(image.mode === "fit" || image.mode === "crop", FILE, "image.mode is unknown");
  const [height, width] = image.size ?? [];
  const maxPixels = image.max_pixels ?? MAX_PIXELS;
  for (const value of [height, width, maxPixels]) {
    check(Number.isInteger(value) && value > 0, FILE, "image has a size that is none");
  }
  return { width, height, mode: image.mode, maxPixels };
}

/**
 * Return what the model gets of a picture: over white, resized, padded or cut.
 *
 * @param {Picture} picture
 * @param {ImageSpec} spec
 * @returns {Uint8Array} RGB, height by width
 * @throws {BundleError} the picture is empty, or has too many pixels
 */
export function modelPixels(picture, spec) {
  refuseSize(picture.width, picture.height, spec);
  const [scaledWidth, scaledHeight] = scaledSize(picture.width, picture.height, spec);
  const across = middleOf(scaledWidth, spec.width), down = middleOf(scaledHeight, spec.height);
  const columns = weightsOf(picture.width, scaledWidth, across);
  const rows = weightsOf(picture.height, scaledHeight, down);
  const narrow = resizeRows(picture, columns, rows.first, rows.last);
  const scaled = resizeColumns(narrow, across.count, rows);
  if (across.count === spec.width && down.count === spec.height) {
    return scaled;
  }
  const whole = new Uint8Array(spec.width * spec.height * 3).fill(WHITE);
  const left = (spec.width - across.count) >> 1, top = (spec.height - down.count) >> 1;
  for (let row = 0; row < down.count; row++) {
    const line = scaled.subarray(row * across.count * 3, (row + 1) * across.count * 3);
    whole.set(line, ((top + row) * spec.width + left) * 3);
  }
  return whole;
}

/**
 * Refuse an image by its size, before it is decoded.
 *
 * @throws {BundleError}
 */
export function refuseSize(width, height, spec) {
  if (!(width > 0 && height > 0)) {
    throw new BundleError("The image has no pixels.");
  }
  if (width * height > spec.maxPixels) {
    const pixels = (width * height).toLocaleString("en");
    throw new BundleError(
      `The image has ${pixels} pixels, more than ${spec.maxPixels.toLocaleString("en")}.`,
    );
  }
}

/** Return the sides that an image is scaled to. */
function scaledSize(width, height, spec) {
  const isWider = width * spec.height > height * spec.width;
  if (isWider === (spec.mode === "fit")) {
    return [spec.width, Math.max(1, divideHalfUp(height * spec.width, width))];
  }
  return [Math.max(1, divideHalfUp(width * spec.height, height)), spec.height];
}

function divideHalfUp(numerator, denominator) {
  return Math.floor((2 * numerator + denominator) / (2 * denominator));
}

/** Return which pixels of a scaled side the model takes: all, or its middle. */
function middleOf(scaled, side) {
  return { start: Math.max(0, (scaled - side) >> 1), count: Math.min(scaled, side) };
}

/**
 * Return the weights of the wanted pixels of a side, in 22-bit fixed point.
 *
 * `at[i]` is the first source pixel of the ith, `weights[i]` its weights from there on; all source
 * pixels are from `first` on and before `last`.
 */
function weightsOf(size, target, wanted) {
  const at = [], weights = [];
  for (let i = wanted.start; i < wanted.start + wanted.count; i++) {
    if (size === target) {
      at.push(i);
      weights.push(Int32Array.of(2 ** BITS));
      continue;
    }
    const scale = size / target, support = Math.max(1, scale);
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const shares = new Float64Array(last - first);
    let sum = 0;
    for (let x = first; x < last; x++) {
      const share = Math.max(0, 1 - Math.abs((x + 0.5 - centre) / support));
      shares[x - first] = share;
      sum += share;
    }
    at.push(first);
    weights.push(Int32Array.from(shares, (share) => Math.floor((share / sum) * 2 ** BITS + 0.5)));
  }
  const lengths = weights.map((each, i) => at[i] + each.length);
  return { at, weights, first: at[0], last: lengths[lengths.length - 1] };
}

/** Resize rows `first` to `last` of a picture over white; return RGB. */
function resizeRows(picture, columns, first, last) {
  const { at, weights } = columns, stride = picture.width;
  const result = new Uint8Array((last - first) * at.length * 3);
  const line = new Uint8Array((columns.last - columns.first) * 3);
  for (let row = first, to = 0; row < last; row++) {
    overWhite(picture.data, row * stride + columns.first, line);
    for (let i = 0; i < at.length; i++, to += 3) {
      weigh(line, (at[i] - columns.first) * 3, 3, weights[i], result, to);
    }
  }
  return result;
}

/** Put pixels over white. */
function overWhite(data, start, line) {
  for (let from = start * 4, to = 0; to < line.length; from += 4, to += 3) {
    const opacity = data[from + 3], white = WHITE * (255 - opacity) + 127;
    for (let channel = 0; channel < 3; channel++) {
      line[to + channel] = Math.floor((data[from + channel] * opacity + white) / 255);
    }
  }
}

/** Resize the columns of RGB rows, of which the first is `rows.first`. */
function resizeColumns(narrow, width, rows) {
  const result = new Uint8Array(rows.at.length * width * 3), stride = width * 3;
  for (let i = 0, to = 0; i < rows.at.length; i++) {
    const start = (rows.at[i] - rows.first) * stride;
    for (let column = 0; column < width; column++, to += 3) {
      weigh(narrow, start + column * 3, stride, rows.weights[i], result, to);
    }
  }
  return result;
}

/** Write the weighted sum of pixels that lie `step` bytes apart. */
function weigh(source, start, step, weights, result, to) {
  let red = ROUND, green = ROUND, blue = ROUND;
  for (let x = 0, from = start; x < weights.length; x++, from += step) {
    const weight = weights[x];
    red += weight * source[from];
    green += weight * source[from + 1];
    blue += weight * source[from + 2];
  }
  result[to] = Math.min(255, red >> BITS);
  result[to + 1] = Math.min(255, green >> BITS);
  result[to + 2] = Math.min(255, blue >> BITS);
}
