"""Predictions of each variant on the test split: metrics by view, agreement with the teacher."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import cast

import numpy as np

from msd_deploy.confidence import ConfidenceJson, confidence_of_views
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.decision_quality import DecisionsJson, decisions_of_views
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.errors import ArtifactError, MsdError
from msd_deploy.metrics import (
    LogitArray,
    LogitsByView,
    agreement,
    decided_labels,
    score_logits,
    score_views,
)
from msd_deploy.models.folders import read_labels
from msd_deploy.operating_point import OperatingPoint, deciding_logits
from msd_deploy.pages.formatting import ScoreJson
from msd_deploy.temperatures import read_temperatures
from msd_deploy.views import View
from msd_export.parity import predict_split
from msd_mobile_bench.runtimes.process import ModelWorker, RemotePredictor
from msd_mobile_bench.variants import Variant

SPLIT = "test"


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of the predictions of one setup.

    Attributes:
        scores: The metric by view.
        agreement: Share of the teacher's decisions, by view.
        confidence: Calibration of the probabilities, by view; empty without labels.
        decisions: What the operating point gives, by view; empty without one or labels.
    """

    scores: dict[str, ScoreJson]
    agreement: dict[str, float]
    confidence: dict[str, ConfidenceJson]
    decisions: dict[str, DecisionsJson]


def predict_setups(
    workers: Sequence[ModelWorker],
    splits: Sequence[PreparedSplit],
    *,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[LogitsByView | MsdError]:
    """Return each worker's logits of all views, the workers side by side on the machine's cores.

    A worker that fails ends alone, and its error is returned.

    Args:
        workers: Those that are not open yet are opened, beside what the others do.
        splits: The examples of each: teacher and student may be preprocessed differently.
        on_done: Called in this thread with the pairs of setup and view that are done, and their
            total.
    """
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    logits: list[dict[View, LogitArray]] = [{} for _ in workers]
    failures: dict[int, MsdError] = {}
    try:
        futures: dict[Future[LogitArray], tuple[int, View]] = {}
        for view in View:  # the outer loop: a worker runs one task at a time
            for index, (worker, split) in enumerate(zip(workers, splits, strict=True)):
                future = pool.submit(_predict, worker, split, view)
                futures[future] = (index, view)
        for done, future in enumerate(as_completed(futures), start=1):
            index, view = futures[future]
            try:
                logits[index][view] = future.result()
            except MsdError as error:
                failures.setdefault(index, error)
                workers[index].kill()
            on_done(done, len(futures))
    except BaseException:
        for worker in workers:
            worker.kill()  # else the pool would wait for their answers
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [
        failures.get(index) or {view: by_view[view] for view in View}
        for index, by_view in enumerate(logits)
    ]


def _predict(worker: ModelWorker, split: PreparedSplit, view: View) -> LogitArray:
    worker.ensure_open()
    return predict_split(RemotePredictor(worker), split, view)


def evaluate(
    variant: Variant,
    logits: LogitsByView,
    data: PreparedData,
    predictions: TeacherPredictions,
    point: OperatingPoint | None = None,
) -> Quality:
    """Score a variant's logits of the first rows of the test split.

    Args:
        variant: Its folder states the order of its classes.
        logits: float32 [rows, classes] by view.
        data: Labels of all rows, or of none: the teacher's decisions then stand for them; and the
            order of classes in which they are counted.
        predictions: The teacher's cached logits, in the data's order of classes; with those of
            specialists, a student is compared with these.
        point: The model's operating point, in the data's order of classes.

    Raises:
        ArtifactError: The variant gave NaN or infinite logits, or knows other classes.
    """
    order = _order(variant, logits, data.info.labels)
    ordered = {view: values[:, order] for view, values in logits.items()}
    rows = len(ordered[View.MULTIMODAL])
    split, problem = data.splits[SPLIT].head(rows), data.info.problem
    temperatures = read_temperatures(variant.folder)
    deciding = deciding_logits(ordered, split, problem, temperatures=temperatures, point=point)
    # A student's targets are those of specialists where there are any; a teacher is its own.
    is_student = variant.model == "student"
    expected = predictions.by_view(SPLIT) if is_student else predictions.of_teacher(SPLIT)
    by_teacher = {view: values[:rows] for view, values in expected.items()}
    confidence: dict[str, ConfidenceJson] = {}
    decided: dict[str, DecisionsJson] = {}
    if split.has_label().any():
        scores = score_views(deciding, split.labels, problem)
        scaled = temperatures.scaled(ordered, split)
        confidence = confidence_of_views(scaled, split.labels, problem)
        if point is not None:
            decided = decisions_of_views(
                scaled, split.labels, problem, point=point, rows=split, classes=data.info.labels
            )
    else:
        scores = {
            view: score_logits(values, decided_labels(by_teacher[view], problem), problem)
            for view, values in ordered.items()
        }
    return Quality(
        scores={view.value: cast(ScoreJson, score.as_json()) for view, score in scores.items()},
        agreement={
            view.value: round(agreement(values, by_teacher[view], problem), 6)
            for view, values in ordered.items()
        },
        confidence=confidence,
        decisions=decided,
    )


def _order(variant: Variant, logits: Mapping[View, LogitArray], labels: Sequence[str]) -> list[int]:
    """Return the places of the data's classes among a variant's, whose logits are finite."""
    own, _ = read_labels(variant.folder)
    if set(own) != set(labels):
        raise ArtifactError("has other classes than the data", where=variant.folder)
    order = [own.index(label) for label in labels]
    for view, values in logits.items():
        if values.shape[1] != len(own):
            raise ArtifactError(
                f"returns {values.shape[1]} logits for {len(own)} classes", where=variant.folder
            )
        if not np.isfinite(values).all():
            raise ArtifactError(
                f"returns NaN or infinite logits on the {view} view", where=variant.folder
            )
    return order
