"""Losses as pure functions of logits; each returns named terms whose sum is the total.

Modality-specific Distillation (Jin et al. 2021, arXiv 2101.01881), in our reading:

    L = alpha * CE(S(v,t), y) + (1 - alpha) * sum_m w_m(x) * D(T_m(x), S_m(x)),  m in {vt, v, t}

Plain knowledge distillation (Hinton et al. 2015) keeps the multimodal term alone. `distances` has
the D, `weighting` the w.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from msd_deploy.problem import NO_LABEL
from msd_deploy.views import View

LABELS_TERM = "labels"


def class_weight_tensor(weights: Sequence[float] | None) -> Tensor | None:
    """Return the weights of a data set's classes as losses take them, float32 [classes]."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)


def label_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy with the labels, in nats; 0 where no row has a label.

    Where classes are weighed, the weighted losses are divided by the number of labelled rows, not
    by the sum of their weights as torch's own mean is: the weights have a mean of 1 over the
    training rows, and a step then is the same whatever parts and processes it is computed in.

    Args:
        logits: float [batch, classes].
        labels: int64 [batch], NO_LABEL where a row has none; or float [batch, classes] from 0 to 1,
            NaN where a row has none: then per-class sigmoid cross-entropy, averaged over classes.
        class_weights: float [classes], None: 1 each. Of a row's class; or, of labels per class,
            of a class where it is true.
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
    """Return bool [batch], which rows have a label; see `label_loss`."""
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
    """Return the weighted terms of the loss by name; their sum is the total.

    Args:
        student: The student's logits [batch, classes] of the multimodal view.
        distances: Distance [batch] to the teacher of each view that has weights.
        labels: See `label_loss`.
        weights: Per view float [batch]; no view at all: the labels' loss alone, whatever alpha.
        alpha: Weight of the labels' loss.
        class_weights: See `label_loss`.

    Returns:
        Scalars: "labels", and one per weighted view.
    """
    label_share = alpha if weights else 1.0
    terms = {LABELS_TERM: label_share * label_loss(student, labels, class_weights)}
    for view, weight in weights.items():
        terms[view.value] = (1 - alpha) * (weight * distances[view]).mean()
    return terms
