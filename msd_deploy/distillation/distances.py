"""Distances between a student's and a teacher's logits: KL, MSE, DKD and DIST, per example.

Each is a pure function of logits. `check_distance` rejects those that are undefined for a task, for
example because it has only two classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from msd_deploy.config.distill import DistillConfig
from msd_deploy.errors import ConfigError
from msd_deploy.problem import NO_LABEL, Problem, has_independent_classes

Distance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student [batch, classes], teacher [batch, classes], labels) -> float [batch]."""

_FEWEST_COMPARED = 3
_EPS = 1e-7


def kl_distance(
    student: Tensor, teacher: Tensor, *, temperature: float, multi_label: bool
) -> Tensor:
    """Compute D(T, S) = tau^2 * KL(T || S) of softened predictions, per example.

    Single label: tau^2 * KL(softmax(T / tau) || softmax(S / tau)) (Hinton et al. 2015).
    Multi-label: the mean over classes of tau^2 * KL of the two Bernoulli distributions
    sigmoid(. / tau). tau^2 keeps the gradient's scale independent of the temperature.

    Args:
        student: float [batch, classes].
        teacher: float [batch, classes], no gradient.
        temperature: tau.
        multi_label: Whether classes are independent.

    Returns:
        float [batch], nats, at least 0.
    """
    soft_student, soft_teacher = student / temperature, teacher / temperature
    if multi_label:
        divergence = _bernoulli_kl(soft_student, soft_teacher).mean(dim=-1)
    else:
        divergence = _categorical_kl(soft_student, soft_teacher)
    return divergence * temperature**2


def _categorical_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL(softmax(teacher) || softmax(student)) [batch]."""
    log_student = functional.log_softmax(student, dim=-1)
    log_teacher = functional.log_softmax(teacher, dim=-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)


def _bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute KL(sigmoid(teacher) || sigmoid(student)), stable for large logits."""
    probability = teacher.sigmoid()
    positive = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    negative = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return probability * positive + (1 - probability) * negative


def mse_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of the logits, float [batch] (Ba & Caruana 2014).

    Softmax ignores a constant added to all logits, but this distance does not: `build_distance`
    centres the logits of single-label tasks first.
    """
    return (student - teacher).square().mean(dim=-1)


def centred(logits: Tensor) -> Tensor:
    """Subtract the mean over classes from logits [batch, classes]."""
    return logits - logits.mean(dim=-1, keepdim=True)


def standardized(logits: Tensor) -> Tensor:
    """Return (z - mean) / std over classes (Sun et al. 2024; tau is left to the distance).

    The student then matches the ranking and the shape of the teacher's logits, not their scale.
    """
    return centred(logits) / (logits.std(dim=-1, keepdim=True, unbiased=False) + _EPS)


def dkd_distance(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    other_weight: float,
) -> Tensor:
    """Compute decoupled knowledge distillation (Zhao et al. 2022), per example.

    tau^2 * (a * KL(b_T || b_S) + b * KL(q_T || q_S)), b = (p_target, 1 - p_target), and q the
    distribution over the other classes. The target of an unlabelled example is the teacher's most
    probable class.

    Args:
        student: float [batch, classes], 3 classes or more.
        teacher: float [batch, classes].
        labels: int64 [batch]; NO_LABEL where there is none.
        temperature: tau.
        target_weight: a.
        other_weight: b.
    """
    target = torch.where(labels == NO_LABEL, teacher.argmax(dim=-1), labels)[:, None]
    student, teacher = student / temperature, teacher / temperature
    of_target = _bernoulli_kl(_target_logit(student, target), _target_logit(teacher, target))
    of_others = _categorical_kl(_without(student, target), _without(teacher, target))
    return temperature**2 * (target_weight * of_target + other_weight * of_others)


def _target_logit(logits: Tensor, target: Tensor) -> Tensor:
    """Return the logit [batch] of the target against all other classes combined."""
    others = torch.logsumexp(_without(logits, target), dim=-1)
    return logits.gather(1, target)[:, 0] - others


def _without(logits: Tensor, target: Tensor) -> Tensor:
    """Drop the target [batch, 1] from logits: [batch, classes - 1]."""
    classes = logits.shape[1]
    is_other = torch.arange(classes, device=logits.device)[None, :] != target
    return logits[is_other].view(len(logits), classes - 1)


def dist_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    multi_label: bool,
    inter_weight: float,
    intra_weight: float,
) -> Tensor:
    """Compute DIST (Huang et al. 2022), per example.

    tau^2 * (b * (1 - r(S_i, T_i)) + g * mean_j(1 - r(S_.j, T_.j))), where r is Pearson's
    correlation of an example's class probabilities (inter-class), and of a class's probabilities
    over the batch (intra-class, the same value for every example of the batch).

    Args:
        student: float [batch, classes].
        teacher: float [batch, classes].
        temperature: tau.
        multi_label: Whether probabilities are sigmoids.
        inter_weight: b; needs 3 classes or more.
        intra_weight: g.
    """
    soften = torch.sigmoid if multi_label else partial(torch.softmax, dim=-1)
    first, second = soften(student / temperature), soften(teacher / temperature)
    total = student.new_zeros(len(student))
    if inter_weight:
        total = total + inter_weight * (1 - _correlation(first, second))
    if intra_weight:
        total = total + intra_weight * (1 - _correlation(first.T, second.T)).mean()
    return temperature**2 * total


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute Pearson's correlation [n] of the rows of two matrices [n, m]."""
    return functional.cosine_similarity(centred(first), centred(second), dim=-1, eps=_EPS)


