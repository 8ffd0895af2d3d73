"""Fewer labels: part of a training split whose labels are hidden, to be distilled from unlabelled.

Rows of one picture keep or lose their labels together, and a smaller share is part of a larger one.
"""

from dataclasses import replace

import numpy as np

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
    note = f"{labelled:,} of {len(train):,} training rows keep their labels"
    return replace(data, splits={**data.splits, "train": train}, notes=(*data.notes, note))


def _with_fewer_labels(split: PreparedSplit, share: float, seed: int) -> PreparedSplit:
    groups = rows_by_image(split.image_index)
    order = np.random.default_rng((seed, 2)).permutation(len(groups))
    kept = np.zeros(len(split), bool)
    wanted = share * int(split.has_label().sum())
    for group in order:
        if kept.sum() >= wanted:
            break
        kept[groups[group]] = True
    labels = split.labels.copy()
    labels[~kept] = NO_LABEL if labels.ndim == 1 else np.nan
    return replace(split, labels=labels)
