"""Measure a float16 Core ML package on calibration examples, and round its weights accordingly.

Measured are the range of every value and, for each layer, its weight as a matrix and the second
moments of its inputs: projections and plane convolutions, also grouped and depthwise ones. Not
covered are embeddings and layers whose moments would take more than 32 MiB.

Everything is measured and rounded once for all packages made of it: the rounding of a tensor does
not depend on that of others, so a search for a mix of precisions needs no further rounding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.mil.layers import window_pads
from msd_export.coreml.mil.operations import OPERATIONS
from msd_export.coreml.mil.program import ProgramOperation, Reference, read_program
from msd_export.coreml.package import Spec, read_spec
from msd_export.coreml.rounding import Int8Weight, Matrix, palettize, round_to_int8
from msd_export.coreml.spec import operations_of, read_names_of
from msd_export.signature import ModelInputs, single_example

_MOST_ELEMENTS = 2048**2


@dataclass(frozen=True, slots=True)
class _Layer:
    """A projection or convolution.

    Attributes:
        weight_name: Its constant's name.
        input_name: The value that it reads.
        operation: Its operation, with window and steps.
        groups: Parts of the channels that are convolved apart.
        inputs: Input channels of a group times the kernel's elements.
    """

    weight_name: str
    input_name: str
    operation: ProgramOperation
    groups: int
    inputs: int

    def rows_of(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the weight is multiplied with, [groups, positions, inputs]."""
        if self.operation.op_type == "linear":
            return value.reshape(1, -1, self.inputs)
        columns = _windows(value, self.operation.arguments)
        return np.swapaxes(columns.reshape(self.groups, self.inputs, -1), 1, 2)


def measure_second_moments(package: Path, calibration: ModelInputs) -> dict[str, Matrix]:
    """Return sum x x^T over the inputs x of each layer, by its weight's name.

    Each is [groups, inputs, inputs]: one group, unless a convolution is grouped.

    Examples without an image are left out: the encoding of a blank image is masked.

    Args:
        package: The .mlpackage in float.
        calibration: Examples of all views.
    """
    layers = list(_layers(package))
    evaluator = MilEvaluator.load(package)
    moments = {
        layer.weight_name: np.zeros((layer.groups, layer.inputs, layer.inputs)) for layer in layers
    }
    for row in np.flatnonzero(calibration["image_present"]):
        values = evaluator.trace(single_example(calibration, int(row)))
        for layer in layers:
            rows = layer.rows_of(values[layer.input_name])
            moments[layer.weight_name] += np.swapaxes(rows, 1, 2) @ rows
    return moments


def _layers(package: Path) -> Iterable[_Layer]:
    names = _names_of_weights(read_spec(package))
    for operation in read_program(package, known_types=OPERATIONS).operations:
        source, weight = operation.arguments.get("x"), operation.arguments.get("weight")
        name = names.get(operation.outputs[0][0])
        if name is None or not isinstance(source, Reference) or not isinstance(weight, np.ndarray):
            continue
        inputs = int(np.prod(weight.shape[1:]))
        groups = int(np.asarray(operation.arguments.get("groups", 1)))
        if weight.ndim in (2, 4) and groups * inputs**2 <= _MOST_ELEMENTS:
            yield _Layer(name, source.name, operation, groups, inputs)


def _names_of_weights(spec: Spec) -> dict[str, str]:
    """Return the name of the constant that is a layer's weight by the layer's output."""
    constants = {op.outputs[0].name for op in operations_of(spec) if op.type == "const"}
    return {
        operation.outputs[0].name: name
        for operation in operations_of(spec)
        if operation.type in ("conv", "linear")
        and (name := read_names_of(operation, "weight")[0]) in constants
    }


def _windows(value: NDArray[np.float32], arguments: Mapping[str, object]) -> NDArray[np.float32]:
    """Return the windows of [1, channels, height, width] under a kernel, [inputs, positions]."""
    kernel = np.asarray(arguments["weight"]).shape[2:]
    strides, dilations = (
        tuple(int(step) for step in np.asarray(arguments[name]))
        for name in ("strides", "dilations")
    )
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    pads = window_pads(
        value.shape[2:],
        extents,
        strides,
        pad_type=str(arguments["pad_type"]),
        pad=[int(item) for item in np.asarray(arguments["pad"])],
    )
    padded = F.pad(torch.from_numpy(value), [amount for pair in reversed(pads) for amount in pair])
    columns = F.unfold(padded, kernel, dilations, 0, strides)
    return np.asarray(columns[0].numpy())


Ranges: TypeAlias = dict[str, dict[str, float]]
"""By the value's name: its least ("rmin") and its largest ("rmax"), as coremltools names them."""

Palette: TypeAlias = tuple[NDArray[np.float16], NDArray[np.uint8]]
"""A table, and indices in the weight's shape."""


class Calibration:
    """Measures a package, and rounds its weights so that the outputs of layers change least.

    Args:
        package: The .mlpackage in float16; it must not change.
        inputs: Examples of all views.
    """

    def __init__(self, package: Path, inputs: ModelInputs) -> None:
        self.package, self.inputs = package, inputs
        self._integers: dict[str, Int8Weight] = {}
        self._palettes: dict[tuple[str, int], Palette] = {}

    @cached_property
    def ranges(self) -> Ranges:
        """The range of every value."""
        return measure_ranges(self.package, self.inputs)

    @cached_property
    def moments(self) -> dict[str, Matrix]:
        """Second moments of layers' inputs by the weight's name; see `measure_second_moments`."""
        return measure_second_moments(self.package, self.inputs)

    def int8(self, name: str, weight: NDArray[np.generic]) -> Int8Weight:
        """Return a weight, one of `moments`, as 8-bit integers."""
        if name not in self._integers:
            self._integers[name] = round_to_int8(weight, self.moments[name])
        return self._integers[name]

    def palette(self, name: str, weight: NDArray[np.generic], bits: int) -> Palette:
        """Return a weight, of `moments` or not, as a table and indices."""
        if (name, bits) not in self._palettes:
            self._palettes[name, bits] = palettize(weight, bits, self.moments.get(name))
        return self._palettes[name, bits]


def measure_ranges(package: Path, calibration: ModelInputs) -> Ranges:
    """Return the range of every value in a package's program over all rows of the inputs."""
    evaluator = MilEvaluator.load(package)
    ranges: Ranges = {}
    for row in range(len(calibration["image"])):
        for name, value in evaluator.trace(single_example(calibration, row)).items():
            found = ranges.setdefault(name, {"rmin": np.inf, "rmax": -np.inf})
            found["rmin"] = min(found["rmin"], float(value.min()))
            found["rmax"] = max(found["rmax"], float(value.max()))
    return ranges
