"""Batches: the examples of a step, their order, and a step's batch in parts.

Several examples may share an image (questions about one image). A batch holds each image once, and
`image_index` maps examples to images. The parts of a batch are computed one after the other, each
in its share of the memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_deploy import process_group
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.views import View

_PICTURES_PER_ROW = 0.25


@dataclass(frozen=True, slots=True)
class MixedLabels:
    """Labels of the other images that a batch's images are mixed with (mixup).

    Attributes:
        labels: Of the other image that each example's image is mixed with, as in `Batch`.
        share: Of the other image in it, 0 to 1/2.
    """

    labels: Tensor
    share: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of a data set as a model takes them.

    Attributes:
        pixel_values: uint8 [images, 3, height, width], each image once.
        image_index: int64 [batch], which image an example shows; 0 where it shows none.
        image_present: bool [batch].
        input_ids: int64 [batch, length].
        attention_mask: int64 [batch, length]; 1 for tokens, 0 for padding.
        labels: int64 [batch] (single label) or float32 [batch, classes] of 0 and 1 (multi-label).
        rows: int64 [batch], the examples' positions in their split.
        form: Which of the changed forms with cached teacher outputs the images are shown in,
            from 1; 0: any other, the unchanged one as well.
        mixed: What else its mixed images show; None where images are not mixed.
        encoded_images: float32 [images, ...], what a model's frozen vision encoder made of each
            image before: it is used instead of pixels, of which there are none then.
        encoded_rows: float32 [batch, ...], what a frozen model made of each example before.
    """

    pixel_values: Tensor
    image_index: Tensor
    image_present: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: Tensor
    form: int = 0
    mixed: MixedLabels | None = None
    encoded_images: Tensor | None = None
    encoded_rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on another device."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def view_of(batch: Batch, view: View) -> Batch:
    """Return the batch under a view: a withheld image is absent, a withheld text [CLS] alone.

    What was made of whole examples before is left out, since it knows both.
    """
    batch = replace(batch, encoded_rows=None)
    if view is View.IMAGE:
        return replace(
            batch, input_ids=batch.input_ids[:, :1], attention_mask=batch.attention_mask[:, :1]
        )
    if view is View.TEXT:
        return replace(batch, image_present=torch.zeros_like(batch.image_present))
    return batch


def collate(split: PreparedSplit, rows: NDArray[np.int64]) -> Batch:
    """Gather examples of a prepared split into a batch, texts cut to the longest among them."""
    image_index = split.image_index[rows]
    present = image_index >= 0
    images, position = np.unique(image_index[present], return_inverse=True)
    index_in_batch = np.zeros(len(rows), np.int64)
    index_in_batch[present] = position
    attention_mask = split.attention_mask[rows]
    length = max(1, int(attention_mask.sum(axis=1).max(initial=1)))
    return Batch(
        pixel_values=_pixels_of(split, images),
        image_index=torch.from_numpy(index_in_batch),
        image_present=torch.from_numpy(present),
        input_ids=torch.from_numpy(split.input_ids[rows, :length].astype(np.int64)),
        attention_mask=torch.from_numpy(attention_mask[:, :length].astype(np.int64)),
        labels=torch.from_numpy(split.labels[rows]),
        rows=torch.from_numpy(rows),
        encoded_images=None if split.encoded is None else split.encoded.of_images(images),
        encoded_rows=None if split.encoded is None else split.encoded.of_rows(rows),
    )


def _pixels_of(split: PreparedSplit, images: NDArray[np.int64]) -> Tensor:
    """Return images as uint8 [images, 3, height, width]; a blank one where there is none.

    Where a frozen encoder has seen them before, they have no height and no width: none is read.
    """
    if split.encoded is not None:
        return torch.empty((max(1, len(images)), 3, 0, 0), dtype=torch.uint8)
    pixels = split.pixels[images] if len(images) else split.blank_pixels()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