def build_distance(config: DistillConfig, problem: Problem) -> Distance:
    """Build the distance of a configuration; `check_distance` must have accepted it."""
    multi_label = has_independent_classes(problem)
    temperature = config.temperature
    measure: Distance
    match config.loss:
        case "kl":

            def measure(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
                return kl_distance(
                    student, teacher, temperature=temperature, multi_label=multi_label
                )

        case "mse":
            shift = (lambda logits: logits) if multi_label else centred

            def measure(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
                return mse_distance(shift(student), shift(teacher))

        case "dkd":

            def measure(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
                return dkd_distance(
                    student,
                    teacher,
                    labels,
                    temperature=temperature,
                    target_weight=config.dkd_target_weight,
                    other_weight=config.dkd_other_weight,
                )

        case "dist":

            def measure(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
                return dist_distance(
                    student,
                    teacher,
                    temperature=temperature,
                    multi_label=multi_label,
                    inter_weight=config.dist_inter_weight,
                    intra_weight=config.dist_intra_weight,
                )

    if not config.standardize:
        return measure
    return lambda student, teacher, labels: measure(
        standardized(student), standardized(teacher), labels
    )


def check_distance(config: DistillConfig, problem: Problem, classes: int) -> None:
    """Check that a configured distance is defined for a task.

    Args:
        config: Names the distance.
        problem: Kind of the task.
        classes: Number of classes.

    Raises:
        ConfigError: It is not; names the setting and the alternatives.
    """
    few = classes < _FEWEST_COMPARED
    independent = has_independent_classes(problem)
    kind = {"multi_label": "a multi-label task", "soft_label": "a soft-label task"}
    what = kind.get(problem, f"{classes} classes")
    if config.loss == "dkd" and (few or independent):
        reason = (
            f"dkd needs classes that exclude each other; this is {what}"
            if independent
            else f"dkd needs at least {_FEWEST_COMPARED} classes; the data set has {classes}"
        )
        raise ConfigError(reason, where="distill.loss", fix="Use kl or mse")
    if config.standardize and (few or independent):
        raise ConfigError(
            f"standardizing removes the decision from the logits of {what}: two classes always"
            " become the same two values, independent classes lose their threshold",
            where="distill.standardize",
            fix="Remove it, and use kl or mse",
        )
    if config.loss == "dist" and few and config.dist_inter_weight > 0:
        raise ConfigError(
            f"dist's inter-class term is the same for all predictions of {what}",
            where="distill.loss",
            fix="Use kl or mse, or set distill.dist_inter_weight = 0 and keep the intra-class term",
        )
