"""Fewer labels: part of a training split whose labels are hidden, to be distilled from unlabelled.

Rows of one picture keep or lose their labels together, and a smaller share is part of a larger one.
Where a row has one label, every class keeps the same share of its pictures, the first of every
class before the second of any; rows with several labels are chosen at random.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from msd_deploy.data.batch import rows_by_image
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.errors import DataError
from msd_deploy.problem import NO_LABEL


def hide_labels(data: PreparedData, share: float, *, seed: int) -> PreparedData:
    """Keep the labels of a share of the training rows and hide the others'.

    Args:
        data: Validation and test keep theirs.
        share: Labelled training rows, above 0 to 1 (then the data is returned as it is).
        seed: Decides which pictures.

    Raises:
        DataError: No labelled row would be left.
    """
    if share >= 1:
        return data
    train = _with_fewer_labels(data.splits["train"], share, seed)
    labelled = int(train.has_label().sum())
    if labelled == 0:
        raise DataError(
            f"a share of {share:g} leaves no labelled row", fix="Raise data.labelled_share"
        )
    notes = [f"{labelled:,} of {len(train):,} training rows keep their labels"]
    if missing := _classes_without_label(train, data.labels):
        notes.append(f"classes whose labels are all hidden: {', '.join(missing)}")
    return replace(data, splits={**data.splits, "train": train}, notes=(*data.notes, *notes))


def _with_fewer_labels(split: PreparedSplit, share: float, seed: int) -> PreparedSplit:
    groups = [np.array(group) for group in rows_by_image(split.image_index)]
    has_label = split.has_label()
    kept = np.zeros(len(split), bool)
    wanted, found = share * int(has_label.sum()), 0
    for group in _order_of_groups(split, groups, seed):
        if found >= wanted:
            break
        kept[groups[group]] = True
        found += int(has_label[groups[group]].sum())
    labels = split.labels.copy()
    labels[~kept] = NO_LABEL if labels.ndim == 1 else np.nan
    return replace(split, labels=labels)


def _order_of_groups(
    split: PreparedSplit, groups: list[NDArray[np.int64]], seed: int
) -> NDArray[np.int64]:
    """Return the order, int64 [groups], in which pictures are given their labels back."""
    order = np.random.default_rng((seed, 2)).permutation(len(groups))
    if split.labels.ndim == 2:
        return order
    classes = _classes_of_groups(split, groups)[order]
    place = np.empty(len(groups))
    for name in np.unique(classes):
        members = np.flatnonzero(classes == name)
        place[members] = np.arange(len(members)) / len(members)
    return np.asarray(order[np.argsort(place, kind="stable")], np.int64)


def _classes_of_groups(split: PreparedSplit, groups: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the class that each picture stands for, int64 [groups]: the rarest of its rows'."""
    found, counts = np.unique(split.labels, return_counts=True)
    counts[found == NO_LABEL] = len(split) + 1  # stands for a picture without any label only
    rarity = counts[np.searchsorted(found, split.labels)]
    return np.array([split.labels[group[rarity[group].argmin()]] for group in groups], np.int64)


def _classes_without_label(split: PreparedSplit, classes: tuple[str, ...]) -> list[str]:
    labels = split.labels[split.has_label()]
    positions = np.arange(len(classes))
    present = labels.any(axis=0) if labels.ndim == 2 else np.isin(positions, labels)
    return [classes[index] for index in np.flatnonzero(np.logical_not(present))]
