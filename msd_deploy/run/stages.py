"""The stages of a run: each writes its result to disk and is skipped if it is there."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy import process_group
from msd_deploy.artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION, Json, read_json
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import TeacherConfig
from msd_deploy.data.augment.batches import build_augmentation, check_same_frame
from msd_deploy.data.batch import ImageGroupSampler
from msd_deploy.data.prepare import notes_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.source import SourceData
from msd_deploy.distillation.history import History, Tracker
from msd_deploy.distillation.losses import class_weight_tensor
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.plan import (
    Phase,
    TrainingPlan,
    TrainingResult,
    default_epochs,
    note_of_result,
    plan_key,
    watched_views,
)
from msd_deploy.distillation.steps import Objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions, cache_predictions
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import DataError
from msd_deploy.metrics import (
    LogitArray,
    agreement,
    extra_metrics_as_json,
    metric_name,
    score_extra_metrics,
    score_views,
)
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, read_labels, read_operating_point, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.predict import predict_views
from msd_deploy.models.sizes import DEFAULT_LEARNING_RATE, build_teacher
from msd_deploy.models.teachers import Teacher, load_teacher, teacher_for
from msd_deploy.operating_point import OperatingPoint, deciding_logits
from msd_deploy.problem import decides_one_class
from msd_deploy.run.calibration import state_confidence
from msd_deploy.run.operating_points import point_of_run, state_decisions
from msd_deploy.run.output import without_paths
from msd_deploy.run.single_views import check_on_validation, unsound_views
from msd_deploy.run.task import Task, _prepare
from msd_deploy.temperatures import UNCALIBRATED, Temperatures, read_temperatures
from msd_deploy.views import View


def state_scores(
    facts: Json, data: PreparedData, split: str, logits: Mapping[View, LogitArray]
) -> None:
    """Add the scores of a split to the results of a model.

    Args:
        facts: Gets, under the split's name, each view's score, and under "further", split and
            metric those of the data's further metrics, if it has any; nothing of a split without
            labels.
        data: The data.
        split: Which split of it.
        logits: Per view [examples, classes].
    """
    if not data.splits[split].has_label().any():
        return
    labels = data.splits[split].labels
    scores = score_views(logits, labels, data.info.problem)
    facts[split] = {view.value: score.as_json() for view, score in scores.items()}
    if further := score_extra_metrics(logits, labels, data.info.further_metrics):
        of_splits = facts.setdefault("further", {})
        assert isinstance(of_splits, dict)
        of_splits[split] = extra_metrics_as_json(further)


def state_at_point(
    facts: Json,
    data: PreparedData,
    split: str,
    logits: Mapping[View, LogitArray],
    *,
    temperatures: Temperatures,
    point: OperatingPoint | None,
) -> None:
    """Add scores and decisions at an operating point to the results of a model.

    Args:
        facts: See `state_scores` and `state_decisions`.
        data: The data.
        split: Which split of it.
        logits: Per view [examples, classes].
        temperatures: The model's.
        point: Its operating point, if it has one.
    """
    rows, problem = data.splits[split], data.info.problem
    deciding = deciding_logits(logits, rows, problem, temperatures=temperatures, point=point)
    state_scores(facts, data, split, deciding)
    state_decisions(facts, data, split, logits, temperatures=temperatures, point=point)


def given_teacher(
    task: Task, source: SourceData, loaded: LoadedModel[ViewClassifier] | None
) -> tuple[PreparedData, Teacher | None]:
    """Match the given teacher, if any, with the task, and prepare the data for it."""
    data = task.data
    if task.config.teacher.adapt_epochs:
        check_adaptable(data)
    if loaded is None:
        return data, None
    teacher = teacher_for(loaded, labels=data.info.labels, problem=data.info.problem)
    if task.config.augment.views_per_picture:
        check_same_frame(task.preprocessor, teacher.preprocessor)
    # The same limit, or the teacher would have other examples than the student.
    preprocessor = teacher.preprocessor.with_max_pixels(task.preprocessor.image.max_pixels)
    of_teacher = _prepare(source, preprocessor, task.config, task.hooks)
    for note in of_teacher.info.notes:
        if note not in data.info.notes:
            task.hooks.on_note(f"for the teacher: {note}")
    return of_teacher, teacher


def check_adaptable(data: PreparedData) -> None:
    """Check that a teacher can be adapted with a data set.

    Raises:
        DataError: No training example has both an image and a text.
    """
    if not data.splits["train"].has_both().any():
        raise DataError(
            "no training example has both an image and a text to adapt the teacher with",
            fix="Add such examples, or use the teacher as it is",
        )


def trained_teacher(task: Task) -> Teacher:
    """Train the teacher on the labelled examples, unless the run has one."""
    run, data, settings = task.run, task.data, task.config.teacher
    if not process_group.broadcast_from_main(run.teacher.is_dir()):
        task.hooks.on_stage("Training the teacher on the labels")
        torch.manual_seed(task.config.seed)
        model = build_teacher(data, task.preprocessor)
        weights = class_weight_tensor(data.info.class_weights)
        objective = LabelObjective(settings.modality_dropout, weights)
        used = data.splits["train"].has_label()
        plan = plan_of(task, "teacher", settings, used)
        result = train_in_task(task, model, objective, plan, used=used)
        save_in_task(task, run.teacher, model, {plan.phase: asdict(result)})
    return load_teacher(run.teacher, labels=data.info.labels, problem=data.info.problem)


def cached_predictions(
    task: Task, teacher: Teacher, teacher_data: PreparedData
) -> TeacherPredictions:
    """Return the teacher's logits of every split and view, computed once; note unsound views."""
    task.hooks.on_stage("Caching the teacher's predictions of all three views")
    predictions = cache_predictions(
        teacher,
        teacher_data,
        task.run.teacher_predictions,
        specialists=task.specialists,
        with_features=task.config.distill.needs_features,
        augment=task.config.augment,
        on_batch=lambda done, total: task.hooks.on_count("examples", done, total),
    )
    views = check_on_validation(predictions.by_view("validation"), task.data)
    specialists = [one.view for one in task.specialists]
    for note in unsound_views(views, metric_name(task.data.info.problem), specialists=specialists):
        task.hooks.on_note(f"the {note}")
    return predictions


