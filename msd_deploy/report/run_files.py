"""Metrics, history and example weights of a run, validated and summarized for a report.

The history becomes series over steps; the weights of training examples are related to the teacher's
saliency.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy import stats

from msd_deploy.artifacts.manifest import Json, is_number, read_versioned_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.distillation.plan import TrainingResult
from msd_deploy.distillation.saliency import Saliency
from msd_deploy.errors import ArtifactError
from msd_deploy.report.schema import BinJson, SalienceJson, SpreadSeries, TrainingJson, WeightsJson
from msd_deploy.views import View

_COUNTS_OF_TRAINING = tuple(field.name for field in fields(TrainingResult))


def trainings_of(facts: Mapping[str, Any]) -> list[TrainingResult]:
    """Return how the trainings of a model ended, from its part of metrics.json."""
    training = facts.get("training") or {}
    return [
        TrainingResult(*(counts[name] for name in _COUNTS_OF_TRAINING))
        for counts in training.values()
    ]


def read_metrics(run: RunDirectory, *, has_validation: bool = True) -> Mapping[str, Any]:
    """Read metrics.json.

    Args:
        run: The run.
        has_validation: Whether its validation examples have labels.

    Raises:
        ArtifactError: It is damaged, or lacks a value that a report shows; names the value.
    """
    metrics = read_versioned_json(run.metrics)
    for path in _required_paths(metrics, has_validation=has_validation):
        value = _value_at(metrics, path)
        if not is_number(value) or (path[-1] in ("parameters", "size_bytes") and value <= 0):
            raise ArtifactError(
                f"has no valid {'.'.join(path)} ({value!r})",
                where=run.metrics,
                fix="Restore it, or distil again with --overwrite",
            )
    return cast("Mapping[str, Any]", metrics)


def specialists_in(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of metrics.json on teachers of a single view, by view."""
    keys = {view.value: f"{view}_teacher" for view in (View.IMAGE, View.TEXT)}
    return {view: metrics[key] for view, key in keys.items() if key in metrics}


def _required_paths(metrics: Json, *, has_validation: bool) -> Iterator[tuple[str, ...]]:
    teachers = ["teacher"] + ["adapted_teacher"] * ("adapted_teacher" in metrics)
    specialists = {view: f"{view}_teacher" for view in specialists_in(metrics)}
    for model in (*teachers, *specialists.values(), "student"):
        yield model, "parameters"
        yield model, "size_bytes"
        # A given teacher has no training, and earlier versions state none.
        training = _value_at(metrics, (model, "training")) or {}
        for phase in training if isinstance(training, dict) else (model,):
            for name in _COUNTS_OF_TRAINING:
                yield model, "training", phase, name
    for teacher, split, view in itertools.product(teachers, ("validation", "test"), View):
        if has_validation if split == "validation" else "adapted_teacher" in metrics:
            yield teacher, split, view.value, "value"
    for name, key in specialists.items() if has_validation else ():
        yield key, "validation", name, "value"


