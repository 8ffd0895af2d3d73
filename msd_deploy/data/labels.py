"""Labels of prepared data: class weights, hidden labels, and classes in a model's order.

Class weights, with n labelled training examples of which n_c have class c:

    single label   w_c = n / (classes * n_c), scikit-learn's "balanced" (King & Zeng 2001); classes
                   that occur are counted, so the mean of w over the labelled examples is 1
    multi-label    w_c = (n - n_c) / n_c, the weight of a class where it is true (the pos_weight of
                   torch's binary cross-entropy): positives and negatives weigh the same in sum

No weight is above MOST_WEIGHT: one mislabelled example of a rare class must not decide a step. The
weights of a single-label problem are then scaled to a mean of 1 again. A class that does not occur
has weight 1. Validation, test and hidden labels are not counted.

Labels are hidden to distil from unlabelled examples. Examples of one image keep or lose their
labels together, and a smaller share is part of a larger one. In a single-label problem every class
keeps the same share of its images; in others images are chosen at random.

Data is renumbered for a model that was trained on other data: same names, another order or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config.run import ClassWeighting
from msd_deploy.data.batch import rows_by_image
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source import DatasetInfo, SourceData
from msd_deploy.errors import ConfigError, DataError, shortened
from msd_deploy.problem import NO_LABEL, Problem

MOST_WEIGHT = 100.0
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class _Counted:
    """The labelled training examples: how many there are, and of each class, int64 [classes]."""

    rows: int
    of_class: NDArray[np.int64]


def weigh_classes(data: PreparedData, weighting: ClassWeighting) -> PreparedData:
    """Return a data set with class weights, and a note about them.

    Args:
        data: Its labelled training examples are counted, hidden labels not.
        weighting: none returns the data as it is.

    Raises:
        ConfigError: The labels are soft, or there are none: their classes are not weighed.
    """
    if weighting == "none":
        return data
    if data.info.problem == "soft_label" or not data.splits["train"].has_label().any():
        kind = "soft labels" if data.info.problem == "soft_label" else "unlabelled training rows"
        raise ConfigError(
            f"class weights are not available for {kind}",
            where="data.class_weights",
            fix="Leave it out, or use none",
        )
    counted = _count(data.splits["train"], len(data.info.labels))
    weights = _balanced(counted, is_single=data.info.problem == "single_label")
    further = data.info.further_metrics
    if data.info.problem == "single_label" and "balanced_accuracy" not in further:
        further = (*further, "balanced_accuracy")
    info = replace(
        data.info,
        class_weights=tuple(round(float(weight), 6) for weight in weights),
        notes=(*data.info.notes, *_notes(weights, counted, data.info.labels)),
        further_metrics=further,
    )
    return replace(data, info=info)


def class_weights_as_json(info: DatasetInfo) -> Mapping[str, object]:
    """Return the class_weights entry of run.json; empty without class weights.

    by_class has the weights in the order of the classes, by name.
    """
    if info.class_weights is None:
        return {}
    by_class = dict(zip(info.labels, info.class_weights, strict=True))
    return {"class_weights": {"weighting": "balanced", "most": MOST_WEIGHT, "by_class": by_class}}


def _count(split: PreparedSplit, classes: int) -> _Counted:
    labels = split.labels[split.has_label()]
    if labels.ndim == 1:
        counts = np.bincount(labels.astype(np.int64), minlength=classes)
    else:
        counts = labels.sum(axis=0, dtype=np.float64).round().astype(np.int64)
    return _Counted(len(labels), counts)


def _balanced(counted: _Counted, *, is_single: bool) -> NDArray[np.float64]:
    rows, counts = counted.rows, counted.of_class
    has_row = counts > 0
    at_least_one = np.maximum(counts, 1)
    weights = rows / (has_row.sum() * at_least_one) if is_single else (rows - counts) / at_least_one
    # A class that every example has: 0 would mean that it may be forgotten.
    weights = np.where(has_row & (weights > 0), np.minimum(weights, MOST_WEIGHT), 1.0)
    if is_single:
        weights[has_row] /= (weights * counts).sum() / rows
    return np.asarray(weights, np.float64)


def _notes(
    weights: NDArray[np.float64], counted: _Counted, labels: tuple[str, ...]
) -> tuple[str, ...]:
    rarest_first = np.argsort(counted.of_class, kind="stable")
    with_rows = [index for index in rarest_first if counted.of_class[index] > 0]
    without = [labels[index] for index in rarest_first if counted.of_class[index] == 0]
    listed = ", ".join(
        f"{shortened(labels[index])} {weights[index]:.3g} ({counted.of_class[index]:,})"
        for index in with_rows[:_MOST_LISTED]
    )
    more = ", ..." if len(with_rows) > _MOST_LISTED else ""
    notes = [f"class weights of the labels' loss (labelled training rows): {listed}{more}"]
    if without:
        named = ", ".join(map(shortened, without[:_MOST_LISTED]))
        more = ", ..." if len(without) > _MOST_LISTED else ""
        notes.append(f"classes without a labelled training row have weight 1: {named}{more}")
    return tuple(notes)


def check_labelled(data: PreparedData, split: str, purpose: str) -> None:
    """Check that examples of a split have labels.

    Args:
        data: The data.
        split: The split.
        purpose: What needs them, for the error.

    Raises:
        DataError: None has.
    """
    if not data.splits[split].has_label().any():
        raise DataError(
            f"no {split} row has a label, which {purpose} needs",
            fix=f"Name data with labelled {split} rows, here (--data) or in a new run",
        )


def hide_labels(data: PreparedData, share: float, *, seed: int) -> PreparedData:
    """Keep the labels of a share of the training examples and hide the others'.

    Args:
        data: Validation and test keep theirs.
        share: Labelled training examples, above 0 to 1 (then the data is returned as it is).
        seed: Decides which images.

    Raises:
        DataError: No labelled example would be left.
    """
    if share >= 1:
        return data
    train = _with_fewer_labels(data.splits["train"], share, seed)
    labelled = int(train.has_label().sum())
    if labelled == 0:
        raise DataError(
            f"a share of {share:g} leaves no labelled example", fix="Raise data.labelled_share"
        )
    notes = [f"{labelled:,} of {len(train):,} training rows keep their labels"]
    if missing := _classes_without_label(train, data.info.labels):
        more = ", ..." if len(missing) > _MOST_LISTED else ""
        named = ", ".join(map(shortened, missing[:_MOST_LISTED]))
        notes.append(f"classes whose labels are all hidden: {named}{more}")
    info = replace(data.info, notes=(*data.info.notes, *notes))
    return replace(data, splits={**data.splits, "train": train}, info=info)


def _with_fewer_labels(split: PreparedSplit, share: float, seed: int) -> PreparedSplit:
    groups = [np.array(group) for group in rows_by_image(split.image_index)]
    has_label = split.has_label()
    kept = np.zeros(len(split), bool)
    target, found = share * int(has_label.sum()), 0
    for group in _order_of_groups(split, groups, seed):
        if found >= target:
            break
        kept[groups[group]] = True
        found += int(has_label[groups[group]].sum())
    labels = split.labels.copy()
    labels[~kept] = NO_LABEL if labels.ndim == 1 else np.nan
    return replace(split, labels=labels)


def _order_of_groups(
    split: PreparedSplit, groups: list[NDArray[np.int64]], seed: int
) -> NDArray[np.int64]:
    """Return the order, int64 [groups], in which images are given their labels back."""
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
    """Return the class that each image stands for, int64 [groups]: the rarest of its examples'."""
    found, counts = np.unique(split.labels, return_counts=True)
    counts[found == NO_LABEL] = len(split) + 1  # stands for an image without any label only
    rarity = counts[np.searchsorted(found, split.labels)]
    return np.array([split.labels[group[rarity[group].argmin()]] for group in groups], np.int64)


