"""Where an unsound view is reported: a small teacher of listings that was trained on pairs alone.

Its image view states one class with confidence, and is wrong; its text view is good.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.models.sizes import build_student
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.run.stages import plan_of, save_in_task, train_in_task
from msd_deploy.run.task import read_task
from msd_export.evaluate import evaluate_model

pytestmark = pytest.mark.slow
DATA = DataConfig(spec="synthetic:listings", examples=1500)
NOTE = "image view is unsound as a target of distillation: Accuracy "


@dataclass
class Noted:
    """A run and the notes on it."""

    run: RunDirectory
    notes: list[str] = field(default_factory=list)


def teacher_of_listings(folder: Path, modality_dropout: float) -> Path:
    """Train a teacher of the student's size, which takes seconds, and return its folder."""
    settings = TeacherConfig(epochs=16, modality_dropout=modality_dropout, learning_rate=3e-3)
    config = RunConfig(data=DATA, teacher=settings)
    task, _ = read_task(config, RunDirectory(folder), StageHooks(), Hooks())
    torch.manual_seed(0)
    model = build_student(config.student, task.data, task.preprocessor)
    plan = plan_of(task, "teacher", settings, None)
    train_in_task(task, model, LabelObjective(modality_dropout, None), plan)
    save_in_task(task, folder / "teacher", model, {})
    return folder / "teacher"


@pytest.fixture(scope="module", params=[0.0, 0.3])
def noted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Noted:
    folder = tmp_path_factory.mktemp("listings")
    teacher = teacher_of_listings(folder, request.param)
    noted = Noted(RunDirectory(folder / "run"))
    config = RunConfig(
        data=DATA, teacher=TeacherConfig(path=teacher), distill=DistillConfig(epochs=1)
    )
    hooks = RunHooks(StageHooks(on_note=noted.notes.append))
    run_distillation(config, noted.run, hooks=hooks)
    return noted


def is_sound(noted: Noted) -> bool:
    views = read_json(noted.run.metrics)["teacher"]["single_views"]
    assert views["text"]["is_sound"]
    assert views["image"]["examples"] == 500
    return bool(views["image"]["is_sound"])


def test_a_teacher_trained_on_pairs_alone_is_unsound_and_one_with_dropout_is_not(
    noted: Noted, request: pytest.FixtureRequest
) -> None:
    assert is_sound(noted) == (request.node.callspec.params["noted"] > 0)


def test_a_run_notes_what_is_unsound(noted: Noted) -> None:
    found = [note for note in noted.notes if note.startswith(f"the teacher's {NOTE}")]
    assert len(found) == 1 - is_sound(noted)


def test_the_report_notes_what_is_unsound(noted: Noted, tmp_path: Path) -> None:
    _, report = write_distillation_report([noted.run], ReportConfig(out=tmp_path / "page.html"))
    found = [note for note in report["notes"] if note.startswith(f"The teacher's {NOTE}")]
    assert len(found) == 1 - is_sound(noted)


def test_evaluation_of_a_model_folder_notes_what_is_unsound(noted: Noted) -> None:
    notes: list[str] = []
    result = evaluate_model(
        noted.run.teacher,
        "synthetic:listings",
        options=SourceOptions(),
        split="validation",
        threads=1,
        hooks=StageHooks(on_note=notes.append),
    )
    found = [note for note in notes if note.startswith(f"as a teacher, the model's {NOTE}")]
    assert len(found) == 1 - is_sound(noted)
    views = result["single_views"]
    assert isinstance(views, dict)
    assert views["image"]["is_sound"] == is_sound(noted)
