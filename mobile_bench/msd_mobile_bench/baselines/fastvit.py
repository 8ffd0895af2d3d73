"""FastViT's image tower as an app runs it, for MobileCLIP2; transformers has none of its own.

The published tower trains with several branches a layer, and is then folded into one convolution
each (Vasu et al. 2023, "FastViT", section 3.2; "MobileOne"). Built here is the folded form, with
every layer scale in the weights before it: convolutions, squeeze-and-excitation (Hu et al. 2018)
and, in the last stage, attention. Weights are random: they can be compared with no checkpoint.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling

from msd_mobile_bench.baselines.architectures import FastVitSizes

_WIDEST_KERNEL = 7
_PATCH_REDUCTION, _FINAL_REDUCTION = 4, 16


class FastVit(nn.Module):
    """The tower, in place of a CLIP model's `vision_model`.

    Args:
        sizes: Its sizes.
    """

    def __init__(self, sizes: FastVitSizes) -> None:
        super().__init__()
        width, last = sizes.widths[0], len(sizes.widths) - 1
        layers: list[nn.Module] = [
            *(nn.Conv2d(3, width, 3, 2, 1), nn.GELU()),
            *(_depthwise(width, width, 3, stride=2), nn.GELU()),
            *(nn.Conv2d(width, width, 1), nn.GELU()),
        ]
        for stage, outputs in enumerate(sizes.widths):
            if stage:
                layers += _downsampling(width, outputs, is_excited=sizes.excited[stage])
            width = outputs
            if stage == last:
                layers.append(_depthwise(width, width, _WIDEST_KERNEL))  # positions
            for _ in range(sizes.depths[stage]):
                is_attended = stage == last
                layers += [
                    _Attention(width, sizes.head_width)
                    if is_attended
                    else _depthwise(width, width, 3),
                    _FeedForward(width, sizes.expansion * width),
                ]
        layers += [
            _depthwise(width, sizes.features, 3),
            _SqueezeExcitation(sizes.features, sizes.features // _FINAL_REDUCTION),
            nn.GELU(),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Return pooled features [images, features] of normalised pixels [images, 3, h, w]."""
        return BaseModelOutputWithPooling(pooler_output=self.layers(pixel_values).mean((2, 3)))


def _depthwise(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=inputs)


def _downsampling(inputs: int, outputs: int, *, is_excited: bool) -> list[nn.Module]:
    """Return the layers that a stage begins with."""
    excitation = [_SqueezeExcitation(outputs, outputs // _PATCH_REDUCTION)] if is_excited else []
    return [
        _depthwise(inputs, outputs, _WIDEST_KERNEL, stride=2),
        *excitation,
        nn.GELU(),
        nn.Conv2d(outputs, outputs, 1),
        nn.GELU(),
    ]


class _SqueezeExcitation(nn.Module):
    """Scales channels by what all positions together say (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape, [images, channels, h, w]."""
        mean = values.mean((2, 3), keepdim=True)
        return values * torch.sigmoid(self.excite(functional.relu(self.squeeze(mean))))


class _FeedForward(nn.Module):
    """A wide depthwise convolution and two layers over channels, added to their input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mix = _depthwise(channels, channels, _WIDEST_KERNEL)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.contract = nn.Conv2d(hidden, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape, [images, channels, h, w]."""
        changed = self.contract(functional.gelu(self.expand(self.mix(values))))
        return cast(Tensor, values + changed)


class _Attention(nn.Module):
    """Attention of all positions, after BatchNorm, added to its input."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = nn.BatchNorm2d(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape, [images, channels, h, w]."""
        tokens = self.norm(values).flatten(2).transpose(1, 2)
        parts = self.query_key_value(tokens).unflatten(2, (3, -1, self.head_width))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        projected = self.project(attended.transpose(1, 2).flatten(2))
        return cast(Tensor, values + projected.transpose(1, 2).unflatten(2, values.shape[2:]))
