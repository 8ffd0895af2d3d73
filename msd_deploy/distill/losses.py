"""Losses as pure functions of logits; each returns named terms whose sum is the total.

Modality-specific Distillation (Jin et al. 2021, arXiv 2101.01881), in our reading:

    L = alpha * CE(S(v,t), y) + (1 - alpha) * sum_m w_m * D(T_m(x), S_m(x)),  m in {vt, v, t}

Plain knowledge distillation (Hinton et al. 2015) keeps the multimodal term alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from msd_deploy.config import DistillConfig
from msd_deploy.views import View

LABELS_TERM = "labels"


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy with the labels, in nats.

    Args:
        logits: float [batch, classes].
        labels: int64 [batch]; or float [batch, classes] of 0 and 1, then per-class sigmoid
            cross-entropy, averaged over classes too.
    """
    if labels.is_floating_point():
        return functional.binary_cross_entropy_with_logits(logits, labels)
    return functional.cross_entropy(logits, labels)


def kl_distance(
    student: Tensor, teacher: Tensor, *, temperature: float, multi_label: bool
) -> Tensor:
    """Return D(T, S) = tau^2 * KL(T || S) of softened predictions, per example.

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
        log_student = functional.log_softmax(soft_student, dim=-1)
        log_teacher = functional.log_softmax(soft_teacher, dim=-1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    return divergence * temperature**2


def _bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(sigmoid(teacher) || sigmoid(student)), stable for large logits."""
    probability = teacher.sigmoid()
    positive = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    negative = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return probability * positive + (1 - probability) * negative


@dataclass(frozen=True, slots=True)
class ViewWeights:
    """Weights of the three distances; 0 leaves a view out.

    Attributes:
        multimodal: w_m.
        image: w_v.
        text: w_t.
    """

    multimodal: float
    image: float
    text: float

    def views(self) -> tuple[View, ...]:
        """Return the views whose weight is not 0."""
        return tuple(view for view in View if self.of(view) > 0)

    def of(self, view: View) -> float:
        """Return the weight of one view."""
        return float(getattr(self, view.value))


def fixed_weights(config: DistillConfig) -> ViewWeights:
    """Return the constant weights of a method: none, plain KD, or MSD with fixed weights."""
    match config.method:
        case "none":
            return ViewWeights(0.0, 0.0, 0.0)
        case "kd":
            return ViewWeights(config.multimodal_weight, 0.0, 0.0)
        case "msd":
            return ViewWeights(config.multimodal_weight, config.image_weight, config.text_weight)


def distillation_terms(
    student: Mapping[View, Tensor],
    teacher: Mapping[View, Tensor],
    labels: Tensor,
    *,
    weights: ViewWeights,
    alpha: float,
    temperature: float,
) -> dict[str, Tensor]:
    """Return the weighted terms of the loss by name; their sum is the total.

    Args:
        student: Logits [batch, classes] of each view that has a weight, multimodal always.
        teacher: The teacher's logits of each view that has a weight.
        labels: See `label_loss`.
        weights: Weights of the views; all 0: the labels' loss alone, whatever alpha.
        alpha: Weight of the labels' loss.
        temperature: tau.

    Returns:
        Scalars: "labels", and one per weighted view.
    """
    views = weights.views()
    label_share = alpha if views else 1.0
    terms = {LABELS_TERM: label_share * label_loss(student[View.MULTIMODAL], labels)}
    for view in views:
        distance = kl_distance(
            student[view],
            teacher[view],
            temperature=temperature,
            multi_label=labels.is_floating_point(),
        )
        terms[view.value] = (1 - alpha) * weights.of(view) * distance.mean()
    return terms
