"""What a report needs of a run's metrics.json, checked before it is used."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, cast

from msd_deploy.artifacts import Json, RunDirectory, read_versioned_json
from msd_deploy.errors import ArtifactError
from msd_deploy.views import View


def read_metrics(run: RunDirectory) -> Mapping[str, Any]:
    """Read metrics.json.

    Raises:
        ArtifactError: It is damaged, or lacks a figure that a report shows; names the figure.
    """
    metrics = read_versioned_json(run.metrics)
    for place in _places():
        value = _value_at(metrics, place)
        if not is_number(value) or (place[-1] in ("parameters", "size_bytes") and value <= 0):
            raise ArtifactError(
                f"has no valid {'.'.join(place)} ({value!r})",
                where=run.metrics,
                fix="Restore it, or distil again with --overwrite",
            )
    return cast("Mapping[str, Any]", metrics)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _places() -> Iterator[tuple[str, ...]]:
    for who in ("teacher", "student"):
        yield who, "parameters"
        yield who, "size_bytes"
    for view in View:
        yield "teacher", "validation", view.value, "value"


def _value_at(metrics: Json, place: tuple[str, ...]) -> object:
    value: object = metrics
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value
