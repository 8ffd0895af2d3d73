"""Hidden labels: how many stay, of which classes, and that images keep theirs together."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from msd_deploy.data.labels import hide_labels
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import DataError
from msd_deploy.problem import NO_LABEL


def data_with(
    memes: tuple[PreparedData, Preprocessor],
    labels: NDArray[np.int64] | NDArray[np.float32],
    *,
    classes: int,
    rows_per_picture: int = 1,
) -> PreparedData:
    """A data set with these training labels; the other columns are the memes', repeated."""
    data = memes[0]
    train = data.splits["train"]
    rows = np.arange(len(labels)) % len(train)
    split = PreparedSplit(
        train.pixels,
        np.arange(len(labels), dtype=np.int64) // rows_per_picture,
        train.input_ids[rows],
        train.attention_mask[rows],
        labels,
        np.arange(len(labels), dtype=np.int64),
    )
    names = tuple(f"class {index}" for index in range(classes))
    info = replace(data.info, labels=names)
    return replace(data, info=info, splits={**data.splits, "train": split})


def counts_of(data: PreparedData, classes: int) -> list[int]:
    labels = data.splits["train"].labels
    return [int((labels == index).sum()) for index in range(classes)]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_keeps_its_share(memes: tuple[PreparedData, Preprocessor], seed: int) -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int64)
    data = data_with(memes, labels, classes=3)
    assert counts_of(hide_labels(data, 0.1, seed=seed), 3) in ([90, 9, 1], [89, 9, 2], [90, 8, 2])
    assert counts_of(hide_labels(data, 0.003, seed=seed), 3) == [1, 1, 1]


def test_a_class_without_a_label_is_named(memes: tuple[PreparedData, Preprocessor]) -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10]).astype(np.int64)
    hidden = hide_labels(data_with(memes, labels, classes=3), 0.002, seed=0)
    missing = [index for index, count in enumerate(counts_of(hidden, 3)) if count == 0]
    assert len(missing) == 1
    assert hidden.info.notes[-1] == f"classes whose labels are all hidden: class {missing[0]}"


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_decides(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    data = memes[0]
    kept = [
        hide_labels(data, share, seed=3).splits["train"].has_label()
        for share in (0.05, 0.2, 0.5, 0.9)
    ]
    assert [int(rows.sum()) for rows in kept] == [6, 24, 60, 108]
    assert all((small <= large).all() for small, large in pairwise(kept))
    assert np.array_equal(hide_labels(data, 0.2, seed=3).splits["train"].has_label(), kept[1])
    assert not np.array_equal(hide_labels(data, 0.2, seed=4).splits["train"].has_label(), kept[1])
    assert hide_labels(data, 1.0, seed=3) is data


def test_rows_of_an_image_keep_their_labels_together_and_a_rare_answer_is_among_them(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    """Ten questions an image; the rare answer is asked for on 5 images of 100."""
    labels = np.tile([0, 1], 500).astype(np.int64)
    labels[[7, 207, 407, 607, 807]] = 2
    data = data_with(memes, labels, classes=3, rows_per_picture=10)
    train = hide_labels(data, 0.1, seed=0).splits["train"]
    by_picture = train.has_label().reshape(100, 10).sum(axis=1)
    assert set(by_picture.tolist()) == {0, 10}
    assert by_picture.sum() == 100
    assert 1 <= (train.labels == 2).sum() <= 2


def test_rows_without_a_label_do_not_count(memes: tuple[PreparedData, Preprocessor]) -> None:
    labels = np.tile([0, 1, NO_LABEL, NO_LABEL], 50).astype(np.int64)
    hidden = hide_labels(data_with(memes, labels, classes=2), 0.5, seed=0)
    assert hidden.splits["train"].has_label().sum() == 50


def test_rows_of_several_labels_are_chosen_at_random(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    hot = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    hidden = hide_labels(data_with(memes, hot, classes=4), 0.25, seed=0)
    has_label = hidden.splits["train"].has_label()
    expected = np.zeros(200, bool)
    expected[np.random.default_rng((0, 2)).permutation(200)[:50]] = True
    assert np.array_equal(has_label, expected)


def test_a_share_of_nothing_is_refused(memes: tuple[PreparedData, Preprocessor]) -> None:
    data = data_with(memes, np.full(20, NO_LABEL, np.int64), classes=2)
    with pytest.raises(DataError, match="leaves no labelled example"):
        hide_labels(data, 0.5, seed=0)
