"""Outputs of teacher and students on a split, from finished runs and their data."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.labels import check_labelled
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import SourceData
from msd_deploy.distillation.teacher_cache import (
    TeacherPredictions,
    read_predictions,
    rebuild_instruction,
)
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.operating_point import OperatingPoint, decided_classes, deciding_logits
from msd_deploy.report.run_files import read_metrics
from msd_deploy.run.operating_points import teacher_point_of
from msd_deploy.run.record import RunRecord, prepare_for_run, read_finished_run, source_of_run
from msd_deploy.temperatures import UNCALIBRATED, Temperatures, read_temperatures
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a model decides on a split.

    Attributes:
        point: Its operating point; None: the most probable class, or a probability of .5.
        logits: By which its decisions are scored, float32 [rows, classes] by view; see
            `deciding_logits`.
        classes: The decided classes, bool [rows, classes] by view.
    """

    point: OperatingPoint | None
    logits: LogitsByView
    classes: Mapping[View, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class StudentOutputs:
    """Outputs of one run's student on a split.

    Attributes:
        name: Name of the run, unique within the report.
        run: Folder of the run.
        config: Settings of the run.
        metrics: Content of metrics.json.
        logits: float32 [rows, classes] by view.
        temperatures: Temperatures of its probabilities.
        scaled: The logits over these temperatures.
        decisions: What it decides.
    """

    name: str
    run: RunDirectory
    config: RunConfig
    metrics: Mapping[str, Any]
    logits: LogitsByView
    temperatures: Temperatures
    scaled: LogitsByView
    decisions: Decisions


@dataclass(frozen=True, slots=True)
class RunOutputs:
    """Outputs of runs with one data set and one teacher.

    Attributes:
        source: The data set as it was read.
        data: The data set as prepared for the first run's student.
        split: Name of the reported split.
        predictions: The teacher's logits of every split.
        teacher_digest: Digest of the teacher.
        teacher_temperatures: The teacher's temperatures.
        teacher_scaled: Its logits on the reported split over these; a specialist's as they are.
        teacher_decisions: What it decides, at its own operating point or that by which it was
            scored in the first run; a specialist without one.
        students: Outputs of each run's student, in the order of the runs.
    """

    source: SourceData
    data: PreparedData
    split: str
    predictions: TeacherPredictions
    teacher_digest: str
    teacher_temperatures: Temperatures
    teacher_scaled: LogitsByView
    teacher_decisions: Decisions
    students: tuple[StudentOutputs, ...]

    @property
    def rows(self) -> PreparedSplit:
        """The reported split."""
        return self.data.splits[self.split]


def read_outputs(runs: Sequence[RunDirectory], *, split: str, hooks: StageHooks) -> RunOutputs:
    """Read runs with their data set, and run each student on a split.

    Args:
        runs: One or more runs.
        split: test or validation.
        hooks: Progress.

    Raises:
        ArtifactError: A folder is not a finished run, lacks the teacher's predictions, or is of
            another data set or teacher than the first one.
        DataError: The data set is missing or has changed.
    """
    records, teacher_digest = check_comparable(runs)
    hooks.on_stage(f"Reading {records[0].config.data.spec}")
    predictions = read_predictions(runs[0].teacher_predictions)
    source = source_of_run(records[0])
    prepared: dict[str, PreparedData] = {}
    students = []
    for name, record in zip(unique_names(runs), records, strict=True):
        hooks.on_stage(f"Evaluating the student of {name}")
        students.append(_run_student(name, record, source, prepared, split=split, hooks=hooks))
    data = next(iter(prepared.values()))
    _check_rows(predictions, data.splits[split], runs[0], split)
    temperatures = read_temperatures(runs[0].distilled_teacher)
    return RunOutputs(
        source,
        data,
        split,
        predictions,
        teacher_digest,
        temperatures,
        *_of_teacher(predictions, split, temperatures, students[0].metrics, data),
        tuple(students),
    )


def _of_teacher(
    predictions: TeacherPredictions,
    split: str,
    temperatures: Temperatures,
    metrics: Mapping[str, Any],
    data: PreparedData,
) -> tuple[LogitsByView, Decisions]:
    """Return a teacher's logits over its temperatures, and what it decides.

    A specialist's logits are as they are, and it has no operating point.
    """
    own, targets = predictions.of_teacher(split), predictions.by_view(split)
    point = teacher_point_of(metrics, data.info)
    scaled, decided = _scaled_and_decided(own, temperatures, point, data, split)
    uncalibrated, undecided = _scaled_and_decided(targets, UNCALIBRATED, None, data, split)
    is_own = {view: np.array_equal(own[view], of_view) for view, of_view in targets.items()}
    return (
        {view: scaled[view] if is_own[view] else uncalibrated[view] for view in targets},
        Decisions(
            point,
            {v: (decided if is_own[v] else undecided).logits[v] for v in targets},
            {v: (decided if is_own[v] else undecided).classes[v] for v in targets},
        ),
    )


def _scaled_and_decided(
    logits: LogitsByView,
    temperatures: Temperatures,
    point: OperatingPoint | None,
    data: PreparedData,
    split: str,
) -> tuple[LogitsByView, Decisions]:
    """Return a model's logits over its temperatures, and what it decides on a split."""
    rows, problem = data.splits[split], data.info.problem
    scaled = temperatures.scaled(logits, rows)
    deciding = deciding_logits(logits, rows, problem, temperatures=temperatures, point=point)
    classes = {
        view: decided_classes(values, view, rows, problem, point) for view, values in scaled.items()
    }
    return scaled, Decisions(point, deciding, classes)


def check_comparable(runs: Sequence[RunDirectory]) -> tuple[list[RunRecord], str]:
    """Read runs and check that they share data set and teacher; return the teacher's digest too.

    Raises:
        ArtifactError: They do not; names the run.
    """
    records = []
    for run in runs:
        if run.study_json.is_file():
            raise ArtifactError(
                "is a study of `msd compare`, not a run",
                where=run.root,
                fix="Open the compare.html in it, or name folders that `msd distill --out` wrote",
            )
        records.append(read_finished_run(run))
    first, folders = runs[0], [run.root.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise ArtifactError("a run is given twice", fix="Give each run once")
    for record in records[1:]:
        if record.dataset_digest != records[0].dataset_digest:
            raise ArtifactError(
                f"has a different data set than {first.root}",
                where=record.run.root,
                fix="Report each run by itself",
            )
    teachers = [_teachers_of(record) for record in records]
    for run, teacher in zip(runs, teachers, strict=True):
        if teacher != teachers[0]:
            raise ArtifactError(
                f"has a different teacher than {first.root}",
                where=run.root,
                fix="Report each run by itself, or distil with --teacher"
                f" {first.distilled_teacher}",
            )
    return records, str(teachers[0]["teacher"])


def _teachers_of(record: RunRecord) -> dict[str, object]:
    """Return the digests of the teachers of a run's cached predictions, after verifying them.

    "teacher", and "image_teacher" and "text_teacher" where they give the predictions of a view.
    """
    run = record.run
    read_predictions(run.teacher_predictions)
    key = read_manifest(run.teacher_predictions, "teacher_predictions").get("key")
    cached = key if isinstance(key, dict) else {}
    if cached.get("data") != record.dataset_digest:
        raise ArtifactError(
            "are predictions for a different data set than the run's",
            where=run.teacher_predictions,
            fix=rebuild_instruction(run.teacher_predictions),
        )
    return {"teacher": None} | {k: v for k, v in cached.items() if k.endswith("teacher")}


def unique_names(runs: Sequence[RunDirectory]) -> list[str]:
    """Return for each run the shortest unique end of its path.

    Args:
        runs: Runs in different folders.
    """
    folders = [run.root.resolve() for run in runs]
    return [_shortest_end(folder, set(folders) - {folder}) for folder in folders]


def _shortest_end(folder: Path, others: Set[Path]) -> str:
    taken, own = {end for other in others for end in _ends(other)}, _ends(folder)
    return next((end for end in own if end not in taken), own[-1])


def _ends(folder: Path) -> list[str]:
    """Return the last part of a path, the last two parts, and so on, without drive and root."""
    parts = folder.relative_to(folder.anchor).parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def _run_student(
    name: str,
    record: RunRecord,
    source: SourceData,
    prepared: dict[str, PreparedData],
    *,
    split: str,
    hooks: StageHooks,
) -> StudentOutputs:
    """Run one student on a split; data is prepared once for all runs of one preprocessor."""
    run = record.run
    student = load_model(run.student)
    data = _prepared_once(record, source, student.preprocessor, prepared, hooks)
    check_labelled(data, split, "a report on it")
    has_validation = bool(data.splits["validation"].has_label().any())
    rows, metrics = data.splits[split], read_metrics(run, has_validation=has_validation)
    logits = predict_views(
        student.model, rows, on_batch=lambda done, total: hooks.on_count("examples", done, total)
    )
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ArtifactError(
            "has NaN or infinite logits", where=run.student, fix="Distil again with --overwrite"
        )
    temperatures = student.temperatures
    scaled, decided = _scaled_and_decided(
        logits, temperatures, student.operating_point, data, split
    )
    return StudentOutputs(name, run, record.config, metrics, logits, temperatures, scaled, decided)


def _prepared_once(
    record: RunRecord,
    source: SourceData,
    preprocessor: Preprocessor,
    prepared: dict[str, PreparedData],
    hooks: StageHooks,
) -> PreparedData:
    key = preprocessor.digest()
    if key not in prepared:
        prepared[key] = prepare_for_run(
            record,
            source,
            preprocessor,
            on_count=hooks.on_count,
        )
    return prepared[key]


def _check_rows(
    predictions: TeacherPredictions, rows: PreparedSplit, run: RunDirectory, split: str
) -> None:
    cached = len(predictions.logits[split]) if split in predictions.logits else 0
    if cached != len(rows):
        raise ArtifactError(
            f"has {cached} rows of the {split} split instead of {len(rows)}",
            where=run.teacher_predictions,
            fix=rebuild_instruction(run.teacher_predictions),
        )
