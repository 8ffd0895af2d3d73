from dataclasses import replace

import numpy as np
import torch

from msd_deploy.data.batch import collate, parts_of, view_of
from msd_deploy.data.prepared import EncodedSplit, PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.views import View


def test_parts_hold_every_row_once_with_its_own_picture(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    batch = collate(memes[0].splits["train"], np.arange(10))
    parts = list(parts_of(batch, 3))
    assert [len(part) for part in parts] == [4, 3, 3]
    assert torch.equal(torch.cat([part.rows for part in parts]), batch.rows)
    shown = [part.pixel_values[part.image_index] for part in parts]
    assert torch.equal(torch.cat(shown), batch.pixel_values[batch.image_index])
    assert sum(len(part.pixel_values) for part in parts) <= len(batch)


def test_there_are_never_more_parts_than_rows(memes: tuple[PreparedData, Preprocessor]) -> None:
    batch = collate(memes[0].splits["train"], np.arange(2))
    assert [len(part) for part in parts_of(batch, 5)] == [1, 1]
    assert list(parts_of(batch, 1)) == [batch]


def test_what_was_encoded_before_goes_with_its_rows_and_takes_the_place_of_pixels(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    split = memes[0].splits["train"]
    shown = np.unique(split.image_index[split.image_index >= 0])
    position = np.full(len(split.pixels), -1)
    position[shown] = np.arange(len(shown))
    images = shown[:, None].astype(np.float32)
    rows = np.arange(len(split), dtype=np.float32)[:, None]
    split = replace(split, encoded=EncodedSplit(images, position, rows))
    batch = collate(split, np.array([7, 3, 5, 1])).to("cpu")
    assert batch.pixel_values.shape[1:] == (3, 0, 0)
    for part in (batch, *parts_of(batch, 3)):
        assert part.encoded_images is not None
        assert part.encoded_rows is not None
        of_rows = part.encoded_images[part.image_index][part.image_present, 0]
        expected = torch.from_numpy(split.image_index[part.rows.numpy()])[part.image_present]
        assert torch.equal(of_rows.long(), expected)
        assert torch.equal(part.encoded_rows[:, 0].long(), part.rows)
    # What was made of a row knows both modalities.
    assert view_of(batch, View.IMAGE).encoded_rows is None
