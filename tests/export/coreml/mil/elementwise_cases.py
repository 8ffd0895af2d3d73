"""Cases of element-wise operations and reductions."""

import math
from typing import Any

import numpy as np

from msd_deploy.quiet import quiet_python
from tests.export.coreml.mil.cases import (
    IDS,
    POSITIVE,
    Array,
    Case,
    Function,
    X,
    Y,
    binary,
    operation,
)

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813


def comparison(name: str, expected: Function) -> Case:
    def build(x: Any, y: Any) -> Any:
        return mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32")

    return Case(name, build, (np.round(X), np.round(Y)), expected)


def logical(name: str, expected: Function) -> Case:
    def build(x: Any, y: Any) -> Any:
        x, y = mb.greater(x=x, y=0.0), mb.greater(x=y, y=0.0)
        return mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32")

    return Case(name, build, (X, Y), lambda x, y: expected(x > 0, y > 0))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


_erf = np.vectorize(math.erf)

ELEMENTWISE = [
    operation("abs", np.abs),
    operation("ceil", np.ceil),
    operation("clip", lambda x: np.clip(x, -0.5, 0.75), alpha=-0.5, beta=0.75),
    operation("cos", np.cos),
    operation("elu", lambda x: np.where(x > 0, x, 0.3 * (np.exp(x) - 1)), alpha=0.3),
    operation("erf", _erf),
    operation("exp", np.exp),
    operation("exp2", np.exp2),
    operation("floor", np.floor),
    operation("gelu exact", lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), mode="EXACT"),
    operation(
        "gelu tanh",
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        mode="TANH_APPROXIMATION",
    ),
    operation("gelu sigmoid", lambda x: x * sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    operation("identity", lambda x: x),
    operation("inverse", lambda x: 1 / (x + 0.25), POSITIVE, epsilon=0.25),
    operation("leaky_relu", lambda x: np.where(x > 0, x, 0.1 * x), alpha=0.1),
    operation("log", lambda x: np.log(x + 0.25), POSITIVE, epsilon=0.25),
    operation("relu", lambda x: np.maximum(x, 0)),
    operation("relu6", lambda x: np.clip(x, 0, 6), 5 * X),
    operation("round", np.round),
    operation("rsqrt", lambda x: 1 / np.sqrt(x + 0.25), POSITIVE, epsilon=0.25),
    operation("sigmoid", sigmoid),
    operation("sigmoid_hard", lambda x: np.clip(0.3 * x + 0.4, 0, 1), alpha=0.3, beta=0.4),
    operation("sign", np.sign),
    operation("silu", lambda x: x * sigmoid(x)),
    operation("sin", np.sin),
    operation("softmax", lambda x: softmax(x, 1), axis=1),
    operation("softplus", lambda x: np.log1p(np.exp(x))),
    operation("sqrt", np.sqrt, POSITIVE),
    operation("square", np.square),
    operation("tanh", np.tanh),
    operation("cast float to int", np.trunc, 3 * X, dtype="int32"),
    operation("cast int to float", lambda x: x, IDS, dtype="fp32"),
    operation("cumsum", lambda x: np.cumsum(x, 2), axis=2, exclusive=False, reverse=False),
    operation(
        "cumsum reversed",
        lambda x: np.flip(np.cumsum(np.flip(x, 2), 2), 2) - x,
        axis=2,
        exclusive=True,
        reverse=True,
    ),
    binary("add", np.add),
    binary("add broadcast", np.add, y=Y[:, :, :1]),
    binary("floor_div", np.floor_divide),
    binary("maximum", np.maximum),
    binary("minimum", np.minimum),
    binary("mod", np.mod),
    binary("mul", np.multiply),
    binary("pow", np.power, x=POSITIVE),
    binary("real_div", np.divide),
    binary("sub", np.subtract),
    operation("mul constant", lambda x: x * 2.5, y=2.5),
    operation("maximum constant", lambda x: np.maximum(x, 0.5), y=0.5),
    comparison("equal", np.equal),
    comparison("greater", np.greater),
    comparison("greater_equal", np.greater_equal),
    comparison("less", np.less),
    comparison("less_equal", np.less_equal),
    comparison("not_equal", np.not_equal),
    logical("logical_and", np.logical_and),
    logical("logical_or", np.logical_or),
    logical("logical_xor", np.logical_xor),
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
    operation("reduce_argmax", lambda x: x.argmax(2), axis=2, keep_dims=False),
    operation("reduce_l2_norm", lambda x: np.sqrt((x**2).sum(1)), axes=[1], keep_dims=False),
    operation("reduce_max", lambda x: x.max((1, 3)), axes=[1, 3], keep_dims=False),
    operation("reduce_mean", lambda x: x.mean((2, 3), keepdims=True), axes=[2, 3], keep_dims=True),
    operation("reduce_mean of all", lambda x: x.mean(keepdims=True), keep_dims=True),
    operation("reduce_min", lambda x: x.min(-1), axes=[-1], keep_dims=False),
    operation("reduce_sum", lambda x: x.sum(1), axes=[1], keep_dims=False),
]
