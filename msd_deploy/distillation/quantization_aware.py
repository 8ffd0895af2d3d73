"""Quantization-aware training (QAT) for int8 exports, by fake quantization.

In training and validation, weights and activations between layers are rounded to int8 values, with
straight-through gradients (Bengio et al. 2013; Jacob et al. 2018). The saved model is a float model
with the rounded weights, which an int8 export on the same grid does not change.

The scheme is the coarsest of all targets, and so holds for each. Weights: signed, symmetric, per
output channel, so that folding BatchNorm's scale into them on export changes nothing; 7 bits, and 8
for depthwise convolutions, on the grid of ONNX Runtime's quantizer (`msd_export.onnx.static_int8`).
Activations: unsigned 8 bits with a zero point, per tensor, at inputs and outputs of convolutions
and linear layers. Attention products, norms and residual sums of the stream stay in float.
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
# Decay of a range per batch: an outlier is forgotten after some hundred batches. The range is a
# maximum rather than an average, as in the calibration of exports.
_DECAY = 0.99
_SMALLEST_SCALE = 1e-8


class WeightFakeQuantize(nn.Module):
    """Rounds a weight to w = s_c q, q an integer in -levels..levels, s_c = max |w_c| / levels.

    Args:
        levels: Largest integer.
        per_channel: Whether each index of the first dimension has its own scale.
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
    """Rounds a tensor to 256 values, including 0, of a running range.

    The range grows immediately and shrinks slowly. Values outside it have no gradient, but none
    are outside in training.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values; updates the range in training."""
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
    """Fake-quantize a model within the context; afterwards it is a float model of rounded weights.

    BatchNorm is frozen within it, since exports fold its averages.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    learning = [p for norm in norms for p in norm.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    layers = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    ends = _ends(model)
    handles = [
        handle for layer in layers for handle in _fake_quantize_layer(layer, ends.get(layer, layer))
    ]
    words = model.word_embeddings
    per_tensor = WeightFakeQuantize(_WEIGHT_LEVELS, per_channel=False)
    parametrize.register_parametrization(words, "weight", per_tensor)
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


def _fake_quantize_layer(
    layer: nn.Conv2d | nn.Linear, end: nn.Module | None
) -> list[RemovableHandle]:
    """Fake-quantize a layer's weight and input, and the output of `end` unless it is None."""
    is_depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    levels = _DEPTHWISE_LEVELS if is_depthwise else _WEIGHT_LEVELS
    parametrize.register_parametrization(layer, "weight", WeightFakeQuantize(levels))
    layer.rounding = nn.ModuleList(ActivationFakeQuantize() for _ in ("input", "output"))
    on_input, on_output = layer.rounding
    handles = [layer.register_forward_pre_hook(lambda _, inputs: (on_input(inputs[0]),))]
    if end is not None:
        handles.append(end.register_forward_hook(lambda _, inputs, output: on_output(output)))
    return handles


def _ends(model: nn.Module) -> dict[nn.Module, nn.Module | None]:
    """Return, for each convolution with a BatchNorm, the module whose output is fake-quantized.

    That is the Sequential that ends with the norm, since the norm itself may be replaced by a
    SyncBatchNorm. None where other modules follow: the next layer's input is fake-quantized.
    """
    ends: dict[nn.Module, nn.Module | None] = {}
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            for index, (before, norm) in enumerate(pairwise(module)):
                if isinstance(before, nn.Conv2d) and isinstance(norm, _BatchNorm):
                    ends[before] = module if index == len(module) - 2 else None
    return ends
