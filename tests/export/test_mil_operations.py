"""Every operation type of the MIL evaluator against numpy or PyTorch, through a saved package."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from msd_export.coreml_package import quiet_coremltools
from msd_export.mil_evaluator import MilEvaluator
from msd_export.mil_operations import OPERATIONS
from msd_export.mil_program import read_program

with quiet_coremltools():
    from coremltools.converters.mil import Builder as mb  # noqa: N813

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

_RNG = np.random.default_rng(7)


def _normal(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


X, Y = _normal(1, 4, 5, 6), _normal(1, 4, 5, 6)
POSITIVE = np.abs(X) + 0.1
LINES = _normal(2, 3, 8)
IDS = np.array([[2, 0, 1], [1, 1, 3]], np.int32)
KERNEL, DEPTHWISE, EVEN_KERNEL = _normal(8, 4, 3, 3), _normal(8, 1, 3, 3), _normal(8, 4, 2, 2)
VECTOR4, VECTOR8 = np.abs(_normal(4)) + 0.5, _normal(8)
WEIGHT = _normal(5, 8)
QUERY, KEY, VALUE = _normal(1, 2, 5, 4), _normal(1, 2, 7, 4), _normal(1, 2, 7, 3)
SCORES = _normal(5, 7)


@dataclass(frozen=True)
class Case:
    """An operation: its type is the name's first word."""

    name: str
    build: Function
    inputs: tuple[Array, ...]
    expected: Function
    target: str = "iOS16"

    @property
    def op_type(self) -> str:
        return self.name.split()[0]


def _torch(function: Function) -> Function:
    return lambda *arrays: function(*(torch.from_numpy(array) for array in arrays)).numpy()


def _op(name: str, expected: Function, x: Array = X, **attributes: Any) -> Case:
    """Build `name(x=x, **attributes)`."""
    return Case(name, lambda x: getattr(mb, name.split()[0])(x=x, **attributes), (x,), expected)


def _binary(name: str, expected: Function, x: Array = X, y: Array = Y, **attributes: Any) -> Case:
    def build(x: Any, y: Any) -> Any:
        return getattr(mb, name.split()[0])(x=x, y=y, **attributes)

    return Case(name, build, (x, y), expected)


def _comparison(name: str, expected: Function) -> Case:
    def build(x: Any, y: Any) -> Any:
        return mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32")

    return Case(name, build, (np.round(X), np.round(Y)), expected)


def _logical(name: str, expected: Function) -> Case:
    def build(x: Any, y: Any) -> Any:
        x, y = mb.greater(x=x, y=0.0), mb.greater(x=y, y=0.0)
        return mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32")

    return Case(name, build, (X, Y), lambda x, y: expected(x > 0, y > 0))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def _attention(q: Array, k: Array, v: Array) -> Array:
    return _softmax(q @ k.swapaxes(-1, -2) / 2.0) @ v


_erf = np.vectorize(math.erf)

