from dataclasses import replace

import numpy as np
import pytest
import torch

from msd_deploy.data.batch import ImageGroupSampler, batches_in_order, collate, parts_of, view_of
from msd_deploy.data.prepared import EncodedSplit, PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.views import View

IMAGE_INDEX = np.array([0, 1, -1, 0, 2, 1, 0, -1], np.int64)


@pytest.fixture
def split() -> PreparedSplit:
    rows = len(IMAGE_INDEX)
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    attention_mask = (np.arange(6)[None] < np.array([3, 2, 4, 1, 2, 2, 3, 2])[:, None]).astype(
        np.int32
    )
    ids = np.arange(rows * 6).reshape(rows, 6).astype(np.int32)
    labels = np.arange(rows) % 2
    return PreparedSplit(pixels, IMAGE_INDEX, ids, attention_mask, labels, np.arange(rows))


def test_an_image_shared_by_rows_stands_once_in_a_batch(split: PreparedSplit) -> None:
    batch = collate(split, np.array([0, 3, 6, 4]))
    assert batch.pixel_values.shape == (2, 3, 4, 4)
    assert batch.pixel_values[batch.image_index, 0, 0, 0].tolist() == [0, 0, 0, 2]


def test_rows_without_an_image_are_marked(split: PreparedSplit) -> None:
    batch = collate(split, np.array([2, 1]))
    assert batch.image_present.tolist() == [False, True]
    assert collate(split, np.array([2, 7])).pixel_values.shape == (1, 3, 4, 4)


def test_texts_are_cut_to_the_longest_of_the_batch(split: PreparedSplit) -> None:
    assert collate(split, np.array([1, 3])).input_ids.shape == (2, 2)


def test_views_withhold_a_modality(split: PreparedSplit) -> None:
    batch = collate(split, np.array([0, 1]))
    assert view_of(batch, View.IMAGE).input_ids.shape == (2, 1)
    assert not view_of(batch, View.TEXT).image_present.any()
    inputs = split.inputs(slice(0, 3), View.IMAGE)
    assert inputs["attention_mask"].sum(axis=1).tolist() == [1, 1, 1]
    assert inputs["image_present"].tolist() == [1, 1, 0]
    assert split.inputs(slice(0, 3), View.TEXT)["image_present"].tolist() == [0, 0, 0]
    assert split.inputs(slice(0, 3), View.TEXT)["image"].max() == 0


def test_sampler_keeps_rows_of_an_image_together_and_yields_every_row_once() -> None:
    sampler = ImageGroupSampler(IMAGE_INDEX, batch_size=2, seed=3)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    for image in (0, 1):
        rows = set(np.flatnonzero(image == IMAGE_INDEX).tolist())
        assert sum(1 for batch in batches if rows & set(batch)) == 1


def test_a_batch_has_images_enough_however_many_rows_share_one() -> None:
    shared = np.repeat(np.arange(64), 10)
    batches = list(ImageGroupSampler(shared, batch_size=32, seed=0))
    assert [len(set(shared[batch])) for batch in batches] == [8] * 8
    alone = list(ImageGroupSampler(np.arange(64), batch_size=32, seed=0))
    assert [len(batch) for batch in alone] == [32, 32]


def test_sampler_leaves_out_rows_that_are_not_used() -> None:
    used = np.array([True, False] * 4)
    sampler = ImageGroupSampler(IMAGE_INDEX, batch_size=2, seed=3, used=used)
    assert sorted(row for batch in sampler for row in batch) == [0, 2, 4, 6]


def test_sampler_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, skip: int = 0) -> list[list[int]]:
        sampler = ImageGroupSampler(IMAGE_INDEX, batch_size=2, seed=seed)
        sampler.start_at(epoch, skip_batches=skip)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) > 6
    assert order(0, 1, skip=2) == order(0, 1)[2:]


def test_evaluation_order_covers_the_split(split: PreparedSplit) -> None:
    rows = [batch.rows.tolist() for batch in batches_in_order(split, batch_size=3)]
    assert rows == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_parts_hold_every_row_once_with_its_own_image(
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
