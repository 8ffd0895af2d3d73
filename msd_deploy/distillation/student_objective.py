"""Construction of a student's objective and the choice of its training rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import rows_by_image
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.distillation.distances import Distance, build_distance, check_distance
from msd_deploy.distillation.feature_losses import build_feature_terms
from msd_deploy.distillation.losses import class_weight_tensor
from msd_deploy.distillation.meta import MetaObjective, MetaTask, MetaWeighting, hold_out
from msd_deploy.distillation.objectives import DistillationObjective
from msd_deploy.distillation.saliency import Saliency, teacher_saliency
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.weighting import (
    FixedWeighting,
    Weighting,
    fixed_weights,
    instance_weighting,
    population_weights,
)
from msd_deploy.errors import ConfigError
from msd_deploy.problem import Problem
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class StudentObjective:
    """A student's objective with its parts.

    Attributes:
        objective: The loss.
        weighting: The weighting of the views, for any objective.
        predictions: The teacher's predictions.
        distance: D.
        used: bool [rows], the training rows that are used; None for all.
    """

    objective: DistillationObjective | MetaObjective
    weighting: Weighting
    predictions: TeacherPredictions
    distance: Distance
    used: NDArray[np.bool_] | None


def build_student_objective(
    config: DistillConfig, data: PreparedData, predictions: TeacherPredictions, *, seed: int
) -> StudentObjective:
    """Build the objective of a configuration.

    The global random state is preserved, so that students of different methods but the same seed
    have the same initial weights.

    Raises:
        ConfigError: The distance is undefined for the task, or no rows can be held out for `meta`.
    """
    check_distance(config, data.info.problem, len(data.info.labels))
    distance = build_distance(config, data.info.problem)
    if config.weighting == "meta":
        return _meta_objective(config, data, predictions, distance, seed)
    weighting = _build_weighting(config, data.info.problem, predictions)
    views = tuple(fixed_weights(config)) if config.weighting == "fixed" else tuple(View)
    used = None if views else data.splits["train"].has_label()
    objective = DistillationObjective(
        predictions,
        distance,
        weighting,
        views,
        config.alpha,
        config.modality_dropout,
        build_feature_terms(config, predictions),
        class_weight_tensor(data.info.class_weights),
        config.single_view_steps,
        config.single_view_examples,
        torch.rand(len(data.splits["train"]), generator=torch.Generator().manual_seed(seed)),
        config.single_view_rest,
    )
    return StudentObjective(objective, weighting, predictions, distance, used)


def _build_weighting(
    config: DistillConfig, problem: Problem, predictions: TeacherPredictions
) -> Weighting:
    if config.weighting == "fixed":
        return FixedWeighting(fixed_weights(config))
    saliency = _saliency(config, problem, predictions)
    if config.weighting == "population":
        return FixedWeighting(population_weights(config, saliency))
    return instance_weighting(config, saliency)


def _saliency(config: DistillConfig, problem: Problem, predictions: TeacherPredictions) -> Saliency:
    return teacher_saliency(predictions, "train", problem=problem, temperature=config.temperature)


def _meta_objective(
    config: DistillConfig,
    data: PreparedData,
    predictions: TeacherPredictions,
    distance: Distance,
    seed: int,
) -> StudentObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weighting = MetaWeighting(
            fixed_weights(config),
            _saliency(config, data.info.problem, predictions),
            multimodal_floor=config.meta_multimodal_floor,
            single_floor=config.meta_single_floor,
        )
    split, held_out, used = _meta_rows(config, data, seed)
    weights = class_weight_tensor(data.info.class_weights)
    task = MetaTask(predictions, distance, split, held_out, seed, weights)
    return StudentObjective(
        MetaObjective(weighting, task, config), weighting, predictions, distance, used
    )


def check_held_out(config: DistillConfig, data: PreparedData, *, seed: int) -> None:
    """Check that `meta`, if it is used, can hold out examples.

    Raises:
        ConfigError: It cannot.
    """
    if config.weighting == "meta":
        _meta_rows(config, data, seed)


def _meta_rows(
    config: DistillConfig, data: PreparedData, seed: int
) -> tuple[PreparedSplit, NDArray[np.int64], NDArray[np.bool_] | None]:
    """Return the split and indices of the held-out rows, and the mask of the training rows.

    Raises:
        ConfigError: No rows can be held out.
    """
    train, validation = data.splits["train"], data.splits["validation"]
    if config.meta_rows == "train":
        held_out = hold_out(train, config.meta_share, seed=seed)
        return train, held_out, _rows_of_other_images(train, held_out)
    labelled = np.flatnonzero(validation.has_label())
    if not len(labelled):
        others = ', set distill.meta_rows = "train"' if train.has_label().any() else ""
        raise ConfigError(
            "the validation split has no labelled rows, which meta trains its weights on",
            where="distill.weighting",
            fix=f"Label some{others}, or use another --weighting",
        )
    return validation, labelled, None


def _rows_of_other_images(split: PreparedSplit, held_out: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows share no image with held-out rows, bool [rows]."""
    used = np.ones(len(split), bool)
    for rows in rows_by_image(split.image_index):
        used[rows] = not np.isin(rows, held_out).any()
    return used


def example_weights(
    built: StudentObjective, student: Mapping[View, NDArray[np.float32]], split: PreparedSplit
) -> dict[View, NDArray[np.float32]]:
    """Compute the final weights of all training examples, per view [rows].

    Args:
        built: The trained objective.
        student: The student's logits [rows, classes] of each view on the training split.
        split: The training split.
    """
    rows, labels = torch.arange(len(split)), torch.from_numpy(split.labels)
    teacher = built.predictions.of_rows("train", rows)
    distances = {
        view: built.distance(torch.from_numpy(logits), teacher[view], labels)
        for view, logits in student.items()
    }
    with torch.no_grad():
        weights = built.weighting(rows, distances)
    return {view: values.numpy() for view, values in weights.items()}