ELEMENTWISE = [
    _op("abs", np.abs),
    _op("ceil", np.ceil),
    _op("clip", lambda x: np.clip(x, -0.5, 0.75), alpha=-0.5, beta=0.75),
    _op("cos", np.cos),
    _op("elu", lambda x: np.where(x > 0, x, 0.3 * (np.exp(x) - 1)), alpha=0.3),
    _op("erf", _erf),
    _op("exp", np.exp),
    _op("exp2", np.exp2),
    _op("floor", np.floor),
    _op("gelu exact", lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), mode="EXACT"),
    _op(
        "gelu tanh",
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        mode="TANH_APPROXIMATION",
    ),
    _op("gelu sigmoid", lambda x: x * _sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    _op("identity", lambda x: x),
    _op("inverse", lambda x: 1 / (x + 0.25), POSITIVE, epsilon=0.25),
    _op("leaky_relu", lambda x: np.where(x > 0, x, 0.1 * x), alpha=0.1),
    _op("log", lambda x: np.log(x + 0.25), POSITIVE, epsilon=0.25),
    _op("relu", lambda x: np.maximum(x, 0)),
    _op("relu6", lambda x: np.clip(x, 0, 6), 5 * X),
    _op("round", np.round),
    _op("rsqrt", lambda x: 1 / np.sqrt(x + 0.25), POSITIVE, epsilon=0.25),
    _op("sigmoid", _sigmoid),
    _op("sigmoid_hard", lambda x: np.clip(0.3 * x + 0.4, 0, 1), alpha=0.3, beta=0.4),
    _op("sign", np.sign),
    _op("silu", lambda x: x * _sigmoid(x)),
    _op("sin", np.sin),
    _op("softmax", lambda x: _softmax(x, 1), axis=1),
    _op("softplus", lambda x: np.log1p(np.exp(x))),
    _op("sqrt", np.sqrt, POSITIVE),
    _op("square", np.square),
    _op("tanh", np.tanh),
    _op("cast float to int", np.trunc, 3 * X, dtype="int32"),
    _op("cast int to float", lambda x: x, IDS, dtype="fp32"),
    _op("cumsum", lambda x: np.cumsum(x, 2), axis=2, exclusive=False, reverse=False),
    _op(
        "cumsum reversed",
        lambda x: np.flip(np.cumsum(np.flip(x, 2), 2), 2) - x,
        axis=2,
        exclusive=True,
        reverse=True,
    ),
    _binary("add", np.add),
    _binary("add broadcast", np.add, y=Y[:, :, :1]),
    _binary("floor_div", np.floor_divide),
    _binary("maximum", np.maximum),
    _binary("minimum", np.minimum),
    _binary("mod", np.mod),
    _binary("mul", np.multiply),
    _binary("pow", np.power, x=POSITIVE),
    _binary("real_div", np.divide),
    _binary("sub", np.subtract),
    _op("mul constant", lambda x: x * 2.5, y=2.5),
    _op("maximum constant", lambda x: np.maximum(x, 0.5), y=0.5),
    _comparison("equal", np.equal),
    _comparison("greater", np.greater),
    _comparison("greater_equal", np.greater_equal),
    _comparison("less", np.less),
    _comparison("less_equal", np.less_equal),
    _comparison("not_equal", np.not_equal),
    _logical("logical_and", np.logical_and),
    _logical("logical_or", np.logical_or),
    _logical("logical_xor", np.logical_xor),
    Case(
        "logical_not",
        lambda x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=0.0)), dtype="fp32"),
        (X,),
        lambda x: ~(x > 0),
    ),
    Case(
        "select",
        lambda x, y: mb.select(cond=mb.greater(x=x, y=0.0), a=x, b=y),
        (X, Y),
        lambda x, y: np.where(x > 0, x, y),
    ),
]

REDUCTIONS = [
    _op("reduce_argmax", lambda x: x.argmax(2), axis=2, keep_dims=False),
    _op("reduce_l2_norm", lambda x: np.sqrt((x**2).sum(1)), axes=[1], keep_dims=False),
    _op("reduce_max", lambda x: x.max((1, 3)), axes=[1, 3], keep_dims=False),
    _op("reduce_mean", lambda x: x.mean((2, 3), keepdims=True), axes=[2, 3], keep_dims=True),
    _op("reduce_mean of all", lambda x: x.mean(keepdims=True), keep_dims=True),
    _op("reduce_min", lambda x: x.min(-1), axes=[-1], keep_dims=False),
    _op("reduce_sum", lambda x: x.sum(1), axes=[1], keep_dims=False),
]

