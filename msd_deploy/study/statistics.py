"""Statistics of a study: means and spreads over seeds, paired tests, bootstrap intervals.

Seeds are paired: the same seed gives every method the same initial weights. The t-test is over
seeds; the interval resamples both seeds and test images.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from msd_deploy.metrics import ratio_of_sums

_RESAMPLES, _CHUNK = 2000, 200
_CONFIDENCE = 0.95
_NO_SPREAD = 1e-9  # rounding alone

Counts = NDArray[np.int64]
"""Numerator and denominator of the metric per test image, [images, 2].

See `msd_deploy.metrics.row_counts`; the examples of an image are summed and resampled together.
"""


@dataclass(frozen=True, slots=True)
class Spread:
    """A method's metric over seeds.

    Attributes:
        mean: 0 to 1.
        std: Sample standard deviation; None for one seed.
        per_seed: Seed to value.
    """

    mean: float
    std: float | None
    per_seed: Mapping[int, float]

    def as_json(self) -> dict[str, object]:
        """Return the spread as JSON values."""
        return {
            "mean": round(self.mean, 6),
            "std": None if self.std is None else round(self.std, 6),
            "per_seed": {str(seed): round(value, 6) for seed, value in self.per_seed.items()},
        }


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """One method less another, over the seeds that both have.

    Attributes:
        mean: Of the differences.
        std: Their sample standard deviation; None for one seed.
        p_value: Two-sided paired t-test; None with fewer than two seeds or no spread at all.
        low: Lower end of the 95 % bootstrap interval of the mean.
        high: Upper end.
        seeds: How many.
    """

    mean: float
    std: float | None
    p_value: float | None
    low: float
    high: float
    seeds: int

    def as_json(self) -> dict[str, object]:
        """Return the difference as JSON values."""
        return {
            "mean": round(self.mean, 6),
            "std": None if self.std is None else round(self.std, 6),
            "p_value": None if self.p_value is None else round(self.p_value, 6),
            "interval": [round(self.low, 6), round(self.high, 6)],
            "seeds": self.seeds,
        }


def spread_of(values: Mapping[int, float]) -> Spread:
    """Return mean and standard deviation of a metric by seed."""
    array = np.array(list(values.values()), float)
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), std, dict(sorted(values.items())))


def paired_difference(
    first: Mapping[int, Counts], second: Mapping[int, Counts]
) -> PairedDifference | None:
    """Compare two methods seed by seed.

    Args:
        first: Seed to counts on the test split.
        second: The other method's.

    Returns:
        first less second; None if they share no seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = np.array(
        [metric_of_counts(first[s]) - metric_of_counts(second[s]) for s in seeds]
    )
    low, high = _bootstrap(
        np.stack([first[s] for s in seeds]), np.stack([second[s] for s in seeds])
    )
    std = float(differences.std(ddof=1)) if len(seeds) > 1 else None
    p_value = None
    if std is not None and std > _NO_SPREAD:
        p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(float(differences.mean()), std, p_value, low, high, len(seeds))


def metric_of_counts(counts: Counts) -> float:
    """Return the metric of a whole test split."""
    return float(ratio_of_sums(counts.sum(axis=0)))


def _bootstrap(first: Counts, second: Counts) -> tuple[float, float]:
    """Return the interval of the mean difference of counts [seeds, examples, 2].

    Each resample draws seeds and, for all of them together, test examples, with replacement: the
    examples are the same for every seed and method, so their differences are shared.
    """
    rng = np.random.default_rng(0)
    seeds, rows = first.shape[:2]
    means = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, _CHUNK):
        times = rng.multinomial(rows, np.full(rows, 1 / rows), size=_CHUNK)
        by_seed = ratio_of_sums(times @ first) - ratio_of_sums(times @ second)  # [seeds, chunk]
        chosen = rng.integers(0, seeds, (seeds, _CHUNK))
        means[start : start + _CHUNK] = np.take_along_axis(by_seed, chosen, axis=0).mean(axis=0)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def gap_closed(method: float, without: float, teacher: float) -> float | None:
    """Return the share of the gap between undistilled student and teacher that a method closes.

    None where the teacher is no better than the undistilled student.
    """
    if teacher <= without:
        return None
    return (method - without) / (teacher - without)
