"""What a case of an operation is, and the arrays that cases share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from msd_deploy.quiet import quiet_python

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]

_RNG = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


X, Y = normal(1, 4, 5, 6), normal(1, 4, 5, 6)
POSITIVE = np.abs(X) + 0.1
LINES = normal(2, 3, 8)
IDS = np.array([[2, 0, 1], [1, 1, 3]], np.int32)
KERNEL, DEPTHWISE, EVEN_KERNEL = normal(8, 4, 3, 3), normal(8, 1, 3, 3), normal(8, 4, 2, 2)
VECTOR4, VECTOR8 = np.abs(normal(4)) + 0.5, normal(8)
WEIGHT = normal(5, 8)
QUERY, KEY, VALUE = normal(1, 2, 5, 4), normal(1, 2, 7, 4), normal(1, 2, 7, 3)
SCORES = normal(5, 7)


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


def by_torch(function: Function) -> Function:
    return lambda *arrays: function(*(torch.from_numpy(array) for array in arrays)).numpy()


def operation(name: str, expected: Function, x: Array = X, **attributes: Any) -> Case:
    """Build `name(x=x, **attributes)`."""
    return Case(name, lambda x: getattr(mb, name.split()[0])(x=x, **attributes), (x,), expected)


def binary(name: str, expected: Function, x: Array = X, y: Array = Y, **attributes: Any) -> Case:
    def build(x: Any, y: Any) -> Any:
        return getattr(mb, name.split()[0])(x=x, y=y, **attributes)

    return Case(name, build, (x, y), expected)
