"""What history.jsonl says of a student's training, as series over steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_deploy.errors import ArtifactError
from msd_deploy.report.schema import SpreadSeries, TrainingJson
from msd_deploy.views import View

_PHASE = "student"


def read_training(path: Path, *, metric: str) -> TrainingJson:
    """Read the student's part of a run's log.

    Args:
        path: history.jsonl.
        metric: Under which name evaluations state their values.

    Raises:
        ArtifactError: It is missing, or a line is no JSON object.
    """
    lines = [line for line in _read_lines(path) if line.get("phase") == _PHASE]
    steps = [line for line in lines if "terms" in line]
    evaluations = [line for line in lines if isinstance(line.get(metric), dict)]
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
