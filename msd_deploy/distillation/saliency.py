"""Saliency: the change of the teacher's prediction when a modality is withheld, per example."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_deploy.distillation.distances import kl_distance
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class Saliency:
    """Saliency of both modalities, and agreement of each with the multimodal prediction.

    Attributes:
        image: s_v(x) = D(T(v,t), T(t)), float32 [examples], nats: the change without the image.
        text: s_t(x) = D(T(v,t), T(v)), float32 [examples], nats: the change without the text.
        image_agreement: float32 [examples], 0 to 1: 1 - total variation distance between the
            predictions from the image alone and from both.
        text_agreement: The same for the text alone.
    """

    image: Tensor
    text: Tensor
    image_agreement: Tensor
    text_agreement: Tensor


def teacher_saliency(
    predictions: TeacherPredictions, split: str, *, problem: Problem, temperature: float
) -> Saliency:
    """Compute the saliency of both modalities for every example of a split.

    It is 0 exactly where the teacher ignores the modality. D is `kl_distance`, whatever the
    student's distance, since only KL is defined for every task.

    Args:
        predictions: The teacher's logits of all three views.
        split: Name of the split.
        problem: Kind of the task, for softmax or sigmoids.
        temperature: tau of D.
    """
    multi_label = has_independent_classes(problem)
    both, image, text = (
        torch.from_numpy(predictions.of_view(split, view))
        for view in (View.MULTIMODAL, View.IMAGE, View.TEXT)
    )

    def change(withheld: Tensor) -> Tensor:
        return kl_distance(withheld, both, temperature=temperature, multi_label=multi_label)

    return Saliency(
        image=change(text),
        text=change(image),
        image_agreement=_agreement(both, image, multi_label),
        text_agreement=_agreement(both, text, multi_label),
    )


def _agreement(both: Tensor, alone: Tensor, multi_label: bool) -> Tensor:
    """Return 1 - total variation distance of two predictions, [examples]."""
    if multi_label:
        return 1 - (both.sigmoid() - alone.sigmoid()).abs().mean(dim=-1)
    return 1 - (both.softmax(dim=-1) - alone.softmax(dim=-1)).abs().sum(dim=-1) / 2
