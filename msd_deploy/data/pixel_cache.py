"""Cache of decoded and resized images, kept on disk between runs and read memory-mapped.

One folder per set of images and specification, with a manifest. A damaged entry is made again, and
the least recently used ones are removed when the cache is too large. The key contains the version
of our arithmetic and of the decoder, so pixels of another version are never read. Where the cache
cannot be written, pixels are kept in a temporary file while the command runs.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from huggingface_hub.constants import HF_HOME

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    read_json,
    read_manifest,
    sha256_of_json,
    write_json,
    write_manifest,
)
from msd_deploy.artifacts.write_errors import cache_fix
from msd_deploy.data.images import PIXELS_VERSION, load_pixels
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import PixelArray
from msd_deploy.data.source import SourceData, column_of
from msd_deploy.data.threads import map_in_threads
from msd_deploy.errors import ArtifactError, DataError

logger = logging.getLogger(__name__)

LIMIT_BYTES = 20 * 10**9
"""The cache is pruned to this size whenever something is added."""
_KIND = "pixels"
_PIXELS_NAME, _FAILURES_NAME = "pixels.npy", "failures.json"
# A process that has just opened an entry may still be verifying it.
_IN_USE_SECONDS = 3600.0
# No decoding takes longer: what is older was left by a process that died.
_ABANDONED_SECONDS = 24 * 3600.0
_KEY_DIGITS = 64

OnCount = Callable[[str, int, int], None]
"""As `msd_deploy.hooks.StageHooks.on_count`: gets "images", those done and their total."""


def default_cache() -> Path:
    """Return the folder of cached pixels, beside the other caches of Hugging Face libraries."""
    return Path(HF_HOME) / "msd-deploy"


def cached_pixels(
    source: SourceData, preprocessor: Preprocessor, cache: Path, on_count: OnCount
) -> tuple[PixelArray, dict[str, int], dict[str, str]]:
    """Return every distinct image of a data set, decoded now or before.

    Args:
        source: The data set.
        preprocessor: How images are resized.
        cache: Folder of the cache; entries lie in its `pixels`.
        on_count: Progress of decoding.

    Returns:
        uint8 [images, height, width, 3], memory-mapped; each image's position in it by content
        digest; the reasons of those that cannot be decoded, by content digest.
    """
    places = _distinct_images(source)
    digests = sorted(places)
    made_by = {"pixels_version": PIXELS_VERSION, "pillow": PIL.__version__}
    key = sha256_of_json([made_by, preprocessor.as_json()["image"], digests])
    folder = cache / "pixels" / key
    index_of = {digest: i for i, digest in enumerate(digests)}

    def decode_into(entry: Path) -> None:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata
            failures = _decode_all(source, preprocessor, places, entry / _PIXELS_NAME, on_count)
        write_json(entry / _FAILURES_NAME, failures)
        write_manifest(entry, _KIND, made_by)

    if not _is_whole(folder):
        try:
            with new_folder(folder) as building:
                decode_into(building)
        except (ArtifactError, OSError) as error:
            pixels, reasons = _without_cache(decode_into, error)
            return pixels, index_of, reasons
        prune(folder.parent, limit_bytes=LIMIT_BYTES, keep=folder)
    pixels, reasons = _read_entry(folder)
    return pixels, index_of, reasons


def _without_cache(
    decode_into: Callable[[Path], None], failure: ArtifactError | OSError
) -> tuple[PixelArray, dict[str, str]]:
    """Return pixels and reasons by way of a temporary folder; `failure`: of the cache's."""
    try:
        # What is mapped stays readable when its file is removed; Windows keeps the file instead.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            decode_into(Path(scratch))
            fix = "" if isinstance(failure, ArtifactError) else f". {cache_fix(Path(HF_HOME))}"
            logger.warning("images are decoded without a cache: %s%s", failure, fix)
            return _read_entry(Path(scratch))
    except (ArtifactError, OSError):
        raise failure from None


def _read_entry(folder: Path) -> tuple[PixelArray, dict[str, str]]:
    """Return the pixels of an entry, memory-mapped, and its reasons by content digest."""
    failed = read_json(folder / _FAILURES_NAME)
    pixels = np.load(folder / _PIXELS_NAME, mmap_mode="r", allow_pickle=False)
    return pixels, {digest: str(reason) for digest, reason in failed.items()}


