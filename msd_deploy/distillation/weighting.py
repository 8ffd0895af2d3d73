"""Weights of the views' distances: fixed, by population and by instance; learned ones: `meta`.

Every weighting distributes the total of the fixed weights, so that methods differ in where the
weight goes and not in how strong distillation is against the labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distillation.saliency import Saliency
from msd_deploy.views import View

ExampleWeights = dict[View, Tensor]
"""Per view float32 [batch], at least 0; a missing view has weight 0."""

_EPS = 1e-8


class Weighting(Protocol):
    """A function from a batch of training examples to their weights."""

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the weights of a batch.

        Args:
            rows: int64 [batch], positions in the training split.
            distances: The student's distance [batch] of each view, without gradient.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedWeighting:
    """Constant weights w_m, w_v, w_t for every example.

    Attributes:
        weights: Weight of each view.
    """

    weights: Mapping[View, float]

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the constant weights; see `Weighting`."""
        size = torch.ones(len(rows), device=rows.device)
        return {view: weight * size for view, weight in self.weights.items()}


@dataclass(frozen=True, slots=True)
class InstanceWeighting:
    """Weights per example from its saliency (Jin et al. 2021, in our reading).

    With W = w_v + w_t, the fixed weights of the single views,

        w_v(x) = W * (f/2 + (1 - f) * a_v / (a_v + a_t)),   a_v = s_v(x) * g_v(x),   w_t alike,

    where s is the saliency, g the agreement of the view with the multimodal prediction, and f a
    floor: a view has a high weight where its modality changes the teacher's prediction and alone
    leads to the same prediction as both.

    Attributes:
        multimodal: w_m.
        image: w_v(x), float32 [training examples].
        text: w_t(x).
    """

    multimodal: float
    image: Tensor
    text: Tensor

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the precomputed weights of the rows; see `Weighting`."""
        image, text = (values[rows.cpu()].to(rows.device) for values in (self.image, self.text))
        return {
            View.MULTIMODAL: torch.full_like(image, self.multimodal),
            View.IMAGE: image,
            View.TEXT: text,
        }


def fixed_weights(config: DistillConfig) -> dict[View, float]:
    """Return the fixed weights of a method, without views of weight 0.

    Method none has no view, kd the multimodal view only, msd all three.
    """
    weights = {
        View.MULTIMODAL: config.multimodal_weight,
        View.IMAGE: config.image_weight,
        View.TEXT: config.text_weight,
    }
    views = {"none": (), "kd": (View.MULTIMODAL,), "msd": tuple(View)}[config.method]
    return {view: weights[view] for view in views if weights[view] > 0}


def population_weights(config: DistillConfig, saliency: Saliency) -> dict[View, float]:
    """Return one weight per view, proportional to the mean saliency for the single views.

    w_v = W * S_v / (S_v + S_t), W = w_v + w_t fixed, S the mean of s over the training split
    (Jin et al. 2021, in our reading).
    """
    of_image, of_text = saliency.image.mean().item(), saliency.text.mean().item()
    share = (of_image + _EPS) / (of_image + of_text + 2 * _EPS)
    both = config.image_weight + config.text_weight
    return {
        View.MULTIMODAL: config.multimodal_weight,
        View.IMAGE: both * share,
        View.TEXT: both * (1 - share),
    }


def instance_weighting(config: DistillConfig, saliency: Saliency) -> InstanceWeighting:
    """Build the weighting by instance; see `InstanceWeighting`."""
    of_image = saliency.image * saliency.image_agreement + _EPS
    of_text = saliency.text * saliency.text_agreement + _EPS
    share = config.instance_floor / 2 + (1 - config.instance_floor) * of_image / (
        of_image + of_text
    )
    both = config.image_weight + config.text_weight
    return InstanceWeighting(config.multimodal_weight, both * share, both * (1 - share))


def weight_statistics(weights: ExampleWeights) -> dict[str, object]:
    """Return mean and standard deviation of each view's weights, for the history."""
    if not weights:
        return {}
    spread = {
        view.value: {"mean": values.mean().item(), "std": values.std(unbiased=False).item()}
        for view, values in weights.items()
    }
    return {"weights": spread}
