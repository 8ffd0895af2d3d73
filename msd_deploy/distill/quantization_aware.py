"""Quantization-aware training: a model computes as its int8 exports will, and learns around it.

In training and in validation, weights and the activations between layers are rounded to the values
that int8 has; gradients pass the rounding as if it were not there (the straight-through estimator,
Bengio et al. 2013; Jacob et al. 2018 for networks of integers). What is saved is a float model as
any other, but its weights are the rounded ones: an export in int8 finds them where its own steps
are, and what it computes is what was learned.

The scheme is the coarsest of our targets', so that it holds for all of them. Weights: signed,
symmetric, per output channel, so that BatchNorm's scale, which exports fold in, changes nothing;
7 bits, and 8 of depthwise convolutions, with the steps of ONNX Runtime's quantizer
(`msd_export.onnx.static_int8`). Activations: unsigned 8 bits with a zero point, per tensor, at the
inputs and outputs of convolutions and linear layers. Attention's products, norms and residual sums
of the stream stay in float.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from msd_deploy.models.fusion import FusionForClassification

_STEPS = 255
_WEIGHT_LEVELS, _DEPTHWISE_LEVELS = 64, 127
# Of a range, from one batch to the next: what no batch reaches any more is forgotten in some
# hundred of them. Calibration takes the largest of its examples too.
_DECAY = 0.99
_SMALLEST_SCALE = 1e-8


class WeightFakeQuantize(nn.Module):
    """Rounds a weight to w = s_c q, q an integer in -levels..levels, s_c = max |w_c| / levels.

    Args:
        levels: Largest integer.
        per_channel: A scale for each index of the first dimension; else one for all.
    """

    def __init__(self, levels: int, *, per_channel: bool = True) -> None:
        super().__init__()
        self.levels, self.per_channel = levels, per_channel

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weight, of the same shape."""
        own = tuple(range(1, weight.dim())) if self.per_channel else tuple(range(weight.dim()))
        largest = weight.detach().abs().amax(dim=own, keepdim=True)
        scale = (largest / self.levels).clamp(min=_SMALLEST_SCALE)
        rounded = torch.round(weight.detach() / scale) * scale
        return weight + (rounded - weight.detach())


class ActivationFakeQuantize(nn.Module):
    """Rounds a tensor to 256 values between the least and the largest seen of late, 0 among them.

    The range grows at once and shrinks slowly. Gradients of values beyond it are 0; in training
    there are none.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values; in training the range follows them."""
        if self.training:
            with torch.no_grad():
                least, largest = torch.aminmax(values.detach())
                self.low.copy_(torch.minimum(self.low * _DECAY, least))
                self.high.copy_(torch.maximum(self.high * _DECAY, largest))
        scale = ((self.high - self.low) / _STEPS).clamp(min=_SMALLEST_SCALE)
        zero_point = torch.round(-self.low / scale).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, _STEPS)


@contextmanager
def fake_quantized(model: FusionForClassification) -> Iterator[None]:
    """Have a model compute as int8 does; afterwards it is a float model again, of rounded weights.

    Its BatchNorm is frozen meanwhile: exports fold the averages that it has.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    learning = [p for norm in norms for p in norm.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    layers = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    ends = _ends(model)
    handles = [handle for layer in layers for handle in _round_layer(layer, ends.get(layer, layer))]
    words = model.word_embeddings
    rounding = WeightFakeQuantize(_WEIGHT_LEVELS, per_channel=False)
    parametrize.register_parametrization(words, "weight", rounding)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in [*layers, words]:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for layer in layers:
            del layer.rounding
        for parameter in learning:
            parameter.requires_grad_(True)


def _round_layer(layer: nn.Conv2d | nn.Linear, end: nn.Module | None) -> list[RemovableHandle]:
    """Round a layer's weight, its input, and what leaves `end`, if the next layer does not."""
    is_depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    levels = _DEPTHWISE_LEVELS if is_depthwise else _WEIGHT_LEVELS
    parametrize.register_parametrization(layer, "weight", WeightFakeQuantize(levels))
    layer.rounding = nn.ModuleList(ActivationFakeQuantize() for _ in ("input", "output"))
    before, behind = layer.rounding
    handles = [layer.register_forward_pre_hook(lambda _, inputs: (before(inputs[0]),))]
    if end is not None:
        handles.append(end.register_forward_hook(lambda _, inputs, output: behind(output)))
    return handles


def _ends(model: nn.Module) -> dict[nn.Module, nn.Module | None]:
    """Return, for each convolution with a BatchNorm, the module whose output is rounded.

    That is the Sequential that ends with the norm: the norm itself may be replaced by one that
    several processes share. None where more follows: the next layer rounds what it reads.
    """
    ends: dict[nn.Module, nn.Module | None] = {}
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for index, (before, norm) in enumerate(pairwise(module)):
                if isinstance(before, nn.Conv2d) and isinstance(norm, _BatchNorm):
                    ends[before] = module if index == len(module) - 2 else None
    return ends