LAYERS = [
    _op(
        "conv valid",
        _torch(lambda x: F.conv2d(x, torch.from_numpy(KERNEL))),
        weight=KERNEL,
        pad_type="valid",
    ),
    _op(
        "conv same, even kernel, stride 2",
        _torch(lambda x: F.conv2d(F.pad(x, (0, 0, 0, 1)), torch.from_numpy(EVEN_KERNEL), stride=2)),
        weight=EVEN_KERNEL,
        pad_type="same",
        strides=[2, 2],
    ),
    _op(
        "conv same_lower, even kernel, stride 2",
        _torch(lambda x: F.conv2d(F.pad(x, (0, 0, 1, 0)), torch.from_numpy(EVEN_KERNEL), stride=2)),
        weight=EVEN_KERNEL,
        pad_type="same_lower",
        strides=[2, 2],
    ),
    _op(
        "conv custom, uneven, dilated, with bias",
        _torch(
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
    _op(
        "conv depthwise",
        _torch(lambda x: F.conv2d(x, torch.from_numpy(DEPTHWISE), padding=1, groups=4)),
        weight=DEPTHWISE,
        pad_type="custom",
        pad=[1, 1, 1, 1],
        groups=4,
    ),
    _op(
        "conv one-dimensional",
        _torch(lambda x: F.conv1d(x, torch.from_numpy(KERNEL[:, :3, 0]), stride=2)),
        LINES,
        weight=KERNEL[:, :3, 0],
        pad_type="valid",
        strides=[2],
    ),
    _op(
        "avg_pool same counts the padding",
        _torch(lambda x: F.avg_pool2d(F.pad(x, (0, 0, 0, 1)), 2, 2)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="same",
        exclude_padding_from_average=False,
    ),
    _op(
        "avg_pool same excludes the padding",
        _torch(lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="same",
        exclude_padding_from_average=True,
    ),
    _op(
        "avg_pool custom",
        _torch(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        exclude_padding_from_average=True,
    ),
    _op(
        "max_pool custom",
        _torch(lambda x: F.max_pool2d(x, 3, 2, 1)),
        -POSITIVE,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
    ),
    _op(
        "max_pool valid, rounded up",
        _torch(lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True)),
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="valid",
        ceil_mode=True,
    ),
    _op(
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
    _op(
        "layer_norm of the last axis",
        _torch(lambda x: F.layer_norm(x, (8,), torch.from_numpy(VECTOR8), eps=1e-3)),
        LINES,
        axes=[-1],
        gamma=VECTOR8,
        epsilon=1e-3,
    ),
    _op(
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
    _op("linear", lambda x: x @ WEIGHT.T + VECTOR8[:5], LINES, weight=WEIGHT, bias=VECTOR8[:5]),
    _binary("matmul", np.matmul, LINES, LINES.swapaxes(1, 2).copy()),
    _binary(
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
        _attention,
        "iOS18",
    ),
    Case(
        "scaled_dot_product_attention with a float mask",
        lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=SCORES),
        (QUERY, KEY, VALUE),
        _torch(
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
        _torch(
            lambda q, k, v: F.scaled_dot_product_attention(
                q, k, v, attn_mask=torch.from_numpy(SCORES > -0.5)
            )
        ),
        "iOS18",
    ),
]

TENSORS = [
    _op("reshape", lambda x: x.reshape(1, 4, 15, 2), shape=[0, 4, -1, 2]),
    Case(
        "reshape to a computed shape",
        lambda x, y: mb.reshape(x=x, shape=mb.concat(values=(mb.shape(x=y), [-1]), axis=0)),
        (X, LINES[:, :1, :1]),
        lambda x, y: x.reshape(2, 1, 1, -1),
    ),
    _op("transpose", lambda x: x.transpose(0, 2, 3, 1), perm=[0, 2, 3, -3]),
    _op("expand_dims", lambda x: x[:, None, ..., None], LINES, axes=[1, -1]),
    _op("squeeze", lambda x: x[0], axes=[0]),
    _op("squeeze all", lambda x: x[0]),
    Case(
        "concat",
        lambda x, y: mb.concat(values=(x, y, X), axis=1),
        (X, Y),
        lambda x, y: np.concatenate([x, y, X], 1),
    ),
    Case(
        "concat interleaved",
        lambda x, y: mb.concat(values=(x, y), axis=-2, interleave=True),
        (X, Y),
        lambda x, y: np.stack([x, y], 3).reshape(1, 4, 10, 6),
    ),
    Case(
        "stack",
        lambda x, y: mb.stack(values=(x, y), axis=-1),
        (X, Y),
        lambda x, y: np.stack([x, y], -1),
    ),
    Case(
        "split evenly",
        lambda x: mb.split(x=x, num_splits=2, axis=1)[1],
        (X,),
        lambda x: x[:, 2:],
    ),
    Case(
        "split by sizes",
        lambda x: mb.split(x=x, split_sizes=[1, 3, 2], axis=-1)[1],
        (X,),
        lambda x: x[..., 1:4],
    ),
    _op(
        "slice_by_index",
        lambda x: x[:, 3:0:-2, -2, :],
        begin=[0, 3, -2, 5],
        end=[1, 0, 0, 1],
        stride=[1, -2, 1, 1],
        begin_mask=[False, False, False, True],
        end_mask=[False, False, False, True],
        squeeze_mask=[False, False, True, False],
    ),
    _op(
        "slice_by_size",
        lambda x: x[:, 1:3, 2:, :4],
        begin=[0, 1, 2, 0],
        size=[1, 2, -1, 4],
    ),
    Case(
        "gather",
        lambda x, y: mb.gather(x=x, indices=y, axis=1),
        (X, IDS - 1),
        lambda x, y: x[:, y],
    ),
    Case(
        "gather of batches",
        lambda x, y: mb.gather(x=x, indices=y, axis=2, batch_dims=1, validate_indices=True),
        (_normal(2, 3, 4, 5), IDS),
        lambda x, y: np.stack([x[i][:, y[i]] for i in range(2)]),
        "iOS17",
    ),
    Case(
        "gather_along_axis",
        lambda x, y: mb.gather_along_axis(x=x, indices=y, axis=1),
        (LINES[:, 0], IDS - 1),
        lambda x, y: np.take_along_axis(x, y, 1),
    ),
    Case(
        "gather_nd",
        lambda x, y: mb.gather_nd(x=x, indices=y),
        (_normal(4, 4, 4, 2), IDS),
        lambda x, y: x[tuple(y.T)],
    ),
    Case(
        "gather_nd of batches",
        lambda x, y: mb.gather_nd(x=x, indices=y, batch_dims=1),
        (_normal(2, 4, 4, 5), np.array([[[1, 2]], [[0, 3]]], np.int32)),
        lambda x, y: np.stack([x[i][tuple(y[i].T)] for i in range(2)]),
    ),
    _op("tile", lambda x: np.tile(x, (2, 1, 3, 1)), reps=[2, 1, 3, 1]),
    Case("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=2.5), (X,), lambda x: 0 * x + 2.5),
    Case("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=2.5), (X,), lambda x: 0 * x + 2.5),
    _op(
        "pad with a constant",
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (3, 0)], constant_values=9),
        pad=[1, 2, 3, 0],
        mode="constant",
        constant_val=9.0,
    ),
    _op(
        "pad reflected",
        lambda x: np.pad(x, [(0, 0), (0, 0), (4, 2), (3, 0)], "reflect"),
        pad=[4, 2, 3, 0],
        mode="reflect",
    ),
    _op(
        "pad replicated",
        lambda x: np.pad(x, [(0, 0), (2, 1), (1, 2), (3, 0)], "edge"),
        pad=[0, 0, 2, 1, 1, 2, 3, 0],
        mode="replicate",
    ),
    _op("shape", lambda x: x.shape),
    Case(
        "range_1d",
        lambda x: mb.range_1d(start=1, end=mb.squeeze(x=x), step=2),
        (np.array([8], np.int32),),
        lambda x: np.arange(1, 8, 2),
    ),
]

CASES = [*ELEMENTWISE, *REDUCTIONS, *LAYERS, *TENSORS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_operation_computes_what_numpy_or_torch_computes(
    case: Case, save_program: Callable[..., Path]
) -> None:
    package = save_program(case.build, case.inputs, target=case.target)
    assert case.op_type in {
        op.op_type for op in read_program(package, known_types=OPERATIONS).operations
    }
    names = inspect.signature(case.build).parameters
    (result,) = MilEvaluator.load(package).run(dict(zip(names, case.inputs, strict=True))).values()
    expected = np.asarray(case.expected(*case.inputs))
    assert result.shape == expected.shape
    # One operation in float32 in another order of summation: a few ulps of values of order 10.
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_every_operation_type_has_a_case() -> None:
    assert {case.op_type for case in CASES} == OPERATIONS.keys()
