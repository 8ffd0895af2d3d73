"""Names of views and metrics, and numbers with units, for reports and the command line."""

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

NOTHING = "–"
VIEW_NAMES: Mapping[str, str] = {
    "multimodal": "image and text",
    "image": "image alone",
    "text": "text alone",
}
_METRIC_NAMES: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "micro_f1": "Micro F1",
    "vqa_accuracy": "VQA accuracy",
}
_DECISION_COLUMNS: Mapping[str, str] = {
    "precision": "precision",
    "recall": "recall",
    "abstained": "abstains",
}
DECISION_GROUPS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("Measured (95 % interval)", "When chosen"),
    tuple(_DECISION_COLUMNS.values()),
)
"""Headings of `decision_cells`, by group."""
_MEGA = 1e6


class ScoreJson(TypedDict):
    """A metric with its 95 % bootstrap interval, as fractions of 1."""

    value: float
    interval: list[float]
    examples: int


class Interval(TypedDict):
    """A value with its 95 % bootstrap interval."""

    value: float
    interval: list[float]


def metric_title(metric: str) -> str:
    """Return the capitalized name of a metric."""
    return _METRIC_NAMES.get(metric, metric)


def percent(share: float | None) -> str:
    """Format a fraction as a percentage with one decimal."""
    return NOTHING if share is None else f"{share * 100:.1f} %"


def in_points(difference: Interval) -> str:
    """Format the interval of a difference of fractions, e.g. -1.9 to +0.3 points."""
    low, high = difference["interval"]
    return f"{100 * low:+.1f} to {100 * high:+.1f} points"


def score_text(score: ScoreJson | None) -> str:
    """Format a metric with its interval, e.g. 93.1 % (92.0 to 94.2)."""
    if score is None:
        return NOTHING
    return share_text({"value": score["value"], "interval": score["interval"]})


def share_text(measured: Interval | None) -> str:
    """Format a share with its interval, e.g. 93.1 % (92.0 to 94.2)."""
    if measured is None:
        return NOTHING
    low, high = measured["interval"]
    return f"{percent(measured['value'])} ({low * 100:.1f} to {high * 100:.1f})"


def fraction_text(measured: Interval) -> str:
    """Format a fraction with its interval, e.g. 0.031 (0.025 to 0.041)."""
    low, high = measured["interval"]
    return f"{measured['value']:.3f} ({low:.3f} to {high:.3f})"


def decision_cells(
    measured: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a view's name and the cells of what an operating point gives, for each view.

    Args:
        measured: By view, see `operating_point.Expected`.
        expected: The same of the examples that it was chosen on.
    """
    for view, name in VIEW_NAMES.items():
        if view in measured:
            before: Mapping[str, Any] = expected.get(view, {})
            yield (
                name,
                (
                    *(share_text(measured[view][key]) for key in _DECISION_COLUMNS),
                    *(_value_text(before.get(key)) for key in _DECISION_COLUMNS),
                ),
            )


def _value_text(measured: Interval | None) -> str:
    return percent(None if measured is None else measured["value"])


def bytes_text(size: int | None) -> str:
    """Format a size in decimal kB, MB or GB."""
    if size is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def count_text(count: int | None) -> str:
    """Format a number of parameters, e.g. 49.6 k or 4.12 M."""
    if count is None:
        return NOTHING
    return f"{count / _MEGA:.3g} M" if count >= _MEGA else f"{count / 1e3:.3g} k"
