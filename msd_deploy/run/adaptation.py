"""Adaptation of a teacher to single views: a stage of a run, and for `msd teacher --adapt`.

The adapted teacher starts from the teacher's weights and learns, from all training examples with an
image and a text, to predict from one of them what the teacher predicts from both, on average; see
`AdaptationObjective`. The teacher's predictions are of the original examples, also where training
augments them.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from msd_deploy import process_group
from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import DatasetInfo
from msd_deploy.distillation.objectives import AdaptationObjective
from msd_deploy.distillation.plan import plan_key
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import (
    LogitArray,
    bootstrap_rows,
    metric_name,
    ratio_of_sums,
    row_counts,
    with_interval,
)
from msd_deploy.models.classifier import ViewClassifier, task_config
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.folders import LoadedModel, family_of
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.predict import predict_views
from msd_deploy.models.pretrained.teacher import refuse_inputs
from msd_deploy.models.teachers import Teacher, load_teacher, teacher_for
from msd_deploy.pages.formatting import in_points, metric_title, percent
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.run.stages import (
    plan_of,
    save_in_task,
    state_scores,
    train_in_task,
    trained_teacher,
)
from msd_deploy.run.task import Task
from msd_deploy.views import View

_OWN_VISION = "conv_stem"
_MOST_LOST = 0.005


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What an adaptation needs of the teacher before its weights change.

    Attributes:
        objective: The loss.
        used: bool [examples], the training examples with an image and a text.
        facts: `adapted_from` of the manifest: the teacher's digest, and its scores on validation
            and test.
        validation: float32 [examples, classes], the teacher's logits of the multimodal view.
    """

    objective: AdaptationObjective
    used: NDArray[np.bool_]
    facts: Json
    validation: LogitArray


def begin_adaptation(
    model: ViewClassifier, digest: str, data: PreparedData, hooks: StageHooks
) -> Adaptation:
    """Compute a teacher's predictions, which are the targets of its adaptation, and its scores.

    Args:
        model: Result of `model_to_adapt`; it is moved to its training device.
        digest: The teacher's.
        data: Prepared by the teacher's own preprocessor.
        hooks: Progress.
    """
    train, problem = data.splits["train"], data.info.problem
    hooks.on_stage("Predicting the training examples with the teacher")
    model.to(PartialState().device)
    on_batch = partial(hooks.on_count, "examples")
    whole = View.MULTIMODAL
    targets = predict_views(model, train, views=(whole,), on_batch=on_batch)[whole]
    facts: Json = {"digest": digest}
    logits = {name: predict_views(model, data.splits[name]) for name in ("validation", "test")}
    for name, of_split in logits.items():
        state_scores(facts, data, name, of_split)
    multi_label = has_independent_classes(problem)
    objective = AdaptationObjective(torch.from_numpy(targets), multi_label)
    return Adaptation(objective, train.has_both(), facts, logits["validation"][whole])


def notes_of_loss(adaptation: Adaptation, logits: LogitArray, data: PreparedData) -> list[str]:
    """Note a multimodal view that lost more than .5 points on validation, beyond chance.

    Args:
        adaptation: See `begin_adaptation`.
        logits: The adapted teacher's, [examples, classes], of the multimodal view of validation.
        data: The data.

    Returns:
        A sentence that begins with "the"; none without labelled examples.
    """
    split, problem = data.splits["validation"], data.info.problem
    labelled = split.has_label()
    if not labelled.any():
        return []
    both = (adaptation.validation[labelled], logits[labelled])
    counts = np.hstack([row_counts(each, split.labels[labelled], problem) for each in both])
    resampled = [counts[drawn].sum(axis=0) for drawn in bootstrap_rows(len(counts))]
    sums = np.stack([counts.sum(axis=0), *resampled])
    before, after = ratio_of_sums(sums[:, :2]), ratio_of_sums(sums[:, 2:])
    changes = after - before
    change = with_interval(float(changes[0]), changes[1:])
    if change["value"] >= -_MOST_LOST or change["interval"][1] >= 0:
        return []
    return [
        f"the adapted teacher's multimodal view has {metric_title(metric_name(problem))}"
        f" {percent(float(after[0]))} on {len(counts):,} validation examples, and had"
        f" {percent(float(before[0]))} before (difference {in_points(change)}), which its student"
        " loses as well: adapt it for fewer epochs or at a lower rate, or use it as it is"
    ]


