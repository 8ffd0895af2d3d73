"""Micro and macro F1 on test of thresholds that were chosen on validation.

    python benchmarks/f1_thresholds.py                      # a long tail of classes, generated
    python benchmarks/f1_thresholds.py runs/compare-posters # the students of a study

Rules: 0.5; the best threshold of each class; the best of all classes together; and the mean of both
that `--decide f1` takes. The long tail has 23 classes, as MM-IMDb, of which the most frequent is
true in 38 % and the rarest in 1 % of the examples; logits are normal, and labels are drawn from
their probabilities, calibrated but for a bias of each class (standard deviation .7). 20 repetitions
with 500 and 2,500 validation and 8,000 test examples. `posters` has 8 balanced classes.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.decisions import Rule
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.source import DatasetInfo
from msd_deploy.metrics import LogitsByView, probabilities
from msd_deploy.models.folders import load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.run.operating_points import choose_point
from msd_deploy.run.record import prepare_for_run, read_run, source_of_run
from msd_deploy.study.cells import cell_directory, finished_cells
from msd_deploy.temperatures import UNCALIBRATED
from msd_deploy.views import View

_Values = NDArray[np.float64]
_CLASSES, _MOST_FREQUENT, _RAREST, _BIAS = 23, 0.5, 0.005, 0.7
_REPETITIONS, _TEST_ROWS = 20, 8000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, help="an output of msd compare")
    study: Path | None = parser.parse_args().study
    found: dict[str, list[tuple[float, float]]] = {}
    for name, scores in _of_study(study) if study else _of_long_tail():
        for rule, both in scores.items():
            found.setdefault(f"| {name} | {rule}", []).append(both)
    sys.stdout.write("| examples | thresholds | micro F1 | macro F1 |\n|---|---|---:|---:|\n")
    for line, values in found.items():
        micro, macro = 100 * np.mean(values, axis=0)
        sys.stdout.write(f"{line} | {micro:.1f} | {macro:.1f} |\n")


def _of_study(folder: Path) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Yield the scores of each student's views."""
    record = read_run(RunDirectory(folder))
    splits: Mapping[str, PreparedSplit] | None = None
    for method, seed in finished_cells(folder):
        student = load_model(cell_directory(folder, method, seed).student)
        if splits is None:
            source = source_of_run(record, DatasetInfo(student.labels, student.problem))
            splits = prepare_for_run(record, source, student.preprocessor).splits
        by_split: dict[str, LogitsByView] = {}
        for name in ("validation", "test"):
            logits = predict_views(student.model, splits[name])
            by_split[name] = student.temperatures.scaled(logits, splits[name])
        for view in View:
            yield (
                f"{record.config.data.spec}, {view}",
                _scores(
                    by_split["validation"][view].astype(np.float64),
                    splits["validation"].labels.astype(np.float64),
                    by_split["test"][view].astype(np.float64),
                    splits["test"].labels.astype(np.float64),
                ),
            )


def _of_long_tail() -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    generator = np.random.default_rng(0)
    prior = np.geomspace(_MOST_FREQUENT, _RAREST, _CLASSES)
    for _ in range(_REPETITIONS):
        bias = generator.normal(0, _BIAS, _CLASSES)

        def draw(rows: int, bias: _Values = bias) -> tuple[_Values, _Values]:
            logits = generator.normal(np.log(prior / (1 - prior)) - 0.8, 2, (rows, _CLASSES))
            labels = generator.random(logits.shape) < probabilities(logits, "multi_label")
            return logits + bias, labels.astype(np.float64)

        test = draw(_TEST_ROWS)
        for rows in (500, 2500):
            yield f"long tail, {rows:,} of validation", _scores(*draw(rows), *test)


def _scores(
    logits: _Values, labels: _Values, test_logits: _Values, test_labels: _Values
) -> dict[str, tuple[float, float]]:
    """Return micro and macro F1 of each rule; logits and labels are [examples, classes]."""
    found, test = (probabilities(each, "multi_label") for each in (logits, test_logits))
    shared = _best(found.ravel(), labels.ravel())
    own = np.array([_best(*each) for each in zip(found.T, labels.T, strict=True)])
    rows = np.arange(len(logits))
    tokens = np.ones((len(logits), 2), np.int32)
    split = PreparedSplit(
        np.zeros((1, 1, 1, 3), np.uint8), rows * 0, tokens, tokens, labels.astype(np.float32), rows
    )
    chosen = choose_point(
        Rule("f1"),
        dict.fromkeys(View, logits.astype(np.float32)),
        split,
        "multi_label",
        classes=[str(place) for place in range(logits.shape[1])],
        temperatures=UNCALIBRATED,
    ).point.thresholds[View.MULTIMODAL]
    rules = {"0.5": 0.5, "each class": own, "all classes": shared, "f1": np.array(chosen)}
    return {rule: _f1(test >= limits, test_labels) for rule, limits in rules.items()}


def _best(scores: _Values, truth: _Values) -> float:
    """Return the threshold of the best F1, one of the scores."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + truth.sum())
    return float(scores[order[f1.argmax()]])


def _f1(decided: NDArray[np.bool_], truth: _Values) -> tuple[float, float]:
    right, counts = (decided * truth).sum(axis=0), decided.sum(axis=0) + truth.sum(axis=0)
    return float(2 * right.sum() / counts.sum()), float((2 * right / np.maximum(counts, 1)).mean())


if __name__ == "__main__":
    main()
