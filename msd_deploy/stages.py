"""The stages of a run; each leaves its result on disk and is passed over when it is there."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from msd_deploy import processes
from msd_deploy.artifacts import SCHEMA_VERSION, Json, RunDirectory
from msd_deploy.building import new_file
from msd_deploy.config import DistillConfig, RunConfig, TeacherConfig, config_as_json
from msd_deploy.data.augment import build_augmentation, check_same_frame
from msd_deploy.data.batch import ImageGroupSampler
from msd_deploy.data.class_weights import weigh_classes
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.labelled import hide_labels
from msd_deploy.data.prepared import PreparedData, prepare
from msd_deploy.data.preprocess import (
    Preprocessor,
    build_preprocessor,
    fitting_length,
    load_tokenizer,
    train_tokenizer,
)
from msd_deploy.data.source_types import SourceData, training_texts
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.distill.feature_losses import build_projection
from msd_deploy.distill.history import History
from msd_deploy.distill.losses import class_weight_tensor
from msd_deploy.distill.objectives import LabelObjective
from msd_deploy.distill.plan import Phase, TrainingPlan, default_epochs, plan_key
from msd_deploy.distill.steps import Hooks, Objective
from msd_deploy.distill.student_objective import (
    StudentObjective,
    build_student_objective,
    example_weights,
)
from msd_deploy.distill.teacher_cache import TeacherPredictions, cache_predictions
from msd_deploy.distill.tracking import Tracker
from msd_deploy.distill.trainer import TrainingJob, train
from msd_deploy.evaluation import agreement, metric_name, predict_views
from msd_deploy.further_metrics import state_scores
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import WEIGHTS_NAME, load_model, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, build_student, build_teacher
from msd_deploy.models.teachers import Teacher, load_teacher
from msd_deploy.models.text_start import open_text
from msd_deploy.runs import (
    given_teacher_folder,
    read_source,
    source_of_run,
    without_paths,
)
from msd_deploy.views import View

# Of a tokenizer that is trained, where the user leaves their number open.
_MOST_PIECES = 2000
# Of a text whose length the user leaves open: attention over more costs a phone dearly.
_MOST_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Task:
    """What the stages share.

    Attributes:
        config: Of the run.
        run: Where results go; stages whose result is there are passed over.
        data: Prepared for the student.
        preprocessor: The student's.
        hooks: Of stages.
        training: Of trainings.
        name: What a tracker calls it.
    """

    config: RunConfig
    run: RunDirectory
    data: PreparedData
    preprocessor: Preprocessor
    hooks: StageHooks
    training: Hooks
    name: str


def read_task(
    config: RunConfig,
    run: RunDirectory,
    hooks: StageHooks,
    training: Hooks,
    *,
    resume: bool = False,
) -> tuple[Task, SourceData]:
    """Read and prepare the data; return the task, and the source for a teacher of other inputs.

    Args:
        config: Of the run.
        run: Where results go.
        hooks: Of stages.
        training: Of trainings.
        resume: Whether the run was begun: its data set is one that was there.

    Raises:
        MsdError: The data cannot be read or used.
    """
    hooks.on_stage(f"Reading {config.data.spec}")
    source = source_of_run(config, run) if resume else read_source(config)
    preprocessor = _build_preprocessor(config, source, hooks)
    data = _prepare(source, preprocessor, config, hooks)
    data = hide_labels(data, config.data.labelled_share, seed=config.data.seed)
    data = weigh_classes(data, config.data.class_weights)
    name = run.root.resolve().name
    return Task(config, run, data, preprocessor, hooks, training, name), source


def _build_preprocessor(config: RunConfig, source: SourceData, hooks: StageHooks) -> Preprocessor:
    side = config.data.image_size or DEFAULT_IMAGE_SIZE[config.student.size]
    spec = ImageSpec((side, side), config.data.image_mode)
    texts = training_texts(source)
    tokenizer = _tokenizer(config, texts, hooks)
    max_length = config.data.max_length or fitting_length(tokenizer, texts, most=_MOST_TOKENS)
    return build_preprocessor(tokenizer, spec, max_length=max_length)


def _tokenizer(config: RunConfig, texts: list[str], hooks: StageHooks) -> Tokenizer:
    """Return the student's tokenizer: the one it is given, a pretrained one cut, or a new one."""
    if config.data.tokenizer is not None:
        return load_tokenizer(config.data.tokenizer)
    most = config.data.vocabulary_size
    if config.student.text is not None:
        cut = cut_vocabulary(open_text(config.student.text).tokenizer, texts, most=most)
        hooks.on_note(cut.note)
        return cut.tokenizer
    return train_tokenizer(texts, vocabulary_size=most or _MOST_PIECES)


