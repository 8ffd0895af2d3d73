"""Gradient of the held-out loss with respect to each example's weight: exact, or of one layer.

The student takes a virtual SGD step with the weighted loss, theta' = theta - r * grad; L_meta is
its loss on a meta batch afterwards (Shu et al. 2019, Meta-Weight-Net; Ren et al. 2018):

    dL_meta / dw_ik = -r * (1 - alpha) / B * < grad L_meta(theta'), grad l_ik(theta) >

for example i and view k. `exact_gradient` uses all parameters; `last_layer_gradient` the classifier
only, where the inner product has a closed form and needs no second backward pass. Feature losses
have no gradient there. Without look-ahead the gradient of L_meta is taken at theta, not theta'.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from msd_deploy import process_group
from msd_deploy.distillation.losses import label_loss


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The student's classifier and its inputs, all without gradient.

    Attributes:
        weight: float [classes, hidden].
        bias: float [classes].
        features: float [views, batch, hidden], the classifier's input under each weighted view.
        slopes: float [views, batch, classes], d l_ik / d logits.
        label_features: float [batch, hidden], the features of the multimodal view.
        label_slopes: float [batch, classes], d (mean CE) / d logits, row by row.
        meta_features: float [meta batch, hidden].
        meta_labels: See `label_loss`.
        class_weights: See `label_loss`.
    """

    weight: Tensor
    bias: Tensor
    features: Tensor
    slopes: Tensor
    label_features: Tensor
    label_slopes: Tensor
    meta_features: Tensor
    meta_labels: Tensor
    class_weights: Tensor | None = None

    def all_gather(self, *, of_labels: float) -> "LastLayer":
        """Return the layer with the rows of all processes.

        Args:
            of_labels: This process's share of the labelled rows.
        """
        features, slopes = (
            process_group.all_gather(values.transpose(0, 1)).transpose(0, 1)
            for values in (self.features, self.slopes)
        )
        return replace(
            self,
            features=features,
            slopes=slopes,
            label_features=process_group.all_gather(self.label_features),
            label_slopes=process_group.all_gather(of_labels * self.label_slopes),
        )


@dataclass(frozen=True, slots=True)
class VirtualStep:
    """The virtual step.

    Attributes:
        rate: r, its SGD learning rate.
        alpha: Weight of the label loss.
        look_ahead: Whether the meta loss is computed after the step.
    """

    rate: float
    alpha: float
    look_ahead: bool = True


def last_layer_gradient(layer: LastLayer, weights: Tensor, step: VirtualStep) -> Tensor:
    """Compute dL_meta / dw over the classifier's parameters, in closed form.

    With delta_ik = d l_ik / d logits, h_ik the features, and G, g the gradient of the meta loss
    with respect to the classifier's weight and bias:

        dL_meta / dw_ik = -r * (1 - alpha) / B * delta_ik^T (G h_ik + g)

    Args:
        layer: The classifier and its inputs.
        weights: float [views, batch], the current w_ik.
        step: The virtual step.

    Returns:
        float [views, batch].
    """
    scale = step.rate * (1 - step.alpha) / weights.shape[1]
    weight, bias = layer.weight, layer.bias
    if step.look_ahead:
        weighted = weights[..., None] * layer.slopes
        of_labels = step.rate * step.alpha * layer.label_slopes
        weight = weight - scale * torch.einsum("kbc,kbh->ch", weighted, layer.features)
        weight = weight - of_labels.T @ layer.label_features
        bias = bias - scale * weighted.sum(dim=(0, 1)) - of_labels.sum(dim=0)
    with torch.enable_grad():
        logits = (layer.meta_features @ weight.T + bias).requires_grad_()
        loss = label_loss(logits, layer.meta_labels, layer.class_weights)
        (slope,) = torch.autograd.grad(loss, logits)
    moved = layer.features @ (slope.T @ layer.meta_features).T + slope.sum(dim=0)
    return -scale * (layer.slopes * moved).sum(dim=-1)


def exact_gradient(
    model: nn.Module,
    losses: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
    meta_loss: Callable[[dict[str, Tensor]], Tensor],
    weights: Tensor,
    step: VirtualStep,
) -> Tensor:
    """Compute dL_meta / dw over all trainable parameters, by a second backward pass.

    Args:
        model: The student; its gradients are not changed.
        losses: From parameters to the distances [views, batch] and the rest of the loss, a scalar:
            all terms without w_ik, the weighted label loss included. Both of this process's share.
        meta_loss: From parameters to the scalar loss on the meta batch.
        weights: float [views, batch], the current w_ik.
        step: The virtual step.

    Returns:
        float [views, batch].
    """
    parameters: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    leaves = list(parameters.values())
    weights = weights.detach().requires_grad_()
    distances, rest = losses(parameters)
    total = (1 - step.alpha) * (weights * distances).sum(dim=0).mean() + rest
    slopes = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    at = parameters
    if step.look_ahead:
        moved = (
            (p - step.rate * process_group.all_reduce(s.detach().clone())).detach().requires_grad_()
            for p, s in zip(leaves, slopes, strict=True)
        )
        at = dict(zip(parameters, moved, strict=True))
    meta_slopes = torch.autograd.grad(meta_loss(at), list(at.values()), materialize_grads=True)
    inner = torch.stack([(s * m).sum() for s, m in zip(slopes, meta_slopes, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(inner, weights)
    return -step.rate * gradient
