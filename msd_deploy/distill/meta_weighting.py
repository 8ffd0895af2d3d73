"""The weighting that is learned with the student: a small network from an example to its weights.

It is trained to make the student's loss on held-out examples fall (bi-level; Jin et al. 2021, after
Shu et al. 2019); `meta_gradient` says how that is differentiated. Free weights collapse onto one
view (measured: .01, 2.76, .23), so each has a floor and their total is fixed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from msd_deploy.distill.saliency import Saliency
from msd_deploy.distill.weighting import ExampleWeights
from msd_deploy.views import View

_HIDDEN = 16


class MetaWeighting(nn.Module):
    """Weights per example from the student's distances and the teacher's saliency.

    With p_k the fixed weights' shares, W their total and f_k = floor_k * p_k,

        w_k(x) = W * (f_k + (1 - sum f) * softmax(net(x) + log((p - f) / (1 - sum f)))_k),

    so that an untrained network yields the fixed weights, and no weight falls below its floor.

    Args:
        weights: The fixed weights of all three views, each above 0.
        saliency: Of the training split.
        multimodal_floor: Share of the multimodal view's fixed weight that it keeps.
        single_floor: The same of the single views.
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
        """Return the weights of a batch, differentiable in the network; see `Weighting`."""
        return dict(zip(View, self.stacked(rows, distances), strict=True))

    def stacked(self, rows: Tensor, distances: Mapping[View, Tensor]) -> Tensor:
        """Return the weights [views, batch], views in the order of `View`."""
        of_student = torch.stack([torch.log1p(distances[view].detach()) for view in View], dim=1)
        inputs = torch.cat([of_student, self.described[rows]], dim=1)
        shares = torch.softmax(self.net(inputs) + self.prior, dim=1)
        return self.total * (self.floor + (1 - self.floor.sum()) * shares).T
