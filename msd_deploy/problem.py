"""What a classifier is asked. Torch-free, and free of the data libraries."""

from typing import Literal

Problem = Literal["single_label", "multi_label"]
"""single_label: exactly one class, softmax. multi_label: any number of them, a sigmoid each."""

FurtherMetric = Literal["auroc", "macro_f1", "weighted_f1"]
"""Reported beside accuracy or micro F1 where a data set's paper does; decides nothing."""

NO_LABEL = -100
"""Class of a row without a label (as cross-entropy ignores it); NaN in a multi-label problem."""