def _prepare(
    source: SourceData, preprocessor: Preprocessor, config: RunConfig, hooks: StageHooks
) -> PreparedData:
    return prepare(
        source,
        preprocessor,
        strict=config.data.strict,
        on_image=lambda done, total: hooks.on_count("pictures", done, total),
    )


def given_teacher(
    task: Task, source: SourceData, *, resume: bool = False
) -> tuple[PreparedData, Teacher | None]:
    """Load the teacher that the configuration names, and the data as it wants it."""
    folder, data = given_teacher_folder(task.config, task.run, resume=resume), task.data
    if folder is None:
        return data, None
    teacher = load_teacher(folder, labels=data.labels, problem=data.problem)
    if task.config.augment.views_per_picture:
        check_same_frame(task.preprocessor, teacher.preprocessor)
    of_teacher = _prepare(source, teacher.preprocessor, task.config, task.hooks)
    for note in of_teacher.notes:
        if note not in data.notes:
            task.hooks.on_note(f"for the teacher: {note}")
    return of_teacher, teacher


def trained_teacher(task: Task) -> Teacher:
    """Train the teacher on the labelled rows, unless the run has it."""
    run, data, settings = task.run, task.data, task.config.teacher
    if not processes.as_main_says(run.teacher.is_dir()):
        task.hooks.on_stage("Training the teacher on the labels")
        torch.manual_seed(task.config.seed)
        model = build_teacher(data, task.preprocessor)
        weights = class_weight_tensor(data.class_weights)
        objective = LabelObjective(settings.modality_dropout, weights)
        used = data.splits["train"].has_label()
        _train(task, model, objective, _plan(task, "teacher", settings, used), used=used)
        _save(task, run.teacher, model)
    return load_teacher(run.teacher, labels=data.labels, problem=data.problem)


def cached_predictions(
    task: Task, teacher: Teacher, teacher_data: PreparedData
) -> TeacherPredictions:
    """Return the teacher's logits of every split and view, computed once."""
    task.hooks.on_stage("Caching the teacher's predictions of all three views")
    return cache_predictions(
        teacher,
        teacher_data,
        task.run.teacher_predictions,
        with_features=task.config.distill.needs_features,
        augment=task.config.augment,
        on_batch=lambda done, total: task.hooks.on_count("examples", done, total),
    )


def distilled_student(
    task: Task, predictions: TeacherPredictions, *, steps: int | None = None
) -> FusionForClassification:
    """Distil the student, unless the run has it; then write the weights it gave to its examples.

    Args:
        task: The task.
        predictions: The teacher's.
        steps: Length of the training instead of the configuration's epochs.
    """
    run, settings = task.run, task.config.distill
    if not processes.as_main_says(run.student.is_dir()):
        task.hooks.on_stage(
            f"Distilling the {task.config.student.size} student ({settings.method})"
        )
        torch.manual_seed(task.config.seed)
        model = build_student(task.config.student, task.data, task.preprocessor)
        built = build_student_objective(settings, task.data, predictions, seed=task.config.seed)
        plan = _plan(task, "student", settings, built.used)
        plan = replace(
            plan,
            steps=steps,
            key=plan_key(plan.key, steps),
            keep_best=settings.keep == "best" or settings.patience is not None,
            patience=settings.patience,
        )
        projection = build_projection(
            settings, model.config.hidden_size, predictions, seed=task.config.seed
        )
        _train(task, model, built.objective, plan, used=built.used, projection=projection)
        _write_weights(task, built, model)
        _save(task, run.student, model)
    return load_model(run.student).model


