"""Data in the classes of a model that was not made from them: same names, another order or more."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from msd_deploy.data.from_rows import other_classes
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source_types import SourceData
from msd_deploy.problem import Problem


def check_classes(
    source: SourceData, labels: Sequence[str], problem: Problem, where: object
) -> None:
    """Check that a model can be judged by a data set.

    Raises:
        DataError: It asks something else, or has a class that the model has not.
    """
    unknown = sorted(set(source.labels) - set(labels))
    if source.problem != problem or unknown:
        raise other_classes(", ".join(unknown[:5]) or source.problem, labels, where)


def in_classes_of(data: PreparedData, labels: tuple[str, ...]) -> PreparedData:
    """Return data whose labels are numbered as a model numbers its classes.

    Args:
        data: Its classes are among the model's; see `check_classes`.
        labels: The model's classes, in its order.
    """
    if data.labels == labels:
        return data
    places = np.array([labels.index(label) for label in data.labels], np.int64)
    splits = {name: _in_places(split, places, len(labels)) for name, split in data.splits.items()}
    return replace(data, splits=splits, labels=labels)


def _in_places(split: PreparedSplit, places: NDArray[np.int64], classes: int) -> PreparedSplit:
    if split.labels.ndim == 1:
        single = split.labels.astype(np.int64)
        known = split.has_label()
        single[known] = places[single[known]]
        return replace(split, labels=single)
    scores = np.zeros((len(split), classes), np.float32)
    scores[:, places] = split.labels
    scores[~split.has_label()] = np.nan
    return replace(split, labels=scores)
