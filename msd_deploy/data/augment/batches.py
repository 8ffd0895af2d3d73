"""Augmentation of training batches; validation and test are never changed.

Off by default. What is drawn depends on the seed, the epoch and the examples alone, so that a
resumed training sees the same batches; no other random stream is used.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_deploy.artifacts.manifest import sha256_of_json
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.data.augment.images import CHANGES_VERSION, ImageDraws, change_images
from msd_deploy.data.augment.words import drop_words, word_table
from msd_deploy.data.batch import Batch, MixedLabels
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError

# First numbers of the seeds: streams of their own, apart from those of the order of examples.
_PICTURES, _WORDS, _PAIRS = 7001, 7002, 7003


class ImageAugmentation:
    """Augments the images of a split's batches, all into one form at a time.

    Args:
        config: How much.
        split: Of the data set.
        seed: Of the draws, with the configuration's own; None: that alone, so that every training
            is shown the same forms.
    """

    def __init__(
        self, config: AugmentConfig, split: PreparedSplit, *, seed: int | None = None
    ) -> None:
        own = () if seed is None else (seed,)
        self.number_of_row = split.image_index
        self.draws = ImageDraws(
            config.strengths(), len(split.pixels), seed=(_PICTURES, config.seed, *own)
        )

    def __call__(self, batch: Batch, form: int) -> Batch:
        """Return the batch with its images in a form."""
        changes = self.draws(self._numbers(batch), form)
        return replace(batch, pixel_values=change_images(batch.pixel_values, changes))

    def _numbers(self, batch: Batch) -> NDArray[np.int64]:
        """Return the number of each image of the batch; any for an image that no example shows."""
        numbers = np.zeros(len(batch.pixel_values), np.int64)
        shown = batch.image_present.cpu().numpy()
        index, rows = batch.image_index.cpu().numpy(), batch.rows.cpu().numpy()
        numbers[index[shown]] = self.number_of_row[rows[shown]]
        return numbers


class WordAugmentation:
    """Leaves words out of a batch's texts.

    Args:
        config: How many.
        preprocessor: Made the texts.
        seed: Of the draws, with the configuration's own.
    """

    def __init__(self, config: AugmentConfig, preprocessor: Preprocessor, *, seed: int) -> None:
        self.share, self.seed = config.strengths().word_dropout, (_WORDS, config.seed, seed)
        self.table = word_table(preprocessor)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with words left out; an example is in one batch per epoch only."""
        rng = np.random.default_rng((*self.seed, epoch, int(batch.rows[0])))
        uniform = rng.random(tuple(batch.input_ids.shape), dtype=np.float32)
        input_ids, attention_mask = drop_words(
            batch.input_ids,
            batch.attention_mask,
            torch.from_numpy(uniform).to(batch.input_ids.device),
            self.table.to(batch.input_ids.device),
            self.share,
        )
        return replace(batch, input_ids=input_ids, attention_mask=attention_mask)


class ImageMixing:
    """Mixes a batch's images in pairs (mixup, Zhang et al. 2018).

    The share of a batch is drawn from a Beta distribution, and folded so that an image's own is
    the larger: its text, which cannot be mixed, stays with it.

    Args:
        config: How much.
        seed: Of the draws, with the configuration's own.
    """

    def __init__(self, config: AugmentConfig, *, seed: int) -> None:
        self.spread, self.seed = config.mixup, (_PAIRS, config.seed, seed)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with its images mixed; an example is in one batch per epoch only."""
        rng = np.random.default_rng((*self.seed, epoch, int(batch.rows[0])))
        share = float(rng.beta(self.spread, self.spread))
        share = min(share, 1 - share)
        other = rng.permutation(len(batch.pixel_values))
        values = batch.pixel_values.float()
        mixed = torch.lerp(values, values[torch.from_numpy(other)], share).round()
        labels = batch.labels[_rows_showing(batch, other)]
        return replace(batch, pixel_values=mixed.to(torch.uint8), mixed=MixedLabels(labels, share))


def _rows_showing(batch: Batch, other: NDArray[np.int64]) -> Tensor:
    """Return, for each example, one that shows the other image; itself where it has no image."""
    index, shown = batch.image_index.cpu().numpy(), batch.image_present.cpu().numpy()
    row_of_image = np.zeros(len(other), np.int64)
    row_of_image[index[shown]] = np.flatnonzero(shown)
    rows = np.where(shown, row_of_image[other[index]], np.arange(len(index)))
    return torch.from_numpy(rows).to(batch.labels.device)


@dataclass(frozen=True, slots=True)
class ImageForms:
    """Replaces a batch's images by one of a few augmented forms, which alternate by epoch.

    Attributes:
        images: Changes them.
        forms: How many there are.
    """

    augmentation: ImageAugmentation
    forms: int

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch in the form of an epoch."""
        form = 1 + epoch % self.forms
        return replace(self.augmentation(batch, form), form=form)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes the batches of one training.

    Attributes:
        changes: Functions from a batch and the epoch to the changed batch, one after the other.
    """

    changes: tuple[Callable[[Batch, int], Batch], ...]

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the augmented batch of an epoch, from 0."""
        for change in self.changes:
            batch = change(batch, epoch)
        return batch


def build_augmentation(
    config: AugmentConfig,
    split: PreparedSplit,
    preprocessor: Preprocessor,
    *,
    seed: int,
    has_teacher: bool = False,
) -> Augmentation | None:
    """Return the augmentation of a training, or None if there is none.

    Args:
        config: The settings.
        split: The training split.
        preprocessor: Made it.
        seed: Of the run.
        has_teacher: Whether a teacher's outputs are used; views_per_picture applies to those.
    """
    strengths = config.strengths()
    changes: list[Callable[[Batch, int], Batch]] = []
    if strengths.word_dropout > 0:
        changes.append(WordAugmentation(config, preprocessor, seed=seed))
    if has_teacher and config.views_per_picture > 0:
        changes.append(ImageForms(ImageAugmentation(config, split), config.views_per_picture))
    elif strengths.changes_images:
        changes.append(ImageAugmentation(config, split, seed=seed))
    if config.mixup > 0:
        changes.append(ImageMixing(config, seed=seed))
    return Augmentation(tuple(changes)) if changes else None


def digest_of_forms(config: AugmentConfig) -> str:
    """Return the SHA-256 of the settings that decide the forms of views_per_picture."""
    strengths = {k: v for k, v in asdict(config.strengths()).items() if k != "word_dropout"}
    return sha256_of_json([CHANGES_VERSION, strengths, config.views_per_picture, config.seed])


def check_same_frame(student: Preprocessor, teacher: Preprocessor) -> None:
    """Check that a share of an image is the same part of it for both.

    Raises:
        ConfigError: They cut or pad images differently.
    """
    (height, width), (high, wide) = student.image.size, teacher.image.size
    if student.image.mode != teacher.image.mode or height * wide != width * high:
        raise ConfigError(
            f"the teacher takes images by {teacher.image.mode} in {wide} by {high} pixels, the"
            f" student by {student.image.mode} in {width} by {height}: a part of one image is"
            " another part of the other",
            where="augment.views_per_picture",
            fix=f'Set data.image_mode = "{teacher.image.mode}", or leave it out',
        )