class BatchDataset(torch.utils.data.Dataset[Batch]):
    """A prepared split whose items are fetched a whole batch at a time."""

    def __init__(self, split: PreparedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> Batch:
        return collate(self.split, np.array([row], np.int64))

    def __getitems__(self, rows: list[int]) -> Batch:
        """Return the examples as one batch; called by torch's DataLoader."""
        return collate(self.split, np.array(rows, np.int64))


class ImageGroupSampler(torch.utils.data.Sampler[list[int]]):
    """Yields batches of examples such that examples that share an image stay together.

    Args:
        image_index: int64 [examples], the image of each example; negative where it has none.
        batch_size: Examples a batch; groups of a shared image fill it to at least this number, and
            to a quarter as many images, but for the last batch.
        seed: Decides the order, together with the epoch.
        used: bool [examples], which examples are yielded; all if None.
    """

    def __init__(
        self,
        image_index: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        used: NDArray[np.bool_] | None = None,
    ) -> None:
        groups = rows_by_image(image_index)
        if used is not None:
            groups = [[row for row in group if used[row]] for group in groups]
        self._groups = [group for group in groups if group]
        self.rows_per_batch = batch_size
        # BatchNorm needs images, however many questions are asked about each.
        self._least_groups = math.ceil(batch_size * _PICTURES_PER_ROW)
        self.batch_size: int | None = None  # batches differ in size: read by accelerate
        self.seed = seed
        self.drop_last = False
        self._epoch = 0
        self._skip = 0

    def start_at(self, epoch: int, *, skip_batches: int = 0) -> None:
        """Set the epoch whose order is yielded, and how many of its batches are skipped.

        Not named set_epoch: accelerate would call it, with a count of its own.
        """
        self._epoch, self._skip = epoch, skip_batches

    def __len__(self) -> int:
        return len(self._batches()) - self._skip

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches()[self._skip :]

    def _batches(self) -> list[list[int]]:
        order = np.random.default_rng((self.seed, self._epoch)).permutation(len(self._groups))
        batches: list[list[int]] = [[]]
        groups = 0
        for group in order:
            if len(batches[-1]) >= self.rows_per_batch and groups >= self._least_groups:
                batches.append([])
                groups = 0
            batches[-1].extend(self._groups[group])
            groups += 1
        return batches if batches[0] else []


def rows_by_image(image_index: NDArray[np.int64]) -> list[list[int]]:
    """Group examples by the image they show; an example without one is a group of its own."""
    groups: dict[int, list[int]] = {}
    for row, image in enumerate(image_index.tolist()):
        groups.setdefault(image if image >= 0 else -1 - row, []).append(row)
    return list(groups.values())


def batches_in_order(split: PreparedSplit, *, batch_size: int) -> Iterator[Batch]:
    """Yield the split in its own order, for evaluation; of several processes, this one's batches.

    What all of them are given, in the order of the processes, is the whole split.
    """
    for start in process_group.own_part(range(0, len(split), batch_size)):
        yield collate(split, np.arange(start, min(start + batch_size, len(split))))


def parts_of(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch's examples in parts of equal size, as far as that goes, each with its images.

    Args:
        batch: The batch.
        count: How many parts; fewer if it has fewer examples.
    """
    if count == 1:
        yield batch
        return
    for rows in torch.tensor_split(torch.arange(len(batch), device=batch.rows.device), count):
        if len(rows) > 0:
            yield rows_of(batch, rows)


def rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    """Return some of a batch's examples, with their images.

    Args:
        batch: The batch.
        rows: int64, positions in it.
    """
    shown, index = batch.image_index[rows].unique(return_inverse=True)
    return replace(
        batch,
        pixel_values=batch.pixel_values[shown],
        image_index=index,
        image_present=batch.image_present[rows],
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        labels=batch.labels[rows],
        rows=batch.rows[rows],
        mixed=batch.mixed and replace(batch.mixed, labels=batch.mixed.labels[rows]),
        encoded_images=None if batch.encoded_images is None else batch.encoded_images[shown],
        encoded_rows=None if batch.encoded_rows is None else batch.encoded_rows[rows],
    )
