"""A cell of a study: one method and seed, trained and evaluated on the test split.

A cell is a folder cells/METHOD/seed-N: student/, history.jsonl, metrics.json (written last) and the
student's logits on the test split, from which every figure of the study can be computed again.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from msd_deploy.artifacts.atomic import new_file, remove_stale_writes
from msd_deploy.artifacts.manifest import SCHEMA_VERSION, Json, read_json, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.distillation.methods import METHODS
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.metrics import LogitsByView, agreement, score_views
from msd_deploy.models.predict import predict_views
from msd_deploy.run.student import distilled_student
from msd_deploy.run.task import Task
from msd_deploy.study.config import StudyConfig
from msd_deploy.views import View

_LOGITS = "test_logits.safetensors"


def cell_directory(out: Path, method: str, seed: int) -> RunDirectory:
    """Return the directory of a cell."""
    return RunDirectory(out / "cells" / method / f"seed-{seed}")


def is_done(cell: RunDirectory) -> bool:
    """Return whether a cell is finished."""
    return cell.metrics.is_file()


def finished_cells(out: Path) -> list[tuple[str, int]]:
    """Return every finished cell of a study, methods in their usual order, then by seed."""
    return [
        (method, seed)
        for method in METHODS
        for seed in sorted(
            int(folder.name.removeprefix("seed-"))
            for folder in (out / "cells" / method).glob("seed-*")
            if is_done(RunDirectory(folder))
        )
    ]


def train_cell(
    study: StudyConfig,
    task: Task,
    predictions: TeacherPredictions,
    *,
    cell: tuple[str, int],
    steps: int,
) -> None:
    """Train and evaluate one student; an interrupted cell continues from its checkpoint.

    Args:
        study: The study.
        task: Its task; the run is the study's.
        predictions: The teacher's.
        cell: Method and seed.
        steps: Length of the training.
    """
    method, seed = cell
    directory = cell_directory(task.run.root, method, seed)
    directory.root.mkdir(parents=True, exist_ok=True)
    is_fresh = not directory.history.exists()
    name = f"{task.name}-{method}-seed-{seed}"
    own = replace(task, config=study.of_cell(method, seed), run=directory, name=name)
    started = time.process_time()
    student = distilled_student(own, predictions, steps=steps, chooses_point=False)
    seconds = time.process_time() - started
    test = task.data.splits["test"]
    logits = predict_views(student, test)
    with new_file(directory.root / _LOGITS) as building:
        save_file({view.value: values for view, values in logits.items()}, building)
    problem, teacher = task.data.info.problem, predictions.by_view("test")
    scores = score_views(logits, test.labels, problem)
    write_json(
        directory.metrics,
        {
            "schema_version": SCHEMA_VERSION,
            "method": method,
            "seed": seed,
            "steps": steps,
            "cpu_seconds": round(seconds, 2) if is_fresh else None,
            "test": {view.value: score.as_json() for view, score in scores.items()},
            "agreement": {
                v.value: round(agreement(teacher[v], logits[v], problem), 6) for v in View
            },
        },
    )
    shutil.rmtree(directory.checkpoints, ignore_errors=True)
    remove_stale_writes(directory.root)


def read_cell(cell: RunDirectory) -> tuple[Json, LogitsByView]:
    """Return a finished cell's metrics, and its logits [examples, classes] on the test split."""
    tensors = load_file(cell.root / _LOGITS)
    return read_json(cell.metrics), {view: np.asarray(tensors[view.value]) for view in View}
