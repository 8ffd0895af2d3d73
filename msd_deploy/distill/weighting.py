"""How much each view's distance counts: fixed, by population, by instance; `meta` has its own file.

Every weighting of msd distributes the total of its fixed one, so that what differs is where the
weight goes and not how strong distillation is against the labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distill.saliency import Saliency
from msd_deploy.views import View

ExampleWeights = dict[View, Tensor]
"""Per view float32 [batch], at least 0; a view that is not named has weight 0."""

_EPS = 1e-8


class Weighting(Protocol):
    """Weighs the distances of a batch of training examples."""

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the weights of a batch.

        Args:
            rows: int64 [batch], positions in the training split.
            distances: The student's distance [batch] of each view, without gradient.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedWeighting:
    """Constants: w_m, w_v, w_t for every example.

    Attributes:
        weights: Per view.
    """

    weights: Mapping[View, float]

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the constants; see `Weighting`."""
        size = torch.ones(len(rows), device=rows.device)
        return {view: weight * size for view, weight in self.weights.items()}


@dataclass(frozen=True, slots=True)
class InstanceWeighting:
    """Per example, from its saliency (Jin et al. 2021, in our reading).

    With W = w_v + w_t, the fixed weights of the single views,

        w_v(x) = W * (f/2 + (1 - f) * a_v / (a_v + a_t)),   a_v = s_v(x) * g_v(x),   w_t alike,

    where s is the saliency, g the agreement of the view with the full prediction, and f a floor: a
    view counts where its modality moves the teacher and alone points where the teacher ends.

    Attributes:
        multimodal: w_m.
        image: w_v(x), float32 [training examples].
        text: w_t(x).
    """

    multimodal: float
    image: Tensor
    text: Tensor

    def __call__(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Look the weights up; see `Weighting`."""
        image, text = (values[rows.cpu()].to(rows.device) for values in (self.image, self.text))
        return {
            View.MULTIMODAL: torch.full_like(image, self.multimodal),
            View.IMAGE: image,
            View.TEXT: text,
        }


def fixed_weights(config: DistillConfig) -> dict[View, float]:
    """Return the constant weights of a method, views of weight 0 left out.

    none has no view, kd the multimodal view only, msd all three.
    """
    weights = {
        View.MULTIMODAL: config.multimodal_weight,
        View.IMAGE: config.image_weight,
        View.TEXT: config.text_weight,
    }
    views = {"none": (), "kd": (View.MULTIMODAL,), "msd": tuple(View)}[config.method]
    return {view: weights[view] for view in views if weights[view] > 0}


def population_weights(config: DistillConfig, saliency: Saliency) -> dict[View, float]:
    """Return one weight per view, the single views' in proportion to their mean saliency.

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
    """Return the weighting by instance; see `InstanceWeighting`."""
    of_image = saliency.image * saliency.image_agreement + _EPS
    of_text = saliency.text * saliency.text_agreement + _EPS
    share = config.instance_floor / 2 + (1 - config.instance_floor) * of_image / (
        of_image + of_text
    )
    both = config.image_weight + config.text_weight
    return InstanceWeighting(config.multimodal_weight, both * share, both * (1 - share))


def weight_statistics(weights: ExampleWeights) -> dict[str, object]:
    """Return a batch's weights for the history: mean and standard deviation of each view's."""
    if not weights:
        return {}
    spread = {
        view.value: {"mean": values.mean().item(), "std": values.std(unbiased=False).item()}
        for view, values in weights.items()
    }
    return {"weights": spread}