def model_to_adapt(teacher: Teacher, info: DatasetInfo) -> ViewClassifier:
    """Order a teacher's classes as the data's, mark its pretrained weights, and return its model.

    Args:
        teacher: The teacher.
        info: Of the data.
    """
    model, order = teacher.model, torch.from_numpy(teacher.class_order)
    with torch.no_grad():
        for weights in (model.classifier.weight, model.classifier.bias):
            weights.copy_(weights[order])
    model.config.update(task_config(info.labels, info.problem))
    if isinstance(model, FamilyForClassification):
        model.mark_pretrained(*filter(None, (model.backbone, model.vision)))
    elif isinstance(model, FusionForClassification):
        if model.config.vision["kind"] != _OWN_VISION:
            model.mark_pretrained(model.vision)
        if not model.config.norm_first:  # the layers of a text checkpoint
            model.mark_pretrained(*model.text_modules)
    return model


@dataclass(frozen=True, slots=True)
class TrainedStart:
    """A trained teacher as the start of `msd teacher --adapt`; see `PretrainedTeacher`.

    Attributes:
        loaded: The teacher.
    """

    loaded: LoadedModel[ViewClassifier]

    @property
    def family(self) -> str:
        """Name of the family."""
        return family_of(self.loaded.folder) or "fusion"

    @property
    def has_vision_encoder(self) -> bool:
        """Whether it has a separate vision encoder."""
        return bool(self.loaded.model.vision_modules)

    def digest(self) -> str:
        """Return the SHA-256 of the teacher's files."""
        return self.loaded.digest

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Return the teacher's preprocessor.

        Raises:
            ConfigError: An input is requested, but the teacher has fixed it.
        """
        requested = {"tokenizer": tokenizer, "max_length": max_length, "image_size": image_size}
        refuse_inputs(requested, "is fixed by the teacher of --adapt")
        return self.loaded.preprocessor

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float,
    ) -> ViewClassifier:
        """Return the teacher's model with its own dropout; see `model_to_adapt`.

        Raises:
            ArtifactError: The teacher was trained for a different task.
        """
        teacher = teacher_for(self.loaded, labels=labels, problem=problem)
        return model_to_adapt(teacher, DatasetInfo(labels, problem))


def teacher_of_run(task: Task, given: Teacher | None, data: PreparedData) -> Teacher:
    """Return the teacher that the student learns from: given or trained, adapted if requested.

    Args:
        task: The task.
        given: The given teacher; None: the run trains one.
        data: The data, prepared for the teacher.
    """
    teacher = given or trained_teacher(task)
    if task.config.teacher.adapt_epochs == 0:
        return teacher
    folder = task.run.adapted_teacher
    if not process_group.broadcast_from_main(folder.is_dir()):
        _adapt(replace(task, data=data, preprocessor=teacher.preprocessor), teacher)
    return load_teacher(folder, labels=data.info.labels, problem=data.info.problem)


def _adapt(task: Task, teacher: Teacher) -> None:
    """Adapt a teacher, and write the result.

    Args:
        task: The task, with data and preprocessor of the teacher.
        teacher: The teacher, whose model is changed in place.
    """
    settings = task.config.teacher
    settings = replace(settings, epochs=settings.adapt_epochs, learning_rate=settings.adapt_rate)
    model = model_to_adapt(teacher, task.data.info)
    adaptation = begin_adaptation(model, teacher.digest, task.data, task.hooks)
    plan = plan_of(task, "adaptation", settings, adaptation.used)
    plan = replace(plan, key=plan_key(plan.key, teacher.digest))
    task.hooks.on_stage("Adapting the teacher to single views")
    torch.manual_seed(task.config.seed)
    result = train_in_task(task, model, adaptation.objective, plan, used=adaptation.used)
    whole = View.MULTIMODAL
    logits = predict_views(model, task.data.splits["validation"], views=(whole,))[whole]
    for note in notes_of_loss(adaptation, logits, task.data):
        task.hooks.on_note(note)
    facts = {
        "adapted_from": adaptation.facts,
        "adaptation": {
            "epochs": plan.epochs,
            "learning_rate": plan.learning_rate,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
        },
    }
    save_in_task(task, task.run.adapted_teacher, model, {plan.phase: asdict(result)}, facts)
