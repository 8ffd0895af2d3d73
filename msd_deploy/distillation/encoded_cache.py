"""Cache of the frozen parts' outputs in a teacher's training, computed once and memory-mapped.

On disk: images.npy, float32 [images, ...], of each distinct image of training and validation;
rows-SPLIT.npy, float32 [rows, ...], where a model encodes rows too; and a manifest with the key.
Values are the encoder's own float32, so that training uses exactly what the finished teacher
computes.
"""

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import nn

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    read_manifest,
    sha256_of_json,
    write_manifest,
)
from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import EncodedArray, EncodedSplit, PreparedData
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier, is_frozen

logger = logging.getLogger(__name__)

_KIND = "encoded"
_IMAGES_NAME = "images.npy"
_AT_ONCE = 32
_FLOAT_BYTES = 4


def encode_data(
    model: ViewClassifier,
    data: PreparedData,
    folder: Path,
    *,
    used: NDArray[np.bool_],
    key: Mapping[str, str],
    hooks: StageHooks,
) -> PreparedData:
    """Return the data with the outputs of a model's frozen parts, computed unless cached.

    Args:
        model: Its frozen parts decide what is encoded: images, rows, or both. It is moved to its
            training device.
        data: The data; the test split stays as it is.
        folder: The cache folder.
        used: bool [rows], the training rows that are used; no others are encoded.
        key: Digests of all other inputs of the result.
        hooks: Receives the size as a note, then the progress.

    Raises:
        ArtifactError: The disk has too little free space.
    """
    has_images, has_rows = is_frozen(*model.vision_modules), is_frozen(*model.row_modules)
    if not (has_images or has_rows):
        hooks.on_note("no encoder outputs are cached: the first layers are not frozen")
        return data
    validation = np.ones(len(data.splits["validation"]), bool)
    work = _Work(model, data, {"train": used, "validation": validation}, has_images, has_rows)
    key = {**key, "rows": sha256_of_json([np.flatnonzero(used).tolist(), work.images.tolist()])}
    if not process_group.broadcast_from_main(_is_cached(folder, key)):
        if process_group.is_main():
            model.to(PartialState().device)
            _compute(work, folder, key, hooks)
        process_group.barrier()
    splits = {
        name: replace(data.splits[name], encoded=work.read(folder, name)) for name in work.used
    }
    return replace(data, splits={**data.splits, **splits})


@dataclass(frozen=True, slots=True)
class _Work:
    """The rows and images to encode."""

    model: ViewClassifier
    data: PreparedData
    used: Mapping[str, NDArray[np.bool_]]
    has_images: bool
    has_rows: bool

    @property
    def images(self) -> NDArray[np.int64]:
        """Indices of all images of used rows, int64 [images], ascending."""
        shown = [self.data.splits[name].image_index[used] for name, used in self.used.items()]
        images = np.unique(np.concatenate(shown))
        return images[images >= 0]

    def read(self, folder: Path, name: str) -> EncodedSplit:
        """Open the cached outputs of a split."""
        position = np.full(len(self.data.splits[name].pixels), -1, np.int64)
        position[self.images] = np.arange(len(self.images))
        rows = folder / _rows_name(name)
        return EncodedSplit(
            _mapped(folder / _IMAGES_NAME) if self.has_images else None,
            position,
            _mapped(rows) if self.has_rows and rows.is_file() else None,
        )


def _rows_name(split: str) -> str:
    return f"rows-{split}.npy"


def _mapped(path: Path) -> EncodedArray:
    array: EncodedArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _is_cached(folder: Path, key: Mapping[str, str]) -> bool:
    """Return whether the folder holds an undamaged cache of the key."""
    if not (folder / MANIFEST_NAME).is_file():
        return False
    try:
        return read_manifest(folder, _KIND).get("key") == key
    except ArtifactError as error:
        logger.warning("the cached encoder outputs are damaged and are computed again (%s)", error)
        return False


def _compute(work: _Work, folder: Path, key: Mapping[str, str], hooks: StageHooks) -> None:
    hooks.on_stage("Computing the outputs of frozen parts")
    model, was_training = work.model, work.model.training
    nn.Module.eval(model)
    with torch.inference_mode():
        _check_free_space(work, folder, hooks)
        with new_folder(folder) as building:
            if work.has_images:
                on_count = partial(hooks.on_count, "images encoded")
                _encode_images(work, building / _IMAGES_NAME, on_count)
            for name in work.used if work.has_rows else ():
                _encode_rows(work, building, name, partial(hooks.on_count, f"{name} rows encoded"))
            write_manifest(building, _KIND, {"key": dict(key)})
    model.train(was_training)


def _check_free_space(work: _Work, folder: Path, hooks: StageHooks) -> None:
    """Report the size of the cache as a note.

    Raises:
        ArtifactError: The disk has less free space.
    """
    images = len(work.images) if work.has_images else 0
    rows = sum(map(len, work.used.values())) if work.has_rows else 0
    needed = _FLOAT_BYTES * (
        images * math.prod(_shape_of_image(work)) + rows * math.prod(_shape_of_row(work))
    )
    counts = [f"{images:,} images"] * (images > 0) + [f"{rows:,} rows"] * (rows > 0)
    size = f"{needed / 1e6:,.0f} MB for {' and '.join(counts)}"
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ArtifactError(
            f"the outputs of frozen parts need {size}, but only {free / 1e6:,.0f} MB are free",
            where=folder,
            fix="Free disk space, choose another --out, or use --freeze none",
        )
    hooks.on_note(f"outputs of frozen parts are computed once and cached during training: {size}")


def _shape_of_image(work: _Work) -> tuple[int, ...]:
    if not work.has_images:
        return ()
    blank = torch.from_numpy(work.data.splits["train"].blank_pixels()).permute(0, 3, 1, 2)
    return tuple(work.model.encode_images(blank.to(work.model.device)).shape[1:])


def _shape_of_row(work: _Work) -> tuple[int, ...]:
    if not work.has_rows:
        return ()
    first = collate(work.data.splits["train"], np.zeros(1, np.int64)).to(work.model.device)
    return tuple(work.model.encode_rows(first).shape[1:])


def _encode_images(work: _Work, path: Path, on_count: Callable[[int, int], None]) -> None:
    pixels, images = work.data.splits["train"].pixels, work.images
    shape = (len(images), *_shape_of_image(work))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, len(images), _AT_ONCE):
        chunk = torch.from_numpy(pixels[images[start : start + _AT_ONCE]]).permute(0, 3, 1, 2)
        encoded = work.model.encode_images(chunk.contiguous().to(work.model.device))
        array[start : start + len(chunk)] = encoded.cpu().numpy()
        on_count(start + len(chunk), len(images))
    array.flush()


def _encode_rows(
    work: _Work, folder: Path, name: str, on_count: Callable[[int, int], None]
) -> None:
    # The images as they have just been encoded, so that no pixels are read again.
    images = work.read(folder, name) if work.has_images else None
    split = replace(work.data.splits[name], encoded=images)
    rows = np.flatnonzero(work.used[name])
    array = np.lib.format.open_memmap(
        folder / _rows_name(name),
        mode="w+",
        dtype=np.float32,
        shape=(len(split), *_shape_of_row(work)),
    )
    for start in range(0, len(rows), _AT_ONCE):
        chunk = rows[start : start + _AT_ONCE]
        encoded = work.model.encode_rows(collate(split, chunk).to(work.model.device))
        array[chunk] = encoded.cpu().numpy()
        on_count(start + len(chunk), len(rows))
    array.flush()
