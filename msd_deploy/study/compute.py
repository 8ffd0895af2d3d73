"""Floating-point operations of a training step, for comparisons at equal compute."""

from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.batch import ImageGroupSampler, collate
from msd_deploy.distillation.feature_losses import build_projection
from msd_deploy.distillation.meta import MetaObjective
from msd_deploy.distillation.steps import MultiViewModel, Objective
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.models.sizes import build_student
from msd_deploy.run.task import Task
from msd_deploy.study.config import CONVERGED_FACTOR, StudyConfig

_COUNTED_BATCHES = 20
_REFERENCE = "msd-fixed"


def step_flops(config: RunConfig, task: Task, predictions: TeacherPredictions) -> float:
    """Return the floating-point operations of a training step, forward and backward.

    Counted are matrix products and convolutions, on the same first batches for every method. A step
    counts as the mean of what it may be: with a single view or without, by modality dropout or by
    `single_view_steps`, with an update of learned weights or without.

    Args:
        config: The student's and its method's.
        task: Its data.
        predictions: The teacher's.
    """
    settings = config.distill
    with torch.random.fork_rng(devices=[]):
        student = build_student(config.student, task.data, task.preprocessor).train()
        projection = build_projection(
            settings, student.config.hidden_size, predictions, seed=config.seed
        )
        model = MultiViewModel(student, projection)

        def flops(changed: DistillConfig, steps_done: int = 0) -> float:
            built = build_student_objective(changed, task.data, predictions, seed=config.seed)
            if isinstance(built.objective, MetaObjective):
                built.objective.steps_done = steps_done
                return _flops(task, model, built.objective)
            steps = built.objective.possible_steps()
            return sum(share * _flops(task, model, step) for share, step in steps)

        if settings.weighting != "meta":
            return flops(settings)
        # With an update of the weights in every counted batch, and in none.
        share, never = 1 / settings.meta_every, replace(settings, meta_every=10 * _COUNTED_BATCHES)
        updated = flops(replace(settings, meta_every=1))
        return share * updated + (1 - share) * flops(never, steps_done=1)


def _flops(task: Task, model: MultiViewModel, objective: Objective) -> float:
    """Return the mean operations of a batch, forward and backward."""
    train, size = task.data.splits["train"], task.config.distill.batch_size
    sampler = ImageGroupSampler(train.image_index, batch_size=size, seed=0)
    batches = list(sampler)[:_COUNTED_BATCHES]
    with FlopCounterMode(display=False) as counter:
        for rows in batches:
            terms = objective(model, collate(train, np.array(rows))).terms
            torch.stack(list(terms.values())).sum().backward()
    return float(counter.get_total_flops()) / len(batches)


def steps_by_method(
    study: StudyConfig, flops: dict[str, float], reference_flops: float, ordinary: int
) -> dict[str, int]:
    """Return how many steps each method has.

    Args:
        study: Names the budget.
        flops: Operations a step, by method.
        reference_flops: Those of msd-fixed, whose ordinary run is the budget at equal compute.
        ordinary: Steps of an ordinary run; see `ordinary_steps`.
    """
    if study.budget == "converged":
        return dict.fromkeys(study.methods, CONVERGED_FACTOR * ordinary)
    if study.budget == "steps":
        return dict.fromkeys(study.methods, ordinary)
    return {m: max(1, round(ordinary * reference_flops / flops[m])) for m in study.methods}


def measure_flops(
    study: StudyConfig, task: Task, predictions: TeacherPredictions
) -> tuple[dict[str, float], float]:
    """Return the operations a step of each method, and of the reference msd-fixed."""
    seed = study.first_seed
    flops = {m: step_flops(study.of_cell(m, seed), task, predictions) for m in study.methods}
    reference = flops.get(_REFERENCE) or step_flops(
        study.of_cell(_REFERENCE, seed), task, predictions
    )
    return flops, reference
