"""What a classifier is asked. Torch-free, and free of the data libraries."""

from typing import Literal

Problem = Literal["single_label", "multi_label"]
"""single_label: exactly one class, softmax. multi_label: any number of them, a sigmoid each."""

NO_LABEL = -100
"""Class of a row without a label (as cross-entropy ignores it); NaN in a multi-label problem."""
