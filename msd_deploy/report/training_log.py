"""What history.jsonl says of a student's training, as series over steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_deploy.errors import ArtifactError
from msd_deploy.report.metrics import is_number
from msd_deploy.report.schema import SpreadSeries, TrainingJson
from msd_deploy.views import View

_PHASE = "student"


def read_training(path: Path, *, metric: str) -> TrainingJson:
    """Read the student's part of a run's log.

    Args:
        path: history.jsonl.
        metric: Under which name evaluations state their values.

    Raises:
        ArtifactError: It is missing, or a line is no JSON object or lacks what it should state.
    """
    lines = []
    for number, line in enumerate(_read_lines(path), start=1):
        if line.get("phase") == _PHASE:
            _check_line(line, metric, where=f"{path}:{number}")
            lines.append(line)
    steps = [line for line in lines if "terms" in line]
    evaluations = [line for line in lines if metric in line]
    names = dict.fromkeys(name for line in steps for name in line["terms"])
    return {
        "steps": [line["step"] for line in steps],
        "terms": {name: [line["terms"].get(name) for line in steps] for name in names},
        "weights": _weights(steps),
        "validation": {
            "steps": [line["step"] for line in evaluations],
            "views": {
                view.value: [line[metric][view.value] for line in evaluations] for view in View
            },
        },
    }


def _check_line(line: Mapping[str, Any], metric: str, *, where: str) -> None:
    views, step = [view.value for view in View], line.get("step")
    spreads = line.get("weights", {})
    is_valid = {
        "step": isinstance(step, int) and is_number(step) and step >= 0,
        "terms": _are_numbers(line.get("terms", {})),
        "weights": isinstance(spreads, dict)
        and all(_are_numbers(spread, ("mean", "std")) for spread in spreads.values()),
        metric: metric not in line or _are_numbers(line[metric], views),
    }
    for key, holds in is_valid.items():
        if not holds:
            raise ArtifactError(
                f"has no valid {key} ({line.get(key)!r})", where=where, fix="Restore the file"
            )


def _are_numbers(found: object, keys: Sequence[str] = ()) -> bool:
    """Return whether a JSON value is an object of finite numbers, which has certain keys."""
    if not isinstance(found, dict) or not all(map(is_number, found.values())):
        return False
    return all(key in found for key in keys)


def _weights(steps: Sequence[Mapping[str, Any]]) -> dict[str, SpreadSeries]:
    found = {view.value for line in steps for view in View if view.value in line.get("weights", {})}

    def series(view: str, what: str) -> list[float | None]:
        return [line.get("weights", {}).get(view, {}).get(what) for line in steps]

    return {
        view.value: {"mean": series(view.value, "mean"), "std": series(view.value, "std")}
        for view in View
        if view.value in found
    }


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read ({error.strerror})", where=path, fix="Restore it"
        ) from error
    return [_read_line(path, number, text) for number, text in enumerate(texts, start=1)]


def _read_line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactError(
            f"is no JSON ({error})", where=f"{path}:{number}", fix="Restore the file"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError("is no JSON object", where=f"{path}:{number}", fix="Restore the file")
    return value
