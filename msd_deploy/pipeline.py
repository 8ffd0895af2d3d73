"""The road from a data set to a distilled student: `run_distillation`.

Every stage leaves its result on disk and is passed over when a resumed run finds it there.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from msd_deploy.artifacts import SCHEMA_VERSION, Json, RunDirectory, write_json
from msd_deploy.config import DistillConfig, RunConfig, TeacherConfig, config_as_json
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.prepared import PreparedData, prepare
from msd_deploy.data.preprocess import (
    Preprocessor,
    build_preprocessor,
    load_tokenizer,
    train_tokenizer,
)
from msd_deploy.data.source_types import SourceData
from msd_deploy.distill.history import History
from msd_deploy.distill.losses import fixed_weights
from msd_deploy.distill.objectives import DistillationObjective, LabelObjective
from msd_deploy.distill.teacher_cache import TeacherPredictions, cache_predictions
from msd_deploy.distill.trainer import (
    Hooks,
    Objective,
    TrainingJob,
    TrainingPlan,
    epochs_for_steps,
    plan_key,
    train,
)
from msd_deploy.evaluation import agreement, metric_name, predict_views, score_views
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import WEIGHTS_NAME, load_model, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, build_student, build_teacher
from msd_deploy.models.teachers import Teacher, load_teacher
from msd_deploy.runs import (
    begin_run,
    check_output,
    given_teacher_folder,
    read_source,
    source_of_run,
    with_absolute_paths,
    without_paths,
)
from msd_deploy.views import View

_TEACHER_STEPS, _STUDENT_STEPS = 625, 750
_NAMED_ROWS = 20


@dataclass(frozen=True, slots=True)
class RunHooks:
    """How a caller watches and stops a run.

    Attributes:
        stages: Hooks of its stages; on_note tells of the data, skipped rows included.
        training: Hooks of both trainings.
    """

    stages: StageHooks = field(default_factory=StageHooks)
    training: Hooks = field(default_factory=Hooks)


@dataclass(frozen=True, slots=True)
class _Task:
    """What the stages share."""

    config: RunConfig
    run: RunDirectory
    data: PreparedData
    preprocessor: Preprocessor
    hooks: StageHooks
    training: Hooks


def run_distillation(
    config: RunConfig,
    run: RunDirectory,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> Json:
    """Train or load a teacher, cache its views, distil a student, and measure both.

    Args:
        config: Everything that decides the result.
        run: Where it goes.
        resume: Continue an interrupted run with the same configuration.
        overwrite: Replace an existing run.
        hooks: Progress and stopping.

    Returns:
        The content of metrics.json.

    Raises:
        MsdError: Bad input; nothing is written then. See `msd_deploy.errors`.
        StoppedError: Asked to stop; the run can be resumed.
    """
    watching, config = hooks or RunHooks(), with_absolute_paths(config)
    stages = watching.stages
    check_output(config, run, resume=resume, overwrite=overwrite)
    stages.on_stage(f"Reading {config.data.spec}")
    source = source_of_run(config, run) if resume else read_source(config)
    preprocessor = _build_preprocessor(config, source)
    data = _prepare(source, preprocessor, config, stages)
    task = _Task(config, run, data, preprocessor, stages, watching.training)
    for note in notes_of(task.data):
        stages.on_note(note)
    teacher_data, given = _given_teacher(task, source, resume=resume)
    if overwrite and not resume:
        shutil.rmtree(run.root, ignore_errors=True)
    begin_run(config, run, task.data, preprocessor, given)
    teacher = given or _trained_teacher(task)
    predictions = _cached_predictions(task, teacher, teacher_data)
    student = _distilled_student(task, predictions)
    stages.on_stage("Measuring teacher and student")
    metrics = _measure(task, predictions, teacher.model, student)
    write_json(run.metrics, metrics)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for left_by_a_kill in run.root.glob(".*.building-*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    return metrics


def notes_of(data: PreparedData) -> list[str]:
    """Return what a user should know of a data set: its notes, then its skipped rows by name."""
    skipped = [str(row) for row in data.skipped[:_NAMED_ROWS]]
    if len(data.skipped) > _NAMED_ROWS:
        skipped.append(f"... and {len(data.skipped) - _NAMED_ROWS} more, named in run.json")
    rows = "row was" if len(data.skipped) == 1 else "rows were"
    count = [f"{len(data.skipped)} {rows} skipped:"] if skipped else []
    return [*data.notes, *count, *skipped]


def _build_preprocessor(config: RunConfig, source: SourceData) -> Preprocessor:
    side = config.data.image_size or DEFAULT_IMAGE_SIZE[config.student.size]
    spec = ImageSpec((side, side), config.data.image_mode)
    if config.data.tokenizer is not None:
        tokenizer = load_tokenizer(config.data.tokenizer)
    else:
        texts = (text for text in source.dataset["train"]["text"] if text)
        tokenizer = train_tokenizer(texts, vocabulary_size=config.data.vocabulary_size)
    return build_preprocessor(tokenizer, spec, max_length=config.data.max_length)


def _prepare(
    source: SourceData, preprocessor: Preprocessor, config: RunConfig, hooks: StageHooks
) -> PreparedData:
    return prepare(
        source,
        preprocessor,
        strict=config.data.strict,
        on_image=lambda done, total: hooks.on_count("pictures", done, total),
    )


def _given_teacher(
    task: _Task, source: SourceData, *, resume: bool
) -> tuple[PreparedData, Teacher | None]:
    """Load the teacher that the configuration names, and the data as it wants it."""
    folder, data = given_teacher_folder(task.config, task.run, resume=resume), task.data
    if folder is None:
        return data, None
    teacher = load_teacher(folder, labels=data.labels, problem=data.problem)
    return _prepare(source, teacher.preprocessor, task.config, task.hooks), teacher


def _trained_teacher(task: _Task) -> Teacher:
    run, data, settings = task.run, task.data, task.config.teacher
    if not run.teacher.is_dir():
        task.hooks.on_stage("Training the teacher on the labels")
        torch.manual_seed(task.config.seed)
        model = build_teacher(data, task.preprocessor)
        objective = LabelObjective(settings.modality_dropout)
        _train(task, model, objective, _plan(task, "teacher", settings, _TEACHER_STEPS))
        _save(task, run.teacher, model)
    return load_teacher(run.teacher, labels=data.labels, problem=data.problem)


def _cached_predictions(
    task: _Task, teacher: Teacher, teacher_data: PreparedData
) -> TeacherPredictions:
    task.hooks.on_stage("Caching the teacher's predictions of all three views")
    return cache_predictions(
        teacher,
        teacher_data,
        task.run.teacher_predictions,
        on_batch=lambda done, total: task.hooks.on_count("examples", done, total),
    )


def _distilled_student(task: _Task, predictions: TeacherPredictions) -> FusionForClassification:
    run, settings = task.run, task.config.distill
    if not run.student.is_dir():
        task.hooks.on_stage(
            f"Distilling the {task.config.student.size} student ({settings.method})"
        )
        torch.manual_seed(task.config.seed)
        model = build_student(task.config.student, task.data, task.preprocessor)
        objective = DistillationObjective(
            predictions, fixed_weights(settings), settings.alpha, settings.temperature
        )
        _train(task, model, objective, _plan(task, "student", settings, _STUDENT_STEPS))
        _save(task, run.student, model)
    return load_model(run.student).model


def _plan(
    task: _Task, phase: str, settings: TeacherConfig | DistillConfig, steps: int
) -> TrainingPlan:
    rows, common = len(task.data.splits["train"]), task.config.distill
    return TrainingPlan(
        phase=phase,
        epochs=settings.epochs or epochs_for_steps(rows, settings.batch_size, steps),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=common.weight_decay,
        warmup_share=common.warmup_share,
        seed=task.config.seed,
        log_every=common.log_every,
        checkpoint_seconds=common.checkpoint_seconds,
        key=plan_key(
            phase,
            config_as_json(without_paths(task.config)),
            task.data.digest,
            task.preprocessor.digest(),
        ),
    )


def _train(
    task: _Task, model: FusionForClassification, objective: Objective, plan: TrainingPlan
) -> None:
    train(
        TrainingJob(
            model,
            objective,
            task.data,
            plan,
            checkpoints=task.run.checkpoints / plan.phase,
            history=History(task.run.history),
            hooks=task.training,
        )
    )


def _save(task: _Task, folder: Path, model: FusionForClassification) -> None:
    save_model(
        folder,
        model,
        task.preprocessor,
        labels=task.data.labels,
        problem=task.data.problem,
        facts={"dataset_digest": task.data.digest, "parameters": parameter_count(model)},
    )


def parameter_count(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _measure(
    task: _Task,
    predictions: TeacherPredictions,
    teacher: FusionForClassification,
    student: FusionForClassification,
) -> Json:
    """Return metrics.json: both models on validation and test, all three views."""
    problem = task.data.problem
    of_teacher, of_student = _facts(teacher, task.run.teacher), _facts(student, task.run.student)
    agreements = {}
    for name in ("validation", "test"):
        split = task.data.splits[name]
        expected, found = predictions.by_view(name), predict_views(student, split)
        for facts, logits in ((of_teacher, expected), (of_student, found)):
            scores = score_views(logits, split.labels, problem)
            facts[name] = {view.value: score.as_json() for view, score in scores.items()}
        agreements[name] = {
            view.value: round(agreement(expected[view], found[view], problem), 6) for view in View
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": metric_name(problem),
        "teacher": of_teacher,
        "student": of_student,
        "agreement": agreements,
    }


def _facts(model: FusionForClassification, folder: Path) -> Json:
    return {
        "parameters": parameter_count(model),
        "size_bytes": (folder / WEIGHTS_NAME).stat().st_size,
    }
