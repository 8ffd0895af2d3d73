"""The student's stage of a run: floating-point training, then quantization-aware if requested."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.numpy import save_file

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import new_file
from msd_deploy.artifacts.manifest import Json
from msd_deploy.distillation.feature_losses import build_projection
from msd_deploy.distillation.plan import Phase, TrainingPlan, plan_key
from msd_deploy.distillation.quantization_aware import fake_quantized
from msd_deploy.distillation.student_objective import (
    StudentObjective,
    build_student_objective,
    example_weights,
)
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.errors import DataError
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.predict import predict_views
from msd_deploy.models.sizes import build_student
from msd_deploy.operating_point import OperatingPoint
from msd_deploy.run.calibration import fit_on_split
from msd_deploy.run.operating_points import point_of_run
from msd_deploy.run.stages import plan_of, save_in_task, train_in_task, training_of
from msd_deploy.run.task import Task
from msd_deploy.temperatures import Temperatures


def check_student(task: Task) -> None:
    """Build the student once, so that errors are raised before a teacher is trained.

    The global random state is left as it was.

    Raises:
        ConfigError: See `build_student`.
        ArtifactError: See `build_student`.
    """
    if not task.run.student.is_dir() and task.config.student.start is None:
        with torch.random.fork_rng(devices=[]):
            build_student(task.config.student, task.data, task.preprocessor)


def distilled_student(
    task: Task,
    predictions: TeacherPredictions,
    *,
    steps: int | None = None,
    chooses_point: bool = True,
) -> FusionForClassification:
    """Distil the student, unless the run has one, and write its example weights.

    Args:
        task: The task.
        predictions: The teacher's.
        steps: Length of the training instead of the configuration's epochs.
        chooses_point: Whether it gets an operating point; a study scores all students alike.
    """
    run = task.run
    if not process_group.broadcast_from_main(run.student.is_dir()):
        learning = _StudentTraining(task, predictions, steps)
        model = learning.in_float()
        if task.config.distill.int8_epochs:
            learning.as_int8(model)
        assert learning.built is not None  # one of the two phases has trained
        _write_weights(task, learning.built, model)
        split = task.data.splits["validation"]
        found = predict_views(model, split)
        temperatures = fit_on_split(found, split, task.data.info.problem)
        save_in_task(
            task,
            run.student,
            model,
            learning.training,
            temperatures=temperatures,
            operating_point=_point(task, found, temperatures) if chooses_point else None,
        )
    return load_model(run.student).model


def _point(task: Task, logits: LogitsByView, temperatures: Temperatures) -> OperatingPoint | None:
    """Choose the student's operating point; a rule that it cannot meet is no reason to lose it."""
    try:
        chosen = point_of_run(task.config.decisions, logits, task.data, temperatures=temperatures)
    except DataError as error:
        command = f"msd calibrate {shlex.quote(str(task.run.root))} --decide RULE"
        task.hooks.on_note(
            f"the student has no operating point: {error.what}; choose another with {command}"
        )
        return None
    if chosen is None:
        return None
    for note in chosen.notes:
        task.hooks.on_note(f"{chosen.point.rule}: {note}")
    return chosen.point


class _StudentTraining:
    """The phases of a student's training, each of which can be interrupted and resumed.

    Args:
        task: The task.
        predictions: The teacher's.
        steps: As in `distilled_student`.
    """

    def __init__(self, task: Task, predictions: TeacherPredictions, steps: int | None) -> None:
        self.task, self.predictions, self.steps = task, predictions, steps
        self.built: StudentObjective | None = None
        self.training: Json = {}

    def in_float(self) -> FusionForClassification:
        """Return the student trained in floating point, or the given one."""
        config, done = self.task.config, self._in_float
        if process_group.broadcast_from_main(done.is_dir()):
            self.training = training_of(done)
            return load_model(done).model
        torch.manual_seed(config.seed)
        if config.student.start is not None:
            model = load_model(config.student.start).model
            if config.distill.int8_epochs and config.distill.epochs is None:
                return model
        else:
            model = build_student(config.student, self.task.data, self.task.preprocessor)
        self.task.hooks.on_stage(
            f"Distilling the {config.student.size} student ({config.distill.method})"
        )
        self._train(model, "student")
        if config.distill.int8_epochs:
            save_in_task(self.task, done, model, self.training)
            return load_model(done).model  # as a resumed run does
        return model

    def as_int8(self, model: FusionForClassification) -> None:
        """Train the model further with weights and activations rounded to int8 (QAT)."""
        self.task.hooks.on_stage("Distilling the student further with int8 rounding (QAT)")
        torch.manual_seed(self.task.config.seed)
        with fake_quantized(model):
            self._train(model, "int8")

    @property
    def _in_float(self) -> Path:
        return self.task.run.checkpoints / "in-float"

    def _train(self, model: FusionForClassification, phase: Phase) -> None:
        """Train a phase and keep its objective, which holds learned weights."""
        task, settings = self.task, self.task.config.distill
        built = build_student_objective(
            settings, task.data, self.predictions, seed=task.config.seed
        )
        projection = build_projection(
            settings, model.config.hidden_size, self.predictions, seed=task.config.seed
        )
        plan = self._plan(phase, built)
        result = train_in_task(
            task, model, built.objective, plan, used=built.used, projection=projection
        )
        self.training[phase] = asdict(result)
        self.built = built

    def _plan(self, phase: Phase, built: StudentObjective) -> TrainingPlan:
        settings, steps, rate = self.task.config.distill, self.steps, 1.0
        if phase == "int8":
            settings, steps = replace(settings, epochs=settings.int8_epochs), None
            rate = settings.int8_rate
        plan = plan_of(self.task, phase, settings, built.used)
        return replace(
            plan,
            steps=steps,
            key=plan_key(plan.key, steps),
            learning_rate=plan.learning_rate * rate,
        )


def _write_weights(task: Task, built: StudentObjective, model: FusionForClassification) -> None:
    """Write the final weights of each training example, for the report, if the method has any."""
    train_split = task.data.splits["train"]
    weights = example_weights(built, predict_views(model, train_split), train_split)
    if weights and process_group.is_main():
        with new_file(task.run.example_weights) as building:
            save_file({view.value: values for view, values in weights.items()}, building)
