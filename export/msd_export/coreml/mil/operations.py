"""What the MIL evaluator can execute: one pure function per operation type, in one table.

Covers what convolutional networks and transformers of this project export to. Loops, conditions,
states, recurrence and resizing other than bilinear are not covered: a program that holds one is
refused by its name.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_export.coreml.mil import layers, tensors

Function = Callable[..., Tensor | tuple[Tensor, ...]]

DATA_PARAMETERS = frozenset(
    {
        "x", "y", "a", "b", "cond", "values", "indices", "query", "key", "value", "attn_mask",
        "input", "scale", "zero_point",
    }
)  # fmt: skip
"""Parameters that are tensors even where the program gives a constant scalar or integers."""

EXACT_TYPES = frozenset(
    {
        "abs", "concat", "clip", "expand_dims", "fill", "gather", "gather_along_axis", "gather_nd",
        "identity", "max_pool", "maximum", "minimum", "pad", "reduce_max", "reduce_min", "relu",
        "relu6", "reshape", "select", "slice_by_index", "slice_by_size", "split", "squeeze",
        "stack", "tile", "transpose",
    }
)  # fmt: skip
"""Types whose results are float16 numbers whenever their inputs are: no rounding needed."""


def _unary(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda x, y: function(x, y)


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def reduce(x: Tensor, keep_dims: bool, axes: list[int] | None = None) -> Tensor:
        return function(x, list(range(x.ndim)) if axes is None else axes, keep_dims)

    return reduce


def _gelu(x: Tensor, mode: str) -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def _softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def _log(x: Tensor, epsilon: float) -> Tensor:
    return torch.log(x + epsilon)


def _rsqrt(x: Tensor, epsilon: float) -> Tensor:
    return torch.rsqrt(x + epsilon)


def _inverse(x: Tensor, epsilon: float) -> Tensor:
    return torch.reciprocal(x + epsilon)


def _leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


def _elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


def _sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


def _reduce_argmax(x: Tensor, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
    return x.argmax(axis, keep_dims)


def _cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    ordered = x.flip(axis) if reverse else x
    total = ordered.cumsum(axis) - ordered if exclusive else ordered.cumsum(axis)
    return total.flip(axis) if reverse else total


OPERATIONS: Mapping[str, Function] = MappingProxyType(
    {
        "abs": _unary(torch.abs),
        "add": _binary(torch.add),
        "avg_pool": layers.avg_pool,
        "batch_norm": layers.batch_norm,
        "cast": tensors.cast,
        "ceil": _unary(torch.ceil),
        "clip": _clip,
        "concat": tensors.concat,
        "conv": layers.conv,
        "cos": _unary(torch.cos),
        "cumsum": _cumsum,
        "dequantize": layers.dequantize,
        "einsum": layers.einsum,
        "elu": _elu,
        "equal": _binary(torch.eq),
        "erf": _unary(torch.erf),
        "exp": _unary(torch.exp),
        "exp2": _unary(torch.exp2),
        "expand_dims": tensors.expand_dims,
        "fill": tensors.fill,
        "fill_like": tensors.fill_like,
        "floor": _unary(torch.floor),
        "floor_div": _binary(torch.floor_divide),
        "gather": tensors.gather,
        "gather_along_axis": tensors.gather_along_axis,
        "gather_nd": tensors.gather_nd,
        "gelu": _gelu,
        "greater": _binary(torch.gt),
        "greater_equal": _binary(torch.ge),
        "identity": tensors.identity,
        "inverse": _inverse,
        "layer_norm": layers.layer_norm,
        "leaky_relu": _leaky_relu,
        "less": _binary(torch.lt),
        "less_equal": _binary(torch.le),
        "linear": layers.linear,
        "log": _log,
        "logical_and": _binary(torch.logical_and),
        "logical_not": _unary(torch.logical_not),
        "logical_or": _binary(torch.logical_or),
        "logical_xor": _binary(torch.logical_xor),
        "matmul": layers.matmul,
        "max_pool": layers.max_pool,
        "maximum": _binary(torch.maximum),
        "minimum": _binary(torch.minimum),
        "mod": _binary(torch.remainder),
        "mul": _binary(torch.mul),
        "not_equal": _binary(torch.ne),
        "pad": tensors.pad,
        "pow": _binary(torch.pow),
        "quantize": layers.quantize,
        "range_1d": tensors.range_1d,
        "real_div": _binary(torch.div),
        "reduce_argmax": _reduce_argmax,
        "reduce_l2_norm": _reduction(
            lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)
        ),
        "reduce_max": _reduction(torch.amax),
        "reduce_mean": _reduction(torch.mean),
        "reduce_min": _reduction(torch.amin),
        "reduce_sum": _reduction(torch.sum),
        "relu": _unary(torch.relu),
        "relu6": _unary(F.relu6),
        "reshape": tensors.reshape,
        "round": _unary(torch.round),
        "rsqrt": _rsqrt,
        "scaled_dot_product_attention": layers.scaled_dot_product_attention,
        "select": tensors.select,
        "shape": tensors.shape,
        "sigmoid": _unary(torch.sigmoid),
        "sigmoid_hard": _sigmoid_hard,
        "sign": _unary(torch.sign),
        "silu": _unary(F.silu),
        "sin": _unary(torch.sin),
        "slice_by_index": tensors.slice_by_index,
        "slice_by_size": tensors.slice_by_size,
        "softmax": _softmax,
        "softplus": _unary(F.softplus),
        "split": tensors.split,
        "sqrt": _unary(torch.sqrt),
        "square": _unary(torch.square),
        "squeeze": tensors.squeeze,
        "stack": tensors.stack,
        "sub": _binary(torch.sub),
        "tanh": _unary(torch.tanh),
        "tile": tensors.tile,
        "transpose": tensors.transpose,
        "upsample_bilinear": layers.upsample_bilinear,
    }
)
