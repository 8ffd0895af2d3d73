import numpy as np
import torch

from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distill.parts import parts_of


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
