"""A data set as arrays, ready for models: PreparedData and its splits.

Training, export and bench all read `PreparedSplit`. Its pixels come from `pixel_cache`; an
EncodedSplit, computed once by `msd_deploy.distillation.encoded_cache`, holds the outputs of a
model's frozen parts, which batches then carry instead of pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_deploy.data.preprocess import IdArray
from msd_deploy.data.resize import PixelArray
from msd_deploy.data.source import DatasetInfo
from msd_deploy.problem import NO_LABEL
from msd_deploy.views import View

EncodedArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """Encoder outputs of a split.

    Attributes:
        images: float32 [encoded images, ...], memory-mapped; None: images are not encoded by
            themselves.
        position: int64 [images], where `images` holds an image of the split; -1: nowhere.
        rows: float32 [examples, ...], memory-mapped, 0 for examples that were left out; None:
            examples are not encoded.
    """

    images: EncodedArray | None
    position: NDArray[np.int64]
    rows: EncodedArray | None = None

    def of_images(self, images: NDArray[np.int64]) -> Tensor | None:
        """Return the encoder outputs of images, [images, ...]; zeros [1, ...] for none."""
        if self.images is None:
            return None
        if len(images) == 0:
            return torch.zeros((1, *self.images.shape[1:]))
        positions = self.position[images]
        assert (positions >= 0).all()  # images of all read examples are encoded before
        return _owned(self.images[positions])

    def of_rows(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the encoder outputs of examples, [examples, ...]."""
        return None if self.rows is None else _owned(self.rows[rows])


def _owned(values: EncodedArray) -> Tensor:
    """Copy into torch's own, aligned memory: matrix products round differently by alignment."""
    return torch.tensor(values)


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One split as arrays.

    Attributes:
        pixels: uint8 [images, height, width, 3], memory-mapped, each distinct image once.
        image_index: int64 [examples], the example's image; -1 where it has none.
        input_ids: int32 [examples, max_length].
        attention_mask: int32 [examples, max_length].
        labels: int64 [examples] (single label) or float32 [examples, classes] (multi-label: 0 or 1;
            soft label: 0, 1/3, 2/3 or 1); NO_LABEL or NaN where an example has none.
        source_rows: int64 [examples], the examples' positions in the source's split.
        encoded: What the frozen parts of a model made of it, which is read instead of pixels.
    """

    pixels: PixelArray
    image_index: NDArray[np.int64]
    input_ids: IdArray
    attention_mask: IdArray
    labels: NDArray[np.int64] | NDArray[np.float32]
    source_rows: NDArray[np.int64]
    encoded: EncodedSplit | None = None

    def __len__(self) -> int:
        return len(self.image_index)

    def has_label(self) -> NDArray[np.bool_]:
        """Return which examples have a label, bool [examples]."""
        if self.labels.ndim == 2:
            return np.asarray(~np.isnan(self.labels).any(axis=1), bool)
        present: NDArray[np.bool_] = np.not_equal(self.labels, NO_LABEL)
        return present

    def has_both(self) -> NDArray[np.bool_]:
        """Return which examples have an image and a text, bool [examples]."""
        return self.has_image() & self.has_text()

    def has_image(self) -> NDArray[np.bool_]:
        """Return which examples have an image, bool [examples]."""
        return np.asarray(self.image_index >= 0, bool)

    def has_text(self) -> NDArray[np.bool_]:
        """Return which examples have a text, bool [examples]; an absent one is a single token."""
        return np.asarray(self.attention_mask.sum(axis=1) > 1, bool)

    def blank_pixels(self) -> PixelArray:
        """Return one black image, uint8 [1, height, width, 3], for examples that have none."""
        return np.zeros((1, *self.pixels.shape[1:]), np.uint8)

    def inputs(
        self, rows: NDArray[np.int64] | slice, view: View = View.MULTIMODAL
    ) -> dict[str, NDArray[np.generic]]:
        """Return examples under a view, in the signature of every exported model.

        Returns:
            image uint8 [examples, height, width, 3], image_present int32 [examples], input_ids and
            attention_mask int32 [examples, max_length].
        """
        image_index = self.image_index[rows]
        present = (image_index >= 0) & view.has_image
        image = np.zeros((len(image_index), *self.pixels.shape[1:]), np.uint8)
        image[present] = self.pixels[image_index[present]]
        attention_mask = self.attention_mask[rows].copy()
        if not view.has_text:
            attention_mask[:, 1:] = 0
        return {
            "image": image,
            "image_present": present.astype(np.int32),
            "input_ids": self.input_ids[rows],
            "attention_mask": attention_mask,
        }

    def head(self, rows: int) -> "PreparedSplit":
        """Return the first examples of the split."""
        cut = slice(0, rows)
        return PreparedSplit(
            self.pixels,
            self.image_index[cut],
            self.input_ids[cut],
            self.attention_mask[cut],
            self.labels[cut],
            self.source_rows[cut],
            self.encoded,
        )


@dataclass(frozen=True, slots=True)
class PreparedData:
    """All splits of a data set, ready for models.

    Attributes:
        splits: train, validation and test; for an evaluation, those that its source has.
        info: Classes, problem, skipped examples, notes.
        digest: SHA-256 over every example that is used: images' contents, texts, labels.
    """

    splits: Mapping[str, PreparedSplit]
    info: DatasetInfo
    digest: str
