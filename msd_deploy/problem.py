"""Kinds of classification problems. Free of torch and of the data libraries."""

from typing import Literal

Problem = Literal["single_label", "multi_label", "soft_label"]
"""single_label: exactly one class, softmax. multi_label: any number of classes, a sigmoid each.
soft_label: one class is predicted, the most probable, and several are correct to a degree: the
label of each is a score of 0, 1/3, 2/3 or 1, the agreement of annotators (Antol et al. 2015); a
sigmoid each.
"""

ExtraMetric = Literal["auroc", "macro_f1", "weighted_f1", "balanced_accuracy"]
"""Metrics reported beside the main one, as in a data set's paper or for imbalanced classes. No
decision depends on them."""

FULL_SCORE_VOTES = 3
"""Number of annotators who must give an answer for its full score, in a soft-label problem."""

NO_LABEL = -100
"""Class of a row without a label, `ignore_index` of cross-entropy; float labels are NaN instead."""


def has_independent_classes(problem: Problem) -> bool:
    """Return whether each class has its own sigmoid instead of a shared softmax."""
    return problem != "single_label"


def transformers_problem(problem: Problem) -> str:
    """Return the `problem_type` of transformers' configurations."""
    kind = "multi_label" if has_independent_classes(problem) else "single_label"
    return f"{kind}_classification"


def decides_one_class(problem: Problem) -> bool:
    """Return whether a decision is exactly one class."""
    return problem != "multi_label"
