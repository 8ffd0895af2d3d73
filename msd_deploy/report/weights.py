"""The weights that a method gives its training examples, against the teacher's saliency."""

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy import stats

from msd_deploy.artifacts import RunDirectory
from msd_deploy.distill.saliency import Saliency
from msd_deploy.errors import ArtifactError
from msd_deploy.report.schema import BinJson, SalienceJson, WeightsJson
from msd_deploy.views import View

Values = NDArray[np.float64]

BINS = 12
_MOST_POINTS = 400
_SAME = 1e-6  # float32's rounding, as a share of what is rounded, with room for its mean
_DECILES = (0.1, 0.5, 0.9)


def read_weights(run: RunDirectory, saliency: Saliency) -> WeightsJson | None:
    """Read a run's example weights and compare them with the teacher's saliency.

    Args:
        run: The run.
        saliency: Of its teacher on the training split.

    Returns:
        None where the method has no weights.

    Raises:
        ArtifactError: The file is damaged, or of another number of examples.
    """
    if not run.example_weights.is_file():
        return None
    weights = _load(run)
    if not any(_is_varied(values) for values in weights.values()):
        fixed = {view: round(float(values.mean()), 6) for view, values in weights.items()}
        return {"fixed": fixed, "by_saliency": {}}
    of_view = {View.IMAGE.value: saliency.image, View.TEXT.value: saliency.text}
    moved = {view: values.numpy().astype(np.float64) for view, values in of_view.items()}
    for view, values in moved.items():
        if view not in weights or len(weights[view]) != len(values):
            raise ArtifactError(
                f"does not hold a weight of the {view} view for each of {len(values)} examples",
                where=run.example_weights,
                fix="Restore it, or distil again with --overwrite",
            )
    by_saliency = {view: against_saliency(moved[view], weights[view]) for view in moved}
    return {"fixed": {}, "by_saliency": by_saliency}


def are_apart(low: float, high: float) -> bool:
    """Return whether two values differ by more than rounding does."""
    return high - low > _SAME * max(1.0, abs(high))


def _is_varied(values: Values) -> bool:
    return are_apart(float(values.min()), float(values.max()))


def _load(run: RunDirectory) -> dict[str, Values]:
    try:
        found = load_file(run.example_weights)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"cannot be read ({error})",
            where=run.example_weights,
            fix="Restore it, or distil again with --overwrite",
        ) from error
    return {view.value: found[view.value].astype(np.float64) for view in View if view in found}


def against_saliency(saliency: Values, weights: Values) -> SalienceJson:
    """Return weights in bins of as many examples each, by saliency, and some single examples.

    Args:
        saliency: [examples], nats.
        weights: [examples].
    """
    order = np.argsort(saliency, kind="stable")
    groups = [rows for rows in np.array_split(order, BINS) if len(rows)]
    step = max(1, -(-len(saliency) // _MOST_POINTS))
    chosen = range(0, len(saliency), step)
    return {
        "rank_correlation": _rank_correlation(saliency, weights),
        "bins": [_bin(saliency[rows], weights[rows]) for rows in groups],
        "points": [[round(float(saliency[r]), 6), round(float(weights[r]), 6)] for r in chosen],
    }


def _bin(saliency: Values, weights: Values) -> BinJson:
    low, median, high = (round(float(value), 6) for value in np.quantile(weights, _DECILES))
    return {
        "examples": len(saliency),
        "saliency": round(float(np.median(saliency)), 6),
        "low": low,
        "median": median,
        "high": high,
    }


def _rank_correlation(first: Values, second: Values) -> float | None:
    if not (_is_varied(first) and _is_varied(second)):
        return None
    return round(float(stats.spearmanr(first, second).statistic), 4)
