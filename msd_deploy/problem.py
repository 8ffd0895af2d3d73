"""What a classifier is asked. Torch-free, and free of the data libraries."""

from typing import Literal

Problem = Literal["single_label", "multi_label", "soft_label"]
"""single_label: exactly one class, softmax. multi_label: any number of them, a sigmoid each.
soft_label: one answer is given, and several are right to a degree: each class has a score of 0,
1/3, 2/3 or 1 (as people agree on it, Antol et al. 2015), a sigmoid each; the likeliest is given.
"""

ExtraMetric = Literal["auroc", "macro_f1", "weighted_f1", "balanced_accuracy"]
"""Reported beside the metric where a data set's paper does, or its classes ask for it; decides
nothing."""

FULL_SCORE_VOTES = 3
"""People who must have given an answer for its full score, in a soft-label problem."""

NO_LABEL = -100
"""Class of a row without a label (as cross-entropy ignores it); NaN where classes have scores."""


def has_independent_classes(problem: Problem) -> bool:
    """Return whether each class has a sigmoid of its own, rather than a share of a softmax."""
    return problem != "single_label"


def transformers_problem(problem: Problem) -> str:
    """Return what transformers' configurations call a problem: there, a sigmoid each is one."""
    kind = "multi_label" if has_independent_classes(problem) else "single_label"
    return f"{kind}_classification"


def decides_one_class(problem: Problem) -> bool:
    """Return whether a decision is one class, rather than any number of them."""
    return problem != "multi_label"