def _is_whole(folder: Path) -> bool:
    """Return whether an entry exists and matches its manifest."""
    manifest = folder / MANIFEST_NAME
    if not folder.is_dir():
        return False
    # Before verification, so that no other process prunes it meanwhile. A cache that others wrote
    # may be read-only.
    with contextlib.suppress(OSError):
        os.utime(manifest)
    try:
        read_manifest(folder, _KIND)
    except (ArtifactError, OSError) as error:
        logger.warning("the cached pixels are damaged and are decoded again (%s)", error)
        return False
    return True


def prune(entries: Path, *, limit_bytes: int, keep: Path) -> None:
    """Remove the least recently used entries until the others fit, and abandoned ones.

    What was used within the last hour stays, whatever its size: another process may be opening it.
    Arrays that are already open stay readable. Nothing but entries is touched.

    Args:
        entries: The folder of the cache that holds them.
        limit_bytes: What all of them may take on disk.
        keep: An entry that stays.
    """
    now = time.time()
    for pattern in (".*.building-*", ".*.retired-*"):
        for path in entries.glob(pattern):
            if now - _last_change(path) > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    found = [path for path in entries.iterdir() if _is_entry(path)]
    by_use = sorted(found, key=_last_use)
    total = sum(_size_bytes(path) for path in found)
    for path in by_use:
        if total <= limit_bytes or now - _last_use(path) < _IN_USE_SECONDS:
            return
        if path != keep:
            total -= _size_bytes(path)
            _remove(path)


def _is_entry(path: Path) -> bool:
    is_key = len(path.name) == _KEY_DIGITS and set(path.name) <= set("0123456789abcdef")
    return is_key and path.is_dir() and not path.is_symlink()


def _remove(entry: Path) -> None:
    """Remove an entry under a hidden name: half an entry is never seen."""
    with contextlib.suppress(OSError):
        retired = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}.retired-"))
        entry.rename(retired / entry.name)
        shutil.rmtree(retired, ignore_errors=True)


def _last_use(entry: Path) -> float:
    """Return when an entry was last opened, in seconds; entries without a manifest come first."""
    try:
        return (entry / MANIFEST_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _last_change(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # its owner has just finished it
        return time.time()


def _size_bytes(entry: Path) -> int:
    try:
        return sum(path.stat().st_size for path in entry.rglob("*"))
    except OSError:  # another process has just removed it
        return 0


def _distinct_images(source: SourceData) -> dict[str, tuple[str, int]]:
    """Return one place (split, row) of each distinct image, by content digest."""
    places: dict[str, tuple[str, int]] = {}
    for name in source.dataset:
        for row, digest in enumerate(column_of(source.dataset[name], "image_sha256")):
            if digest:
                places.setdefault(digest, (name, row))
    return places


def _decode_all(
    source: SourceData,
    preprocessor: Preprocessor,
    places: Mapping[str, tuple[str, int]],
    path: Path,
    on_count: OnCount,
) -> dict[str, str]:
    """Decode every distinct image into one array on disk; return the failures by digest."""
    failures: dict[str, str] = {}
    shape = (max(1, len(places)), *preprocessor.image.size, 3)
    _reserve(path, shape)
    pixels = np.lib.format.open_memmap(path, mode="r+")

    def decode(position: int, example: Mapping[str, Any]) -> str | None:
        """Write the pixels of an image to their place; return why that is impossible."""
        encoded = example["image_bytes"]
        image = encoded if encoded is not None else Path(example["image_path"])
        try:
            pixels[position] = load_pixels(image, preprocessor.image)
        except DataError as error:
            return error.what
        return None

    examples = (source.dataset[split][row] for _, (split, row) in sorted(places.items()))
    with closing(map_in_threads(decode, range(len(places)), examples)) as reasons:
        for done, (digest, reason) in enumerate(zip(sorted(places), reasons, strict=True), 1):
            if reason is not None:
                failures[digest] = reason
            on_count("images", done, len(places))
    pixels.flush()
    return failures


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Create the array's file with its blocks allocated: a full disk is an error now.

    Writing into a sparse memory map on a full disk would kill the process with SIGBUS.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