def _value_at(metrics: Json, path: tuple[str, ...]) -> object:
    value: object = metrics
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def read_training(
    path: Path, *, metric: str, epochs: int | None = None, has_validation: bool = True
) -> TrainingJson:
    """Read the student's training from a run's history.

    Args:
        path: Path of history.jsonl.
        metric: Name of the metric in validation lines.
        epochs: Number of epochs that the student was trained for; None: not known.
        has_validation: Whether the validation examples have labels.

    Raises:
        ArtifactError: It is missing, has no training of the student or ends before its last epoch,
            or a line is not a JSON object or lacks a value.
    """
    lines, history = [], _read_lines(path)
    # With --from and int8 epochs alone, "int8" is the only training.
    if all(line.get("phase") in ("teacher", "adaptation") for line in history):
        what = "has no line of the student's training"
        raise ArtifactError(what, where=path, fix="Restore the file")
    for number, line in enumerate(history, start=1):
        if line.get("phase") == "student":
            _check_line(line, metric, where=f"{path}:{number}")
            lines.append(line)
    steps = [line for line in lines if "terms" in line]
    validations = [line for line in lines if metric in line]
    if epochs is not None and lines:
        ends = validations if has_validation else steps
        ends_in: int = max((line.get("epoch", epochs) for line in ends), default=0)
        if ends_in < epochs:
            what = f"ends in epoch {ends_in} of the student's {epochs}: lines are missing"
            raise ArtifactError(what, where=path, fix="Restore the file")
    names = dict.fromkeys(name for line in steps for name in line["terms"])
    return {
        "steps": [line["step"] for line in steps],
        "terms": {name: [line["terms"].get(name) for line in steps] for name in names},
        "weights": _weights(steps),
        "validation": {
            "steps": [line["step"] for line in validations],
            "views": {
                view.value: [line[metric][view.value] for line in validations] for view in View
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
        "epoch": "epoch" not in line or is_number(line["epoch"]),
        metric: metric not in line or _are_numbers(line[metric], views),
    }
    for key, valid in is_valid.items():
        if not valid:
            raise ArtifactError(
                f"has no valid {key} ({line.get(key)!r})", where=where, fix="Restore the file"
            )


def _are_numbers(value: object, keys: Sequence[str] = ()) -> bool:
    """Return whether a JSON value is an object of finite numbers that has certain keys."""
    if not isinstance(value, dict) or not all(map(is_number, value.values())):
        return False
    return all(key in value for key in keys)


def _weights(steps: Sequence[Mapping[str, Any]]) -> dict[str, SpreadSeries]:
    weighted = {view for line in steps for view in View if view.value in line.get("weights", {})}

    def series(view: str, statistic: str) -> list[float | None]:
        return [line.get("weights", {}).get(view, {}).get(statistic) for line in steps]

    return {
        view.value: {"mean": series(view.value, "mean"), "std": series(view.value, "std")}
        for view in View
        if view in weighted
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
            f"is not valid JSON ({error})", where=f"{path}:{number}", fix="Restore the file"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            "is not a JSON object", where=f"{path}:{number}", fix="Restore the file"
        )
    return value


Values = NDArray[np.float64]

BINS = 12
_MAX_POINTS = 400
_ROUNDING = 1e-6  # relative rounding of float32 values and of their mean
_DECILES = (0.1, 0.5, 0.9)


def read_weights(run: RunDirectory, saliency: Saliency) -> WeightsJson | None:
    """Read a run's example weights and relate them to the teacher's saliency.

    Args:
        run: The run.
        saliency: Saliency of its teacher on the training split.

    Returns:
        None if the method has no weights.

    Raises:
        ArtifactError: The file is damaged, or has another number of examples.
    """
    if not run.example_weights.is_file():
        return None
    weights = _load(run)
    if not any(_is_varied(values) for values in weights.values()):
        fixed = {view: round(float(values.mean()), 6) for view, values in weights.items()}
        return {"fixed": fixed, "by_saliency": {}}
    tensors = {View.IMAGE.value: saliency.image, View.TEXT.value: saliency.text}
    by_view = {view: values.numpy().astype(np.float64) for view, values in tensors.items()}
    for view, values in by_view.items():
        if view not in weights or len(weights[view]) != len(values):
            raise ArtifactError(
                f"lacks a weight of the {view} view for each of {len(values)} examples",
                where=run.example_weights,
                fix="Restore it, or distil again with --overwrite",
            )
    by_saliency = {view: against_saliency(by_view[view], weights[view]) for view in by_view}
    return {"fixed": {}, "by_saliency": by_saliency}


def are_apart(low: float, high: float) -> bool:
    """Return whether two values differ by more than rounding."""
    return high - low > _ROUNDING * max(1.0, abs(high))


def _is_varied(values: Values) -> bool:
    return are_apart(float(values.min()), float(values.max()))


def _load(run: RunDirectory) -> dict[str, Values]:
    try:
        weights = load_file(run.example_weights)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"cannot be read ({error})",
            where=run.example_weights,
            fix="Restore it, or distil again with --overwrite",
        ) from error
    return {view.value: weights[view.value].astype(np.float64) for view in View if view in weights}


def against_saliency(saliency: Values, weights: Values) -> SalienceJson:
    """Summarize weights in bins of equally many examples by saliency, with some single examples.

    Args:
        saliency: [examples], nats.
        weights: [examples].
    """
    order = np.argsort(saliency, kind="stable")
    groups = [rows for rows in np.array_split(order, BINS) if len(rows)]
    step = max(1, -(-len(saliency) // _MAX_POINTS))
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
