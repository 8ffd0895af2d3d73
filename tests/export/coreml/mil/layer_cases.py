"""Cases of layers, of attention, and of what lies between float and integers."""

import numpy as np
import torch
import torch.nn.functional as F

from msd_deploy.quiet import quiet_python
from tests.export.coreml.mil.cases import (
    DEPTHWISE,
    EVEN_KERNEL,
    KERNEL,
    KEY,
    LINES,
    POSITIVE,
    QUERY,
    SCORES,
    VALUE,
    VECTOR4,
    VECTOR8,
    WEIGHT,
    Array,
    Case,
    X,
    binary,
    by_torch,
    operation,
)

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813


def softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def attention(q: Array, k: Array, v: Array) -> Array:
    return softmax(q @ k.swapaxes(-1, -2) / 2.0) @ v


LAYERS = [
    operation(
        "conv valid",
        by_torch(lambda x: F.conv2d(x, torch.from_numpy(KERNEL))),
        weight=KERNEL,
        pad_type="valid",
    ),
    operation(
        "conv same, even kernel, stride 2",
        by_torch(
            lambda x: F.conv2d(F.pad(x, (0, 0, 0, 1)), torch.from_numpy(EVEN_KERNEL), stride=2)
        ),
        weight=EVEN_KERNEL,
        pad_type="same",
        strides=[2, 2],
    ),
    operation(
        "conv same_lower, even kernel, stride 2",
        by_torch(
            lambda x: F.conv2d(F.pad(x, (0, 0, 1, 0)), torch.from_numpy(EVEN_KERNEL), stride=2)
        ),
        weight=EVEN_KERNEL,
        pad_type="same_lower",
        strides=[2, 2],
    ),
    operation(
        "conv custom, uneven, dilated, with bias",
        by_torch(
            lambda x: F.conv2d(
                F.pad(x, (3, 0, 1, 2)),
                torch.from_numpy(KERNEL),
                torch.from_numpy(VECTOR8),
                dilation=2,
            )
        ),
        weight=KERNEL,
        bias=VECTOR8,
        pad_type="custom",
        pad=[1, 2, 3, 0],
        dilations=[2, 2],
    ),
    operation(
        "conv depthwise",
        by_torch(lambda x: F.conv2d(x, torch.from_numpy(DEPTHWISE), padding=1, groups=4)),
        weight=DEPTHWISE,
        pad_type="custom",
        pad=[1, 1, 1, 1],
        groups=4,
    ),
    operation(
        "conv one-dimensional",
        by_torch(lambda x: F.conv1d(x, torch.from_numpy(KERNEL[:, :3, 0]), stride=2)),
        LINES,
        weight=KERNEL[:, :3, 0],
        pad_type="valid",
        strides=[2],
    ),
    operation(
        "avg_pool same counts the padding",
        by_torch(lambda x: F.avg_pool2d(F.pad(x, (0, 0, 0, 1)), 2, 2)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="same",
        exclude_padding_from_average=False,
    ),
    operation(
        "avg_pool same excludes the padding",
        by_torch(lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="same",
        exclude_padding_from_average=True,
    ),
    operation(
        "avg_pool custom",
        by_torch(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        exclude_padding_from_average=True,
    ),
    operation(
        "max_pool custom",
        by_torch(lambda x: F.max_pool2d(x, 3, 2, 1)),
        -POSITIVE,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
    ),
    operation(
        "max_pool valid, rounded up",
        by_torch(lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="valid",
        ceil_mode=True,
    ),
    operation(
        "batch_norm",
        lambda x: (
            (x - VECTOR4[:, None, None])
            / np.sqrt(VECTOR4[::-1, None, None] + 1e-3)
            * VECTOR8[:4, None, None]
            + VECTOR8[4:, None, None]
        ),
        mean=VECTOR4,
        variance=VECTOR4[::-1].copy(),
        gamma=VECTOR8[:4],
        beta=VECTOR8[4:],
        epsilon=1e-3,
    ),
    operation(
        "layer_norm of the last axis",
        by_torch(lambda x: F.layer_norm(x, (8,), torch.from_numpy(VECTOR8), eps=1e-3)),
        LINES,
        axes=[-1],
        gamma=VECTOR8,
        epsilon=1e-3,
    ),
    operation(
        "layer_norm of the channels",
        lambda x: (
            (x - x.mean(1, keepdims=True))
            / np.sqrt(x.var(1, keepdims=True) + 1e-3)
            * VECTOR8[:4, None, None]
            + VECTOR4[:, None, None]
        ),
        axes=[1],
        gamma=VECTOR8[:4],
        beta=VECTOR4,
        epsilon=1e-3,
    ),
    operation(
        "linear", lambda x: x @ WEIGHT.T + VECTOR8[:5], LINES, weight=WEIGHT, bias=VECTOR8[:5]
    ),
    binary("matmul", np.matmul, LINES, LINES.swapaxes(1, 2).copy()),
    binary(
        "matmul transposed",
        lambda x, y: x.swapaxes(1, 2) @ y.swapaxes(1, 2),
        LINES.swapaxes(1, 2).copy(),
        LINES,
        transpose_x=True,
        transpose_y=True,
    ),
    Case(
        "einsum",
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        (X, X.transpose(0, 3, 2, 1).copy()),
        lambda x, y: np.einsum("nchw,nwhu->nchu", x, y),
    ),
    Case(
        "scaled_dot_product_attention",
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
        (QUERY, KEY, VALUE),
        attention,
        "iOS18",
    ),
    Case(
        "scaled_dot_product_attention with a float mask",
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=SCORES),
        (QUERY, KEY, VALUE),
        by_torch(
            lambda q, k, v: F.scaled_dot_product_attention(
                q, k, v, attn_mask=torch.from_numpy(SCORES)
            )
        ),
        "iOS18",
    ),
    Case(
        "scaled_dot_product_attention with a boolean mask",
        lambda q, k, v: mb.scaled_dot_product_attention(
            query=q, key=k, value=v, attn_mask=SCORES > -0.5
        ),
        (QUERY, KEY, VALUE),
        by_torch(
            lambda q, k, v: F.scaled_dot_product_attention(
                q, k, v, attn_mask=torch.from_numpy(SCORES > -0.5)
            )
        ),
        "iOS18",
    ),
    Case(
        "upsample_bilinear of half pixels",
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False
        ),
        (X,),
        by_torch(lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear")),
    ),
    Case(
        "upsample_bilinear of corners",
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=1.5, scale_factor_width=0.5, align_corners=True
        ),
        (X,),
        by_torch(lambda x: F.interpolate(x, (7, 3), mode="bilinear", align_corners=True)),
    ),
]

SCALE, SCALES = np.float32(0.03), np.array([0.02, 0.03, 0.05, 0.5], np.float32)
ZEROS = np.array([0, -5, 100, -128], np.int8)


def _through_int8(x: Array, scale: Array, zero: Array) -> Array:
    return scale * (np.clip(np.round(x / scale) + zero, -128, 127) - zero)


def _per_channel(array: Array) -> Array:
    return array.astype(np.float32)[:, None, None]


INTEGERS = [
    Case(
        "quantize symmetrically",
        lambda x: mb.cast(x=mb.quantize(input=x, scale=SCALE, output_dtype="int8"), dtype="fp32"),
        (2 * X,),
        lambda x: np.clip(np.round(x / SCALE), -128, 127),
        "iOS17",
    ),
    Case(
        "quantize to unsigned",
        lambda x: mb.cast(
            x=mb.quantize(input=x, scale=SCALE, zero_point=np.uint8(90), output_dtype="uint8"),
            dtype="fp32",
        ),
        (2 * X,),
        lambda x: np.clip(np.round(x / SCALE) + 90, 0, 255),
        "iOS17",
    ),
    Case(
        "dequantize",
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=SCALE, zero_point=np.int8(-7), output_dtype="int8"),
            scale=SCALE,
            zero_point=np.int8(-7),
        ),
        (X,),
        lambda x: _through_int8(x, SCALE, np.float32(-7)),
        "iOS17",
    ),
    Case(
        "dequantize per channel",
        lambda x: mb.dequantize(
            input=mb.quantize(
                input=x, scale=SCALES, zero_point=ZEROS, axis=-3, output_dtype="int8"
            ),
            scale=SCALES,
            zero_point=ZEROS,
            axis=1,
        ),
        (X,),
        lambda x: _through_int8(x, _per_channel(SCALES), _per_channel(ZEROS)),
        "iOS17",
    ),
]
