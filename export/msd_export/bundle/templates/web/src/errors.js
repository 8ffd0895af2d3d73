/** What a bundle or an input of it has wrong, with what to do about it. */
export class BundleError extends Error {
  name = "BundleError";
}

/**
 * Return a value of one of the bundle's files, or refuse the file.
 *
 * @param {boolean} isRight whether the value is as it must be
 * @param {string} file name of the file
 * @param {string} what its key, and what it must be
 */
export function check(isRight, file, what) {
  if (!isRight) {
    throw new BundleError(`${file}: ${what}. Write the bundle again with msd bundle.`);
  }
}
