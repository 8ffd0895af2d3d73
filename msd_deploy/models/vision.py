"""Vision encoders, from normalised pixels to a sequence of tokens.

Three kinds: a convolutional stem for small images, EfficientNet-Lite (designed for integer
inference on phones), and any vision backbone of transformers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel

from msd_deploy.errors import ConfigError


class VisionEncoder(Protocol):
    """A function from pixels to tokens."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode normalised float32 pixels [images, 3, h, w] as tokens [images, tokens, width]."""
        ...


class ConvStem(nn.Module):
    """Convolutions of stride 2 with BatchNorm and ReLU.

    Args:
        channels: Output channels of each convolution.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip([3, *channels[:-1]], channels, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels; see `VisionEncoder`."""
        return _as_tokens(self.layers(pixels))


# Per variant: width and depth multipliers (Liu et al. 2020, EfficientNet-Lite; from EfficientNet,
# Tan & Le 2019, without squeeze-and-excitation and with ReLU6).
EFFICIENTNET_LITE = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
# Expansion, output channels, repeats, stride, kernel (EfficientNet-B0, Tan & Le 2019, table 1).
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_BATCH_NORM_EPS = 1e-3


class _SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes to the bottom and right."""

    def forward(self, pixels: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in pixels.shape[2:]
        ]
        top, left = total[0] // 2, total[1] // 2
        padded = functional.pad(pixels, (left, total[1] - left, top, total[0] - top))
        return functional.conv2d(
            padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def _conv_unit(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu6: bool = True
) -> nn.Sequential:
    unit = nn.Sequential(
        _SamePadConv(inputs, outputs, kernel, stride=stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=_BATCH_NORM_EPS, momentum=0.01),
    )
    if relu6:
        unit.append(nn.ReLU6())
    return unit


class _InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = _conv_unit(inputs, middle, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_unit(middle, middle, kernel, stride=stride, groups=middle)
        self.project = _conv_unit(middle, outputs, 1, relu6=False)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        result = self.project(self.depthwise(self.expand(features)))
        return features + result if self.is_residual else cast(Tensor, result)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier; tokens are the last feature map, at stride 32.

    Args:
        variant: lite0 to lite4.

    Raises:
        ConfigError: The variant is unknown.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        if variant not in EFFICIENTNET_LITE:
            raise ConfigError(
                f"unknown EfficientNet-Lite {variant!r}",
                fix=f"Use one of {', '.join(EFFICIENTNET_LITE)}",
            )
        width_factor, depth_factor = EFFICIENTNET_LITE[variant]
        self.stem = _conv_unit(3, _STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        inputs = _STEM_CHANNELS
        for index, (expansion, channels, repeats, stride, kernel) in enumerate(_STAGES):
            outputs = _rounded_channels(channels * width_factor)
            is_fixed = index in (0, len(_STAGES) - 1)  # Lite keeps the depth of these stages
            count = repeats if is_fixed else -int(-repeats * depth_factor // 1)
            for repeat in range(count):
                blocks.append(
                    _InvertedResidual(
                        inputs,
                        outputs,
                        expansion=expansion,
                        stride=stride if repeat == 0 else 1,
                        kernel=kernel,
                    )
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_unit(inputs, _HEAD_CHANNELS, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels; see `VisionEncoder`."""
        if self.training:  # depthwise convolutions with gradients are 1.6 times as fast on CPU
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return _as_tokens(self.head(self.blocks(self.stem(pixels))))


def _rounded_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class TransformersBackbone(nn.Module):
    """Any vision model of transformers, with random weights.

    Args:
        config: The model's configuration as JSON, including "model_type".

    Raises:
        ConfigError: transformers cannot build the model.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        settings: dict[str, Any] = dict(config)
        try:
            self.backbone = AutoModel.from_config(
                AutoConfig.for_model(**settings), trust_remote_code=False
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"transformers cannot build the vision model: {error}") from error

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels; see `VisionEncoder`."""
        hidden = self.backbone(pixel_values=pixels).last_hidden_state
        return _as_tokens(hidden) if hidden.dim() == 4 else cast(Tensor, hidden)


def recompute_activations(module: object) -> None:
    """Enable activation checkpointing of a transformers model, where it is supported."""
    if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
        # Reentrant checkpointing needs an input with a gradient, which pixels and ids lack.
        # Newer releases of transformers deprecate the older name.
        new = getattr(module, "activation_checkpointing_enable", None)
        (new or module.gradient_checkpointing_enable)({"use_reentrant": False})


def _as_tokens(feature_map: Tensor) -> Tensor:
    """Reshape [images, channels, h, w] to [images, h * w, channels]."""
    return feature_map.flatten(2).transpose(1, 2)


def build_vision_encoder(
    config: Mapping[str, object],
) -> ConvStem | EfficientNetLite | TransformersBackbone:
    """Build the vision encoder of a FusionConfig.

    Args:
        config: {"kind": "conv_stem", "channels": [...]}, {"kind": "efficientnet_lite", "variant":
            "lite0"} or {"kind": "transformers", "config": {"model_type": ...}}.

    Raises:
        ConfigError: The kind or a value is unknown.
    """
    match config:
        case {"kind": "conv_stem", "channels": [*channels]} if channels:
            return ConvStem([int(str(channel)) for channel in channels])
        case {"kind": "efficientnet_lite", "variant": str(variant)}:
            return EfficientNetLite(variant)
        case {"kind": "transformers", "config": dict(backbone)}:
            return TransformersBackbone(backbone)
    raise ConfigError(
        f"unknown vision encoder {dict(config)!r}",
        fix="Use conv_stem, efficientnet_lite or transformers",
    )


@torch.no_grad()
def token_shape(encoder: VisionEncoder, size: tuple[int, int]) -> tuple[int, int]:
    """Return number and width of an encoder's tokens for an image of a height and width.

    Raises:
        ConfigError: The encoder does not support this size.
    """
    module = cast(nn.Module, encoder)
    was_training = module.training
    module.eval()
    try:
        tokens = encoder(torch.zeros(1, 3, *size))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the vision encoder does not support {size[0]} x {size[1]} pixels ({reason})",
            fix="Set --image-size to the size it was trained with",
        ) from error
    module.train(was_training)
    return tokens.shape[1], tokens.shape[2]
