"""Changes to the batches that a model is trained on; nothing else ever sees them.

Off unless asked for. What is drawn depends on the seed, the pass and the rows, so that a resumed
training is shown what it would have been shown, and no other random stream is touched.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy.augment_config import AugmentConfig
from msd_deploy.data.augment_pictures import PictureDraws, change_pictures
from msd_deploy.data.augment_words import drop_words, word_table
from msd_deploy.data.batch import Batch
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.preprocess import Preprocessor

# First numbers of the seeds: streams of their own, apart from those of the order of rows.
_PICTURES, _WORDS = 7001, 7002


class PictureAugmentation:
    """Changes the pictures of a split's batches, all of them into one form at a time.

    Args:
        config: How much.
        split: Of the data set.
        seed: Of the draws.
    """

    def __init__(
        self, config: AugmentConfig, split: PreparedSplit, *, seed: tuple[int, ...]
    ) -> None:
        self.number_of_row = split.image_index
        # Of all splits, as pictures are numbered over all: the same whatever the split.
        self.draws = PictureDraws(
            config.strengths(), len(split.pixels), seed=(_PICTURES, config.seed, *seed)
        )

    def __call__(self, batch: Batch, form: int) -> Batch:
        """Return the batch with its pictures in a form."""
        changes = self.draws(self._numbers(batch), form)
        return replace(batch, pixel_values=change_pictures(batch.pixel_values, changes))

    def _numbers(self, batch: Batch) -> NDArray[np.int64]:
        """Return the number of each picture of the batch; any for a picture that no row shows."""
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
        """Return the batch with words left out; a row is in one batch of a pass only."""
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


class Augmentation:
    """Changes the batches of one training.

    Args:
        pictures: Changes pictures, if anything does.
        words: Changes texts, if anything does.
    """

    def __init__(
        self, pictures: PictureAugmentation | None, words: WordAugmentation | None
    ) -> None:
        self.pictures, self.words = pictures, words

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch as it is shown in a pass, from 0."""
        if self.words is not None:
            batch = self.words(batch, epoch)
        return batch if self.pictures is None else self.pictures(batch, epoch)


def build_augmentation(
    config: AugmentConfig, split: PreparedSplit, preprocessor: Preprocessor, *, seed: int
) -> Augmentation | None:
    """Return what changes the batches of a training, or None if nothing does.

    Args:
        config: The settings.
        split: The training split.
        preprocessor: Made it.
        seed: Of the run.
    """
    strengths = config.strengths()
    pictures = words = None
    if strengths.changes_pictures:
        pictures = PictureAugmentation(config, split, seed=(seed,))
    if strengths.word_dropout > 0:
        words = WordAugmentation(config, preprocessor, seed=seed)
    return Augmentation(pictures, words) if pictures or words else None
