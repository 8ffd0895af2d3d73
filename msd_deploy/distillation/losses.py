"""Label loss and distillation loss, as named terms whose sum is the total.

Modality-specific Distillation (Jin et al. 2021, arXiv 2101.01881), in our reading:

    L = alpha * CE(S(v,t), y) + (1 - alpha) * sum_m w_m(x) * D(T_m(x), S_m(x)),  m in {vt, v, t}

Plain knowledge distillation (Hinton et al. 2015) has the multimodal term only. D is in `distances`,
w in `weighting`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from msd_deploy.problem import NO_LABEL
from msd_deploy.views import View

LABELS_TERM = "labels"


def class_weight_tensor(weights: Sequence[float] | None) -> Tensor | None:
    """Convert class weights to a tensor, float32 [classes]."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)


def label_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Compute the mean cross-entropy with the labels, in nats; 0 where no row has a label.

    With class weights, the weighted losses are divided by the number of labelled rows, not by the
    sum of their weights as in torch's own mean: the weights have a mean of 1 over the training
    rows, and a step is then independent of the parts and processes that it is computed in.

    Args:
        logits: float [batch, classes].
        labels: int64 [batch], NO_LABEL for rows without one; or float [batch, classes] in 0..1, NaN
            for rows without one, for a sigmoid cross-entropy averaged over classes.
        class_weights: float [classes], of a row's class, or of the positive term of each class for
            float labels; None for 1 each.
    """
    weights = None if class_weights is None else class_weights.to(logits)
    has_label = labelled_rows(labels)
    if labels.is_floating_point():
        targets = torch.where(has_label[:, None], labels, torch.zeros_like(labels))
        each = functional.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="none"
        )
        each = each.mean(dim=-1) * has_label
    else:
        each = functional.cross_entropy(
            logits, labels, weights, ignore_index=NO_LABEL, reduction="none"
        )
    return each.sum() / has_label.sum().clamp(min=1)


def labelled_rows(labels: Tensor) -> Tensor:
    """Return which rows have a label, bool [batch]; see `label_loss`."""
    return ~labels.isnan().any(dim=-1) if labels.is_floating_point() else labels != NO_LABEL


def distillation_terms(
    student: Tensor,
    distances: Mapping[View, Tensor],
    labels: Tensor,
    *,
    weights: Mapping[View, Tensor],
    alpha: float,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the weighted terms of the loss by name; their sum is the total.

    Args:
        student: The student's logits [batch, classes] of the multimodal view.
        distances: Distance [batch] to the teacher of each weighted view.
        labels: See `label_loss`.
        weights: Per view float [batch]; if empty, the label loss alone, whatever alpha.
        alpha: Weight of the label loss.
        class_weights: See `label_loss`.

    Returns:
        Scalars: "labels", and one per weighted view.
    """
    label_share = alpha if weights else 1.0
    terms = {LABELS_TERM: label_share * label_loss(student, labels, class_weights)}
    for view, weight in weights.items():
        terms[view.value] = (1 - alpha) * (weight * distances[view]).mean()
    return terms
