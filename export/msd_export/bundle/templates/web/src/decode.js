import { BundleError } from "./errors.js";
import { refuseSize } from "./pixels.js";

const DECODED = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
const PNG = [0x89, 0x50, 0x4e, 0x47];
const JPEG = [0xff, 0xd8];
/** Segments of a JPEG that have no length. */
const BARE = [0x01, ...Array.from({ length: 10 }, (_, at) => 0xd0 + at)];

/**
 * Decode an image file to its stored pixels, upright.
 *
 * @param {Blob} image
 * @param {import("./pixels.js").ImageSpec} spec
 * @returns {Promise<import("./pixels.js").Picture>}
 * @throws {BundleError} it is no image, or has too many pixels; PNG and JPEG are then not decoded
 */
export async function decode(image, spec) {
  if (!(image instanceof Blob)) {
    throw new BundleError("An image is a Blob, such as a File.");
  }
  const stated = statedSize(new DataView(await image.arrayBuffer()));
  if (stated) {
    refuseSize(...stated, spec);
  }
  const bitmap = await createImageBitmap(image, DECODED).catch(() => {
    throw new BundleError("The image cannot be decoded. Save it again as JPEG or PNG.");
  });
  try {
    const { width, height } = bitmap;
    refuseSize(width, height, spec);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

/** Return width and height that a PNG or JPEG file states; null of anything else. */
function statedSize(file) {
  const begins = (bytes) => file.byteLength > 24 && bytes.every((b, at) => file.getUint8(at) === b);
  if (begins(PNG)) {
    return [file.getUint32(16), file.getUint32(20)];
  }
  if (!begins(JPEG)) {
    return null;
  }
  for (let at = 2; at + 9 < file.byteLength && file.getUint8(at) === 0xff;) {
    const kind = file.getUint8(at + 1);
    const isFrame = kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
    if (isFrame) {
      return [file.getUint16(at + 7), file.getUint16(at + 5)];
    }
    at += kind === 0xff ? 1 : BARE.includes(kind) ? 2 : 2 + file.getUint16(at + 2);
  }
  return null;
}