def _classes_without_label(split: PreparedSplit, classes: tuple[str, ...]) -> list[str]:
    labels = split.labels[split.has_label()]
    positions = np.arange(len(classes))
    present = labels.any(axis=0) if labels.ndim == 2 else np.isin(positions, labels)
    return [classes[index] for index in np.flatnonzero(np.logical_not(present))]


def other_classes(told: Sequence[str], labels: Sequence[str], where: object) -> DataError:
    """Return the error of data whose classes are not those of the model that is evaluated."""
    return DataError(
        f"has other classes than the model ({', '.join(map(shortened, told[:5]))})",
        where=where,
        fix=f"The model's classes are {', '.join(map(shortened, labels[:10]))}",
    )


def check_classes(
    source: SourceData, labels: Sequence[str], problem: Problem, where: object
) -> None:
    """Check that a model can be evaluated on a data set.

    Raises:
        DataError: It is of another problem, or has a class that the model does not have.
    """
    unknown = sorted(set(source.info.labels) - set(labels))
    if source.info.problem != problem or unknown:
        raise other_classes(unknown or [source.info.problem], labels, where)


def in_classes_of(data: PreparedData, labels: tuple[str, ...]) -> PreparedData:
    """Return data whose labels are numbered as a model numbers its classes.

    Args:
        data: Its classes are among the model's; see `check_classes`.
        labels: The model's classes, in its order.
    """
    if data.info.labels == labels:
        return data
    places = np.array([labels.index(label) for label in data.info.labels], np.int64)
    splits = {name: _in_places(split, places, len(labels)) for name, split in data.splits.items()}
    return replace(data, splits=splits, info=replace(data.info, labels=labels))


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