def ordinary_steps(task: Task) -> int:
    """Return the number of steps of the student's training on all examples."""
    settings = task.config.distill
    return _epochs(task, "student", settings, None) * steps_per_epoch(task, settings, None)


def steps_per_epoch(
    task: Task, settings: TeacherConfig | DistillConfig, used: NDArray[np.bool_] | None
) -> int:
    """Return the number of batches of the first epoch; see `plan_of`."""
    index = task.data.splits["train"].image_index
    sampler = ImageGroupSampler(
        index, batch_size=settings.batch_size, seed=task.config.seed, used=used
    )
    return len(sampler)


def _epochs(
    task: Task,
    phase: Phase,
    settings: TeacherConfig | DistillConfig,
    used: NDArray[np.bool_] | None,
) -> int:
    rows = len(task.data.splits["train"]) if used is None else int(used.sum())
    return settings.epochs or default_epochs(
        phase, rows, settings.batch_size, steps_per_epoch(task, settings, used)
    )


def plan_of(
    task: Task,
    phase: Phase,
    settings: TeacherConfig | DistillConfig,
    used: NDArray[np.bool_] | None,
) -> TrainingPlan:
    """Return the length and learning rates of a training.

    Args:
        task: The task.
        phase: Which training.
        settings: Its part of the configuration.
        used: bool [examples], which training examples are used; None: all.
    """
    common = task.config.distill
    pretrained_rates = {"student": task.config.student.pretrained_rate, "adaptation": 0.1}
    plan = TrainingPlan(
        phase=phase,
        epochs=_epochs(task, phase, settings, used),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate or DEFAULT_LEARNING_RATE[task.config.student.size],
        weight_decay=common.weight_decay,
        warmup_share=settings.warmup_share,
        seed=task.config.seed,
        log_every=common.log_every,
        checkpoint_seconds=common.checkpoint_seconds,
        keep=common.keep,
        patience=0 if phase == "int8" else common.patience or 0,
        watched=watched_views(
            common.keep,
            phase,
            trains_single_views=settings.modality_dropout > 0
            or (phase != "teacher" and common.method == "msd"),
        ),
        pretrained_rate=pretrained_rates.get(phase, 1.0),
        key=plan_key(
            phase,
            config_as_json(without_paths(task.config)),
            task.data.digest,
            task.preprocessor.digest(),
            *filter(None, [task.start_digest]),
        ),
    )
    return without_validation(plan, task.data)


def notes_of_training(data: PreparedData) -> list[str]:
    """Return the notes on data that a model is trained on; see `notes_of`, `without_validation`."""
    notes = notes_of(data.info)
    if not data.splits["validation"].has_label().any():
        notes.append(
            "without labels of validation there is no early stopping, and the weights of the last"
            " epoch are kept"
        )
    return notes


def without_validation(plan: TrainingPlan, data: PreparedData) -> TrainingPlan:
    """Return a plan that keeps the last epoch where no validation example has a label."""
    if data.splits["validation"].has_label().any():
        return plan
    return replace(plan, keep="last", patience=0)


def train_in_task(
    task: Task,
    model: ViewClassifier,
    objective: Objective,
    plan: TrainingPlan,
    *,
    used: NDArray[np.bool_] | None = None,
    projection: torch.nn.Linear | None = None,
) -> TrainingResult:
    """Train a model on the task's training split, with history and checkpoints in the run."""
    result = train(
        TrainingJob(
            model,
            objective,
            task.data,
            plan,
            checkpoints=task.run.checkpoints / plan.phase,
            history=History(task.run.history),
            hooks=task.training,
            used=used,
            projection=projection,
            tracker=_tracker(task, plan.phase),
            augment=build_augmentation(
                task.config.augment,
                task.data.splits["train"],
                task.preprocessor,
                seed=task.config.seed,
                has_teacher=plan.phase in ("student", "int8"),
            ),
        )
    )
    if note := note_of_result(result):
        task.hooks.on_note(note)
    return result


