"""What logits say of each class. Torch-free, for runtimes that hold no torch."""

import numpy as np
from numpy.typing import NDArray

from msd_deploy.problem import Problem, has_independent_classes


def probabilities(logits: NDArray[np.float32], problem: Problem) -> NDArray[np.float64]:
    """Return softmax [rows, classes], or a sigmoid for each class if they are independent."""
    wide = logits.astype(np.float64)
    if has_independent_classes(problem):
        return np.asarray(0.5 * (1 + np.tanh(wide / 2)), np.float64)
    raised = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float64)
