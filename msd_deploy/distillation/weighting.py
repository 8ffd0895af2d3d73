"""Weights of the views' distances: fixed, by population, by instance, and learned.

Every weighting distributes the total of the fixed weights, so that methods differ in where the
weight goes and not in how strong distillation is against the labels. The training of the learned
weighting is in `meta`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distillation.saliency import Saliency
from msd_deploy.views import View

ExampleWeights = dict[View, Tensor]
"""Per view float32 [batch], at least 0; a missing view has weight 0."""

_EPS = 1e-8
_HIDDEN = 16


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


class MetaWeighting(nn.Module):
    """Learned weights per example, from the student's distances and the teacher's saliency.

    A small network, trained to reduce the student's loss on held-out examples (bi-level; Jin et al.
    2021, after Shu et al. 2019); see `meta` and `meta_gradient`. Unconstrained weights collapse
    onto one view (measured: .01, 2.76, .23), so each has a floor and their total is fixed.

    With p_k the fixed weights' shares, W their total and f_k = floor_k * p_k,

        w_k(x) = W * (f_k + (1 - sum f) * softmax(net(x) + log((p - f) / (1 - sum f)))_k),

    so that an untrained network returns the fixed weights, and no weight falls below its floor.

    Args:
        weights: Fixed weights of all three views, each above 0.
        saliency: Saliency of the training split.
        multimodal_floor: Floor of the multimodal view, as a share of its fixed weight.
        single_floor: Floor of each single view, as a share of its fixed weight.
    """

    prior: Tensor
    floor: Tensor
    described: Tensor

    def __init__(
        self,
        weights: Mapping[View, float],
        saliency: Saliency,
        *,
        multimodal_floor: float,
        single_floor: float,
    ) -> None:
        super().__init__()
        fixed = torch.tensor([weights[view] for view in View])
        kept = torch.tensor([multimodal_floor, single_floor, single_floor])
        shares = fixed / fixed.sum()
        self.total = float(fixed.sum())
        of_teacher = [
            torch.log1p(saliency.image),
            torch.log1p(saliency.text),
            saliency.image_agreement,
            saliency.text_agreement,
        ]
        self.register_buffer("floor", shares * kept, persistent=False)
        self.register_buffer("prior", torch.log(shares - self.floor), persistent=False)
        self.register_buffer("described", torch.stack(of_teacher, dim=1), persistent=False)
        last = nn.Linear(_HIDDEN, len(View))
        first = nn.Linear(len(of_teacher) + len(View), _HIDDEN)
        self.net = nn.Sequential(first, nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the weights of a batch, with gradients to the network; see `Weighting`."""
        return dict(zip(View, self.stacked(rows, distances), strict=True))

    def stacked(self, rows: Tensor, distances: Mapping[View, Tensor]) -> Tensor:
        """Return the weights [views, batch], views in the order of `View`."""
        of_student = torch.stack([torch.log1p(distances[view].detach()) for view in View], dim=1)
        inputs = torch.cat([of_student, self.described[rows]], dim=1)
        shares = torch.softmax(self.net(inputs) + self.prior, dim=1)
        return self.total * (self.floor + (1 - self.floor.sum()) * shares).T


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
