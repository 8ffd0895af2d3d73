"""A model's two answers, held against each other: an app reads probabilities, we compare logits.

Torch-free, as what asks is.
"""

from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from msd_deploy.errors import ParityError
from msd_deploy.probabilities import probabilities
from msd_deploy.problem import Problem

_PROBABILITY_ERROR = 0.01
"""float16 keeps a probability to .0005, a logit of 30 to .015: that moves a probability by .004."""


def refuse_other_probabilities(
    logits: NDArray[np.float32], answered: NDArray[np.float32], problem: str | None, path: Path
) -> None:
    """Check that a model's probabilities, which an app reads, are those of its logits.

    Args:
        logits: float32 [rows, classes]; what is not finite, parity names.
        answered: The model's probabilities, of the same shape.
        problem: What the file states; None: any problem will do.
        path: The file.

    Raises:
        ParityError: They are others.
    """
    if not np.isfinite(logits).all():
        return
    possible = get_args(Problem) if problem is None else (problem,)
    errors = [np.abs(answered - probabilities(logits, cast(Problem, p))).max() for p in possible]
    if not min(errors) <= _PROBABILITY_ERROR:
        raise ParityError(
            f"its probabilities are up to {min(errors):.3f} off those of its logits", where=path
        )
