"""Operations of MIL with weights, windows or scales, in torch: layers, norms, attention, int8.

Parameters have MIL's names and meanings (coremltools, converters/mil/mil/ops/defs). Tensors are
float32, int64 or bool; attributes are plain Python values.
"""

import math
from collections.abc import Sequence
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

Pads = list[tuple[int, int]]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def window_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    *,
    pad_type: str,
    pad: Sequence[int],
) -> Pads:
    """Return how many elements stand before and after each spatial dimension.

    "same" keeps ceil(size / stride) outputs and gives the odd element to the end, "same_lower" to
    the beginning, as TensorFlow does.

    Args:
        sizes: Spatial sizes of the input.
        kernel: Extent of the window, dilation included.
        strides: Steps of the window.
        pad_type: valid, same, same_lower or custom.
        pad: Before and after of each dimension in turn; read when custom.
    """
    if pad_type == "custom":
        return list(zip(pad[::2], pad[1::2], strict=True))
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    totals = [
        max(0, (math.ceil(size / step) - 1) * step + extent - size)
        for size, extent, step in zip(sizes, kernel, strides, strict=True)
    ]
    lower = pad_type == "same_lower"
    return [
        (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)
        for total in totals
    ]


def _pad_spatial(x: Tensor, pads: Pads, value: float) -> Tensor:
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve [batch, channels, *sizes] over 1 to 3 spatial dimensions."""
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    pads = window_pads(x.shape[2:], kernel, strides, pad_type=pad_type, pad=pad)
    function = _CONVOLUTIONS[len(strides)]
    if all(before == after for before, after in pads):
        return function(x, weight, bias, strides, [before for before, _ in pads], dilations, groups)
    return function(_pad_spatial(x, pads, 0.0), weight, bias, strides, 0, dilations, groups)


def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int],
    ceil_mode: bool,
    exclude_padding_from_average: bool,
) -> Tensor:
    """Average windows of [batch, channels, *sizes]."""
    pads = window_pads(x.shape[2:], kernel_sizes, strides, pad_type=pad_type, pad=pad)
    pool = _AVERAGE_POOLS[len(strides)]
    if all(before == after for before, after in pads):
        padding = [before for before, _ in pads]
        return pool(x, kernel_sizes, strides, padding, ceil_mode, not exclude_padding_from_average)
    pooled = pool(_pad_spatial(x, pads, 0.0), kernel_sizes, strides, 0, ceil_mode)
    if not exclude_padding_from_average:
        return pooled
    counted = _pad_spatial(torch.ones_like(x[:1, :1]), pads, 0.0)
    return pooled / pool(counted, kernel_sizes, strides, 0, ceil_mode)


def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int],
    pad_type: str,
    pad: list[int],
    ceil_mode: bool,
) -> Tensor:
    """Take the maximum of windows of [batch, channels, *sizes]; padding never wins."""
    pads = window_pads(x.shape[2:], kernel_sizes, strides, pad_type=pad_type, pad=pad)
    pool = _MAXIMUM_POOLS[len(strides)]
    padded = _pad_spatial(x, pads, -math.inf)
    return pool(padded, kernel_sizes, strides, 0, 1, ceil_mode)


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float,
    scale_factor_width: float,
    align_corners: bool,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Resize [batch, channels, height, width] by factors; sizes are rounded down.

    Raises:
        ValueError: Neither corners nor centres of pixels are aligned: PyTorch knows no such way.
    """
    if not align_corners and half_pixel_centers is False:
        raise ValueError("neither align_corners nor half_pixel_centers is set")
    height, width = x.shape[2:]
    size = (int(height * scale_factor_height), int(width * scale_factor_width))
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    """Normalise the channels of [batch, channels, *sizes] with stored statistics."""
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def layer_norm(
    x: Tensor,
    epsilon: float,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:
    """Normalise over the given axes; gamma and beta have the sizes of those axes."""
    normalised = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    if normalised == list(range(x.ndim - len(normalised), x.ndim)):
        return F.layer_norm(x, [x.shape[axis] for axis in normalised], gamma, beta, epsilon)
    shape = [size if axis in normalised else 1 for axis, size in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, normalised, correction=0, keepdim=True)
    result = (x - mean) / torch.sqrt(variance + epsilon)
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight^T + bias; weight is [outputs, inputs]."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
    """Multiply matrices, each transposed before where asked."""
    left = x.transpose(-1, -2) if transpose_x else x
    return torch.matmul(left, y.transpose(-1, -2) if transpose_y else y)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Sum products by an equation."""
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """Attend by the documented formula, softmax(query key^T / sqrt(width) + mask) value.

    Not torch's fused kernel: that one turns a row whose keys are all masked into zeros, Core ML's
    formula makes it NaN, and a model that depends on this is to be caught.
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Return clip(round(input / scale) + zero_point), halves rounded to even."""
    scale, zero_point = _along(scale, input, axis), _along(zero_point, input, axis)
    shifted = torch.round(input / scale) + (0 if zero_point is None else zero_point)
    least, most = (0, 255) if output_dtype == "uint8" else (-128, 127)
    return shifted.clamp(least, most).long()


def dequantize(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Return scale * (input - zero_point)."""
    offset = _along(zero_point, input, axis)
    return _along(scale, input, axis) * (input if offset is None else input - offset)


@overload
def _along(parameter: Tensor, x: Tensor, axis: int | None) -> Tensor: ...
@overload
def _along(parameter: None, x: Tensor, axis: int | None) -> None: ...
def _along(parameter: Tensor | None, x: Tensor, axis: int | None) -> Tensor | None:
    """Shape one number per channel so that it meets the channels of an axis."""
    if parameter is None or axis is None:
        return parameter
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
