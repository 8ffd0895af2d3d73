"""Finished runs read again with their data: what teacher and students answer on a split."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msd_deploy.artifacts.manifest import read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import SourceData
from msd_deploy.distill.teacher_cache import (
    TeacherPredictions,
    read_predictions,
    rebuild_instruction,
)
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.report.run_files import read_metrics
from msd_deploy.run.record import RunRecord, prepare_for_run, read_finished_run, source_of_run


@dataclass(frozen=True, slots=True)
class StudentOutputs:
    """One run's student on a split.

    Attributes:
        name: Of the run, unique among those that are reported together.
        run: Where it lies.
        config: The run's settings.
        metrics: The content of metrics.json.
        logits: float32 [rows, classes] by view.
    """

    name: str
    run: RunDirectory
    config: RunConfig
    metrics: Mapping[str, Any]
    logits: LogitsByView


@dataclass(frozen=True, slots=True)
class RunOutputs:
    """Teacher and students of runs of one data set and one teacher.

    Attributes:
        source: The data set as it was read.
        data: The data set as the first run's student sees it.
        split: The split that was looked at.
        predictions: The teacher's logits of every split.
        teacher_digest: Of the teacher.
        students: One a run, in the order in which the runs were named.
    """

    source: SourceData
    data: PreparedData
    split: str
    predictions: TeacherPredictions
    teacher_digest: str
    students: tuple[StudentOutputs, ...]

    @property
    def rows(self) -> PreparedSplit:
        """The split that was looked at."""
        return self.data.splits[self.split]


def read_outputs(runs: Sequence[RunDirectory], *, split: str, hooks: StageHooks) -> RunOutputs:
    """Read runs with their data set, and ask each student about a split.

    Args:
        runs: One or more.
        split: test or validation.
        hooks: Progress.

    Raises:
        ArtifactError: A run is unfinished, no run, lacks its teacher's predictions, or is of other
            data or another teacher than the first one.
        DataError: The data set is not there or has changed.
    """
    records, teacher_digest = check_comparable(runs)
    hooks.on_stage(f"Reading {records[0].config.data.spec}")
    predictions = read_predictions(runs[0].teacher_predictions)
    source = source_of_run(records[0])
    prepared: dict[str, PreparedData] = {}
    students = []
    for name, record in zip(unique_names(runs), records, strict=True):
        hooks.on_stage(f"Asking the student of {name}")
        students.append(_ask_student(name, record, source, prepared, split=split, hooks=hooks))
    data = next(iter(prepared.values()))
    _check_rows(predictions, data.splits[split], runs[0], split)
    return RunOutputs(source, data, split, predictions, teacher_digest, tuple(students))


def check_comparable(runs: Sequence[RunDirectory]) -> tuple[list[RunRecord], str]:
    """Read runs, check that they are of one data set and teacher; return its digest beside them.

    Raises:
        ArtifactError: They are not; names the run.
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
        raise ArtifactError("a run is named twice", fix="Name each run once")
    for record in records[1:]:
        if record.dataset_digest != records[0].dataset_digest:
            raise ArtifactError(
                f"is of another data set than {first.root}",
                where=record.run.root,
                fix="Report each alone",
            )
    teachers = [_teacher_of(record) for record in records]
    for run, teacher in zip(runs, teachers, strict=True):
        if teacher != teachers[0]:
            raise ArtifactError(
                f"has another teacher than {first.root}",
                where=run.root,
                fix=f"Report each alone, or distil with --teacher {first.teacher}",
            )
    return records, teachers[0]


def _teacher_of(record: RunRecord) -> str:
    """Return the digest of the teacher whose predictions a run keeps, once they are verified."""
    run = record.run
    read_predictions(run.teacher_predictions)
    key = read_manifest(run.teacher_predictions, "teacher_predictions").get("key")
    stated = key if isinstance(key, dict) else {}
    if stated.get("data") != record.dataset_digest:
        raise ArtifactError(
            "are predictions for another data set than the run's",
            where=run.teacher_predictions,
            fix=rebuild_instruction(run.teacher_predictions),
        )
    return str(stated.get("teacher"))


def unique_names(runs: Sequence[RunDirectory]) -> list[str]:
    """Return for each run the shortest end of its path that no other run's path has.

    Args:
        runs: Of different folders.
    """
    folders = [run.root.resolve() for run in runs]
    return [_shortest_end(folder, set(folders) - {folder}) for folder in folders]


def _shortest_end(folder: Path, others: Set[Path]) -> str:
    taken, own = {end for other in others for end in _ends(other)}, _ends(folder)
    return next((end for end in own if end not in taken), own[-1])


def _ends(folder: Path) -> list[str]:
    """Return the last part of a path, the last two, and so on; no drive nor root."""
    parts = folder.relative_to(folder.anchor).parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def _ask_student(
    name: str,
    record: RunRecord,
    source: SourceData,
    prepared: dict[str, PreparedData],
    *,
    split: str,
    hooks: StageHooks,
) -> StudentOutputs:
    """Answer for one run; data that is prepared alike for several runs is prepared once."""
    run = record.run
    metrics, student = read_metrics(run), load_model(run.student)
    rows = _prepared_once(record, source, student.preprocessor, prepared, hooks).splits[split]
    logits = predict_views(
        student.model, rows, on_batch=lambda done, total: hooks.on_count("examples", done, total)
    )
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ArtifactError("gives NaN or infinite logits", where=run.student)
    return StudentOutputs(name, run, record.config, metrics, logits)


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
    found = len(predictions.logits[split]) if split in predictions.logits else 0
    if found != len(rows):
        raise ArtifactError(
            f"holds {found} rows of the {split} split, which has {len(rows)}",
            where=run.teacher_predictions,
            fix=rebuild_instruction(run.teacher_predictions),
        )