def check_student(task: Task) -> None:
    """Build the student once and drop it: what cannot be built is refused before a teacher learns.

    The global random state is left as it was.

    Raises:
        ConfigError: See `build_student`.
        ArtifactError: See `build_student`.
    """
    if not task.run.student.is_dir():
        with torch.random.fork_rng(devices=[]):
            build_student(task.config.student, task.data, task.preprocessor)


def _write_weights(task: Task, built: StudentObjective, model: FusionForClassification) -> None:
    """Write the final weights of each training example, for the report, if the method has any."""
    train_split = task.data.splits["train"]
    weights = example_weights(built, predict_views(model, train_split), train_split)
    if weights and processes.is_main():
        with new_file(task.run.example_weights) as building:
            save_file({view.value: values for view, values in weights.items()}, building)


def ordinary_steps(task: Task) -> int:
    """Return the steps of the student's training on all rows."""
    settings = task.config.distill
    return _epochs(task, "student", settings, None) * _steps_per_epoch(task, settings, None)


def _steps_per_epoch(
    task: Task, settings: TeacherConfig | DistillConfig, used: NDArray[np.bool_] | None
) -> int:
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
        phase, rows, settings.batch_size, _steps_per_epoch(task, settings, used)
    )


def _plan(
    task: Task,
    phase: Phase,
    settings: TeacherConfig | DistillConfig,
    used: NDArray[np.bool_] | None,
) -> TrainingPlan:
    common, is_student = task.config.distill, phase == "student"
    return TrainingPlan(
        phase=phase,
        epochs=_epochs(task, phase, settings, used),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=common.weight_decay,
        warmup_share=common.warmup_share,
        seed=task.config.seed,
        log_every=common.log_every,
        checkpoint_seconds=common.checkpoint_seconds,
        pretrained_rate=task.config.student.pretrained_rate if is_student else 1.0,
        key=plan_key(
            phase,
            config_as_json(without_paths(task.config)),
            task.data.digest,
            task.preprocessor.digest(),
        ),
    )


def _train(
    task: Task,
    model: FusionForClassification,
    objective: Objective,
    plan: TrainingPlan,
    *,
    used: NDArray[np.bool_] | None = None,
    projection: torch.nn.Linear | None = None,
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
            used=used,
            projection=projection,
            tracker=_tracker(task, plan.phase),
            augment=build_augmentation(
                task.config.augment,
                task.data.splits["train"],
                task.preprocessor,
                seed=task.config.seed,
                is_asked=plan.phase == "student",
            ),
        )
    )


def _tracker(task: Task, phase: Phase) -> Tracker | None:
    name, run = task.config.tracker, task.run
    return name and Tracker(name, run.trackers, f"{task.name}-{phase}")


def _save(task: Task, folder: Path, model: FusionForClassification) -> None:
    if processes.is_main():
        save_model(
            folder,
            model,
            task.preprocessor,
            labels=task.data.labels,
            problem=task.data.problem,
            facts={"dataset_digest": task.data.digest, "parameters": parameter_count(model)},
        )
    processes.wait()


def parameter_count(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure(
    task: Task,
    predictions: TeacherPredictions,
    teacher: ViewClassifier,
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
            state_scores(facts, task.data, name, logits)
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


def _facts(model: ViewClassifier, folder: Path) -> Json:
    return {
        "parameters": parameter_count(model),
        "size_bytes": (folder / WEIGHTS_NAME).stat().st_size,
    }
