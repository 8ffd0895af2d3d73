"""Saliency: how far the teacher moves when a modality is withheld, example by example."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_deploy.distill.distances import kl_distance
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class Saliency:
    """What each modality means to the teacher.

    Attributes:
        image: s_v(x) = D(T(v,t), T(t)), float32 [examples], nats: the move without the image.
        text: s_t(x) = D(T(v,t), T(v)), float32 [examples]: the move without the text.
        image_agreement: float32 [examples], 0 to 1: how much of the full prediction's probability
            the image alone reproduces, 1 less the total variation distance.
        text_agreement: The same of the text alone.
    """

    image: Tensor
    text: Tensor
    image_agreement: Tensor
    text_agreement: Tensor


def teacher_saliency(
    predictions: TeacherPredictions, split: str, *, problem: Problem, temperature: float
) -> Saliency:
    """Return the saliency of both modalities for every example of a split.

    It is 0 exactly where the teacher ignores the modality. D is `kl_distance`, whatever distance
    the student is trained with: it alone is defined for every task.

    Args:
        predictions: The teacher's logits of all three views.
        split: Name of the split.
        problem: Decides between softmax and sigmoids.
        temperature: tau of D.
    """
    multi_label = has_independent_classes(problem)
    full, image, text = (
        torch.from_numpy(predictions.of_view(split, view))
        for view in (View.MULTIMODAL, View.IMAGE, View.TEXT)
    )

    def moved(withheld: Tensor) -> Tensor:
        return kl_distance(withheld, full, temperature=temperature, multi_label=multi_label)

    return Saliency(
        image=moved(text),
        text=moved(image),
        image_agreement=_agreement(full, image, multi_label),
        text_agreement=_agreement(full, text, multi_label),
    )


def _agreement(full: Tensor, alone: Tensor, multi_label: bool) -> Tensor:
    """Return 1 - total variation distance of two predictions, [examples]."""
    if multi_label:
        return 1 - (full.sigmoid() - alone.sigmoid()).abs().mean(dim=-1)
    return 1 - (full.softmax(dim=-1) - alone.softmax(dim=-1)).abs().sum(dim=-1) / 2
