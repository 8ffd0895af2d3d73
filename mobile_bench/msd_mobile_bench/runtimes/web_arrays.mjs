/** Arrays as numpy saves them: .npy files of versions 1 and 2, without pickles. In Node.js and browsers. */

const TYPES = { "|u1": Uint8Array, "<i4": Int32Array, "<f4": Float32Array };
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const ALIGNMENT = 64;

/**
 * Read an array of uint8, int32 or float32.
 *
 * @param {ArrayBuffer} buffer content of the file
 * @returns {{data: Uint8Array | Int32Array | Float32Array, shape: number[]}} row-major
 * @throws {Error} it is something else, or cut
 */
export function readArray(buffer) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  if (bytes.length < 12 || MAGIC.some((byte, at) => bytes[at] !== byte) || bytes[6] > 2) {
    throw new Error("is not a .npy file of version 1 or 2");
  }
  const [length, at] = bytes[6] === 1
    ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder("latin1").decode(bytes.subarray(at, at + length));
  const [, kind] = /'descr': '([^']*)'/.exec(header) ?? [];
  const [, sizes] = /'shape': \(([\d, ]*)\)/.exec(header) ?? [];
  if (!(kind in TYPES) || sizes === undefined || !/'fortran_order': False/.test(header)) {
    throw new Error(`has a header that is not supported: ${header.trim()}`);
  }
  const shape = sizes.split(",").filter((size) => size.trim()).map(Number);
  const content = buffer.slice(at + length);
  const count = shape.reduce((product, size) => product * size, 1);
  if (content.byteLength !== count * TYPES[kind].BYTES_PER_ELEMENT) {
    throw new Error(`has ${content.byteLength} bytes of data for the shape [${shape}]`);
  }
  return { data: new TYPES[kind](content), shape };
}

/**
 * Return the content of a .npy file, version 1.
 *
 * @param {Uint8Array | Int32Array | Float32Array} data row-major
 * @param {number[]} shape
 */
export function writeArray(data, shape) {
  const kind = Object.keys(TYPES).find((name) => data instanceof TYPES[name]);
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const before = MAGIC.length + 4;
  const length = Math.ceil((before + header.length + 1) / ALIGNMENT) * ALIGNMENT;
  const bytes = new Uint8Array(length + data.byteLength);
  bytes.set([...MAGIC, 1, 0]);
  new DataView(bytes.buffer).setUint16(8, length - before, true);
  const padded = `${header.padEnd(length - before - 1)}\n`;
  bytes.set(new TextEncoder().encode(padded), before);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), length);
  return bytes;
}