def _tracker(task: Task, phase: Phase) -> Tracker | None:
    name, run = task.config.tracker, task.run
    return name and Tracker(name, run.trackers, f"{task.name}-{phase}")


def save_in_task(
    task: Task,
    folder: Path,
    model: ViewClassifier,
    training: Json,
    facts: Mapping[str, object] | None = None,
    *,
    temperatures: Temperatures = UNCALIBRATED,
    operating_point: OperatingPoint | None = None,
) -> None:
    """Write a model of the task as a folder that loads alone; all processes wait for it.

    Args:
        task: The task.
        folder: Path of the folder.
        model: The model.
        training: How each of its trainings ended; see `TrainingResult`.
        facts: Additional JSON values of the manifest.
        temperatures: Its temperatures.
        operating_point: Its operating point, if it has one.
    """
    if process_group.is_main():
        save_model(
            folder,
            model,
            task.preprocessor,
            labels=task.data.info.labels,
            problem=task.data.info.problem,
            facts={
                "dataset_digest": task.data.digest,
                "parameters": parameter_count(model),
                "training": training,
                **(facts or {}),
            },
            temperatures=temperatures,
            operating_point=operating_point,
        )
    process_group.barrier()


def training_of(folder: Path) -> Json:
    """Return how the trainings of a model ended; a folder of an earlier version does not say."""
    return cast(Json, read_json(folder / MANIFEST_NAME).get("training", {}))


def parameter_count(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure(
    task: Task,
    predictions: TeacherPredictions,
    teacher: ViewClassifier,
    student: FusionForClassification,
) -> Json:
    """Return metrics.json: all models on validation and test, all three views.

    Args:
        task: The task.
        predictions: Those of the teacher that the student learned from.
        teacher: Its model.
        student: The student.
    """
    problem = task.data.info.problem
    of_origin, of_student = _facts(teacher, task.run.teacher), _facts(student, task.run.student)
    if task.config.teacher.path is None:
        of_origin["training"] = training_of(task.run.teacher)
    of_student["training"] = training_of(task.run.student)
    of_teacher, adapted = of_origin, {}
    if task.config.teacher.adapt_epochs:
        folder = task.run.adapted_teacher
        of_origin |= _scores_before(folder)
        of_teacher = {**_facts(teacher, folder), "training": training_of(folder)}
        adapted = {"adapted_teacher": of_teacher}
    single_views = check_on_validation(predictions.by_view("validation"), task.data)
    specialists: dict[View, Json] = {
        one.view: {
            "digest": one.teacher.digest,
            **_facts(one.teacher.model, one.teacher.folder),
            "single_views": {v: single_views.pop(v) for v in [one.view.value] if v in single_views},
        }
        for one in task.specialists
    }
    of_teacher["single_views"] = single_views
    scales = [read_temperatures(each) for each in (task.run.distilled_teacher, task.run.student)]
    points = [
        _teacher_point(task, predictions, scales[0]),
        read_operating_point(task.run.student),
    ]
    agreements = {}
    for name in ("validation", "test"):
        split = task.data.splits[name]
        expected, found = predictions.by_view(name), predict_views(student, split)
        both = ((of_teacher, predictions.of_teacher(name)), (of_student, found))
        for (facts, logits), scale, point in zip(both, scales, points, strict=True):
            state_confidence(facts, task.data, name, logits, scale)
            state_at_point(facts, task.data, name, logits, temperatures=scale, point=point)
        for view, facts in specialists.items():
            state_scores(facts, task.data, name, {view: expected[view]})
        agreements[name] = {
            view.value: round(agreement(expected[view], found[view], problem), 6) for view in View
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": metric_name(problem),
        "teacher": of_origin,
        **adapted,
        **{one.key: specialists[one.view] for one in task.specialists},
        "student": of_student,
        "agreement": agreements,
    }


def _teacher_point(
    task: Task, predictions: TeacherPredictions, temperatures: Temperatures
) -> OperatingPoint | None:
    """Return the operating point at which a teacher is scored beside its student.

    Its folder's own; else in a multi-label task one by the run's rule, for a student at chosen
    thresholds would be compared with a teacher at .5; None where the rule is beyond it.
    """
    folder, labels = task.run.distilled_teacher, task.data.info.labels
    own, (of_folder, _) = read_operating_point(folder), read_labels(folder)
    if own is not None:
        return own.in_order([of_folder.index(label) for label in labels])
    if decides_one_class(task.data.info.problem):
        return None
    logits = predictions.of_teacher("validation")
    try:
        chosen = point_of_run(task.config.decisions, logits, task.data, temperatures=temperatures)
    except DataError:
        return None
    return None if chosen is None else chosen.point


def _scores_before(folder: Path) -> Json:
    """Return the scores of the teacher that an adapted one started from."""
    facts = cast(Json, read_json(folder / MANIFEST_NAME)["adapted_from"])
    return {key: value for key, value in facts.items() if key != "digest"}


def _facts(model: ViewClassifier, folder: Path) -> Json:
    return {
        "parameters": parameter_count(model),
        "size_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }
