"""A dry run: what a run would train, with an estimate of its time and memory.

Teacher and student are trained as in the run, but for a few steps on a few examples and in a
temporary folder. Their speed, times the number of examples of the run, is the estimate.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.manifest import SCHEMA_VERSION, Json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import RunConfig, TeacherConfig
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.distillation.plan import Phase, epochs_per_validation
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, StageHooks, StepReport
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.predict import predict_views
from msd_deploy.models.teachers import Teacher
from msd_deploy.run.adaptation import teacher_of_run
from msd_deploy.run.stages import (
    cached_predictions,
    parameter_count,
    plan_of,
    steps_per_epoch,
)
from msd_deploy.run.student import distilled_student
from msd_deploy.run.task import Task

_STEPS, _EXAMPLES = 4, 128
_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, see getrusage(2)


@dataclass(frozen=True, slots=True)
class _Training:
    """Length of a training.

    Attributes:
        epochs: Number of epochs.
        steps: Number of steps.
        examples: Number of training examples in an epoch.
        patience: Validations without a better metric before it stops early; 0: it does not.
    """

    epochs: int
    steps: int
    examples: int
    patience: int


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was measured on a few steps and examples.

    Attributes:
        examples_per_second: Speed of each training.
        seconds_per_example: Time in which each model predicts the views of an example.
        parameters: Number of trainable parameters of each model.
    """

    examples_per_second: dict[Phase, float]
    seconds_per_example: dict[str, float]
    parameters: dict[str, int]


def describe_run(task: Task, teacher_data: PreparedData, teacher: Teacher | None) -> Json:
    """Return what a run would train, and an estimate of its time and memory.

    Args:
        task: The task, with the data prepared.
        teacher_data: The data prepared for the teacher.
        teacher: A given teacher; None: the run trains one.

    Returns:
        data, inputs, each model and estimate: seconds, and peak_memory_bytes of this process.
        With early stopping a run takes at most the estimated time.

    Raises:
        StoppedError: Asked to stop.
    """
    trainings = _trainings(task, is_taught=teacher is None)
    with tempfile.TemporaryDirectory(prefix="msd-dry-run-") as folder:
        try:
            trial = _try(task, teacher_data, teacher, trainings, Path(folder))
        except StoppedError as error:
            raise StoppedError("the dry run was stopped") from error
    return {
        "schema_version": SCHEMA_VERSION,
        "data": _data_as_json(task.data),
        "inputs": {
            "image_size": list(task.preprocessor.image.size),
            "max_length": task.preprocessor.max_length,
            "vocabulary_size": task.preprocessor.tokenizer.get_vocab_size(),
        },
        **{name: {"parameters": count} for name, count in trial.parameters.items()},
        "trainings": {phase: asdict(training) for phase, training in trainings.items()},
        "estimate": {
            "seconds": round(_seconds(trial, trainings, task.data), 1),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * _BYTES_PER_UNIT,
        },
    }


def _trainings(task: Task, *, is_taught: bool) -> dict[Phase, _Training]:
    """Return the trainings of a run in their order."""
    train, config = task.data.splits["train"], task.config
    distill = config.distill
    trainings: dict[Phase, _Training] = {}
    used_by_phase = {"teacher": train.has_label(), "adaptation": train.has_both()}

    def add(phase: Phase, settings: TeacherConfig | DistillConfig) -> None:
        used = used_by_phase.get(phase)
        plan = plan_of(task, phase, settings, used)
        steps = plan.epochs * steps_per_epoch(task, settings, used)
        examples = len(train) if used is None else int(used.sum())
        trainings[phase] = _Training(plan.epochs, steps, examples, plan.patience)

    if is_taught:
        add("teacher", config.teacher)
    if config.teacher.adapt_epochs:
        add("adaptation", replace(config.teacher, epochs=config.teacher.adapt_epochs))
    if config.student.start is None or distill.epochs is not None or not distill.int8_epochs:
        add("student", distill)
    if distill.int8_epochs:
        add("int8", replace(distill, epochs=distill.int8_epochs))
    return trainings


def _try(
    task: Task,
    teacher_data: PreparedData,
    teacher: Teacher | None,
    trainings: dict[Phase, _Training],
    folder: Path,
) -> _Trial:
    """Train and evaluate both models on a few examples, and measure."""
    rows = _number_of_rows(task)
    speeds: dict[Phase, list[float]] = defaultdict(list)

    def on_step(report: StepReport) -> None:
        speeds[report.phase].append(report.examples_per_second)  # type: ignore[index]

    trial = replace(
        task,
        config=_shortened(task.config, trainings),
        run=RunDirectory(folder),
        data=_head(task.data, rows),
        specialists=tuple(replace(one, data=_head(one.data, rows)) for one in task.specialists),
        hooks=StageHooks(),
        training=Hooks(on_step, task.training.should_stop),
        record=None,
    )
    task.hooks.on_stage("Timing a few steps of each training")
    of_teacher = _head(teacher_data, rows)
    teacher = teacher_of_run(trial, teacher, of_teacher)
    predictions = cached_predictions(trial, teacher, of_teacher)
    student = distilled_student(trial, predictions)
    models: dict[str, ViewClassifier] = {"teacher": teacher.model, "student": student}
    inputs = {"teacher": of_teacher, "student": trial.data}
    for one in trial.specialists:
        models[one.key], inputs[one.key] = one.teacher.model, one.data
    return _Trial(
        # The first step of a training also allocates memory.
        {phase: statistics.median(values[1:]) for phase, values in speeds.items()},
        {name: _seconds_per_example(model, inputs[name]) for name, model in models.items()},
        {name: parameter_count(model) for name, model in models.items()},
    )


def _number_of_rows(task: Task) -> int:
    """Return the number of first training rows with enough rows of each kind for some steps."""
    config, train = task.config, task.data.splits["train"]
    needed = _STEPS * max(config.teacher.batch_size, config.distill.batch_size)
    kinds = [train.has_label()] + [train.has_both()] * (config.teacher.adapt_epochs > 0)
    if not train.has_label().any():
        kinds[0] = np.ones(len(train), bool)
    return max(int(np.flatnonzero(used)[:needed][-1]) for used in kinds) + 1


def _shortened(config: RunConfig, trainings: dict[Phase, _Training]) -> RunConfig:
    """Return a configuration with trainings of a few steps."""
    is_trained = "student" in trainings
    return replace(
        config,
        teacher=replace(
            config.teacher,
            path=None,
            epochs=_STEPS,
            adapt_epochs=_STEPS if "adaptation" in trainings else 0,
        ),
        distill=replace(
            config.distill,
            epochs=_STEPS if is_trained else None,
            int8_epochs=_STEPS if "int8" in trainings else 0,
            keep="last",
            patience=0,
        ),
        tracker=None,
    )


def _head(data: PreparedData, rows: int) -> PreparedData:
    """Return the first examples of each split, of train as many as requested."""
    splits = {
        name: split.head(rows if name == "train" else _EXAMPLES)
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits)


def _seconds_per_example(model: ViewClassifier, data: PreparedData) -> float:
    split = data.splits["validation"]
    started = time.perf_counter()
    predict_views(model, split)
    return (time.perf_counter() - started) / len(split)


def _seconds(trial: _Trial, trainings: dict[Phase, _Training], data: PreparedData) -> float:
    """Return the time of all trainings and evaluations of a run."""
    sizes = {name: len(split) for name, split in data.splits.items()}
    of_model = trial.seconds_per_example
    of_teachers = sum(each for name, each in of_model.items() if name != "student")
    seconds = sum(sizes.values()) * of_teachers  # the cache of their predictions
    if "adaptation" in trainings:
        seconds += sum(sizes.values()) * of_model["teacher"]  # the predictions before
    seconds += (sizes["validation"] + sizes["test"]) * of_model["student"]
    for phase, training in trainings.items():
        seconds += training.epochs * training.examples / trial.examples_per_second[phase]
        validations = training.epochs // epochs_per_validation(training.epochs)
        name = "teacher" if phase in ("teacher", "adaptation") else "student"
        seconds += validations * sizes["validation"] * of_model[name]
    return seconds


def _data_as_json(data: PreparedData) -> Json:
    return {
        "digest": data.digest,
        "problem": data.info.problem,
        "splits": {name: _split_as_json(split) for name, split in data.splits.items()},
        "classes": {
            label: {name: _examples_of(index, split) for name, split in data.splits.items()}
            for index, label in enumerate(data.info.labels)
        },
        "skipped_rows": [str(row) for row in data.info.skipped],
        "notes": list(data.info.notes),
    }


def _split_as_json(split: PreparedSplit) -> Json:
    return {
        "examples": len(split),
        "without_image": int((split.image_index < 0).sum()),
        "without_text": int((split.attention_mask.sum(axis=1) <= 1).sum()),
        "without_label": int((~split.has_label()).sum()),
    }


def _examples_of(index: int, split: PreparedSplit) -> int:
    labels = split.labels
    return int((labels == index).sum() if labels.ndim == 1 else (labels[:, index] > 0).sum())
