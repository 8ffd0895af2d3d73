"""What a training step costs, so that methods can be compared at equal compute."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from msd_deploy.config import RunConfig
from msd_deploy.data.batch import ImageGroupSampler, collate
from msd_deploy.distill.steps import ViewOutputs
from msd_deploy.distill.student_objective import build_student_objective
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.models.sizes import build_student
from msd_deploy.stages import Task
from msd_deploy.study.config import CONVERGED_FACTOR, StudyConfig

_COUNTED_STEPS = 20
_REFERENCE = "msd-fixed"


def step_flops(config: RunConfig, task: Task, predictions: TeacherPredictions) -> float:
    """Count the floating-point operations of a training step, forward and backward.

    Counted are matrix products and convolutions, mean of 20 real batches: steps of modality dropout
    and batches of different lengths differ.

    Args:
        config: The student's and its method's.
        task: Its data.
        predictions: The teacher's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_student(config.student, task.data, task.preprocessor)
        built = build_student_objective(config.distill, task.data, predictions, seed=config.seed)
        train = task.data.splits["train"]
        sampler = ImageGroupSampler(
            train.image_index, batch_size=config.distill.batch_size, seed=0, used=built.used
        )
        views = ViewOutputs(model.train())
        batches = [rows for rows, _ in zip(sampler, range(_COUNTED_STEPS), strict=False)]
        with FlopCounterMode(display=False) as counter:
            for rows in batches:
                answer = built.objective(views, collate(train, np.array(rows)))
                torch.stack(list(answer.terms.values())).sum().backward()
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
