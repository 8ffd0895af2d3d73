"""Compress the weights of a Core ML package: to 8-bit integers, or to palettes of 64 or 16 values.

int8: each weight w of output channel c becomes an integer q in -127..127 with the scale s_c =
max |w| / 127, and Core ML expands it to s_c * q when it loads the model; q is the nearest integer
(coremltools, linear_symmetric) or, for a layer whose inputs were measured, the one that
`coreml/rounding.py` chooses. Palettized: an index of 6 or 4 bits per weight into a table of the
tensor's own; the smallest tensors become int8.

Weights that are rounded already are written by a graph pass, since coremltools' quantizer for 8-bit
integers, unlike its palettizer, accepts no rounding function. Activations stay float16 here; see
`coreml/activations.py` for int8.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from msd_export.coreml.calibration import Calibration
from msd_export.coreml.package import CoreMLModel, Spec, read_spec, rewrite_package
from msd_export.coreml.spec import (
    FLOATS,
    TensorType,
    name_of,
    operations_of,
    read_names,
    result_of,
)

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Operation, Program


def with_rounded_weights(
    model: CoreMLModel, names: Container[str], calibration: Calibration
) -> CoreMLModel:
    """Return a model that stores constants as a calibration rounds them to int8.

    Args:
        model: In float16.
        names: Of the constants, each one of the calibration's `moments`.
        calibration: Rounds them.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.models.utils import _apply_graph_pass

    class StoreRounded(AbstractGraphPass):  # type: ignore[misc]  # coremltools has no types
        def apply(self, program: "Program") -> None:
            for function in program.functions.values():
                for operation in list(function.operations):
                    if operation.op_type == "const" and operation.name in names:
                        _store_rounded(operation, calibration)

    changed: CoreMLModel = _apply_graph_pass(model, StoreRounded(), skip_model_load=True)
    return changed


def _store_rounded(constant: "Operation", calibration: Calibration) -> None:
    """Replace a constant by what expands its integers when Core ML loads the model."""
    from coremltools.converters.mil.mil import Builder

    before, block = constant.outputs[0], constant.enclosing_block
    rounded = calibration.int8(constant.name, before.val)
    with block:
        after = Builder.constexpr_affine_dequantize(
            quantized_data=rounded.quantized,
            zero_point=np.int8(0),
            scale=rounded.scale,
            axis=np.int32(0),
            before_op=constant,
            name=f"{constant.name}_quantized",
        )
    block.replace_uses_of_var_after_op(
        anchor_op=constant, old_var=before, new_var=after, force_replace=True
    )
    block.remove_ops([constant])


PalettePrecision = Literal["pal6", "pal4"]

_BITS: Mapping[PalettePrecision, int] = {"pal6": 6, "pal4": 4}

_COMPRESSED_TYPES = frozenset({"conv", "linear", "matmul", "gather"})
"""Operations whose weights are compressed: convolutions, projections, embeddings."""

_WEIGHT_THRESHOLD = 512
"""Weights with more elements than this are compressed. coremltools' default of 2,048 would leave a
student of width 32 (1,024 a projection) wholly in float16. A quantized weight costs scales, zero
points, their padding to 64 bytes and some 140 bytes of program: measured on single projections,
the package grows with 144 elements, is even at 256, and shrinks by 160 bytes or more from 512.
A palettized one shrinks by 650 (4 bits) or 458 bytes (6 bits) at 512."""

_INTEGER_SHARE = 0.075
"""The smallest weights that hold at most this share of all become int8 in a palettized package: a
network's first layers and its depthwise convolutions, which err most for their size."""


def quantize_weights_int8(
    source: Path, destination: Path, calibration: Calibration | None = None
) -> None:
    """Write a copy of a package with int8 weights, one scale per output channel.

    Metadata and descriptions are kept. Whether any weight was large enough to be
    compressed can be seen with `coreml.spec.count_weights`.

    Args:
        source: The .mlpackage in float16.
        destination: The .mlpackage to write; replaced where it exists.
        calibration: What was measured on it, by which layers learn what to make of each other's
            rounding; None: each weight becomes the nearest integer.

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot compress it, or the evaluator cannot run it.
    """

    def change(model: CoreMLModel) -> CoreMLModel:
        return with_int8_weights(model, calibration)

    rewrite_package(source, destination, change, what="quantization to int8")


def palettize_weights(
    source: Path,
    destination: Path,
    precision: PalettePrecision,
    calibration: Calibration,
    *,
    kept: Container[str] = (),
) -> None:
    """Write a copy of a package with palettized weights; see `quantize_weights_int8`.

    Args:
        source: The .mlpackage in float16.
        destination: The .mlpackage to write; replaced where it exists.
        precision: The size of the tables.
        calibration: What was measured on it.
        kept: Names of weights that become int8 instead.

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot compress it, or the evaluator cannot run it.
    """
    names = [name for name in palettized_weights(read_spec(source)) if name not in kept]

    def change(model: CoreMLModel) -> CoreMLModel:
        palettes = {name: _Palette(name, _BITS[precision], calibration) for name in names}
        return with_int8_weights(_palettized(model, palettes), calibration)

    rewrite_package(source, destination, change, what=f"quantization to {precision}")


def with_int8_weights(model: CoreMLModel, calibration: Calibration | None = None) -> CoreMLModel:
    """Return a model whose float weights are int8; see `quantize_weights_int8`."""
    from coremltools.optimize import coreml as optimize

    choice = optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
    )
    if calibration is not None:
        weights = calibration.moments.keys() & _large_weights(model.get_spec())
        model = with_rounded_weights(model, weights, calibration)
    names = _large_weights(model.get_spec())
    config = optimize.OptimizationConfig(op_name_configs=dict.fromkeys(names, choice))
    result: CoreMLModel = optimize.linear_quantize_weights(model, config)
    return result


@dataclass(frozen=True, slots=True)
class _Palette:
    """How one weight is palettized, in the form that coremltools calls.

    Attributes:
        name: The weight's.
        bits: Of an index.
        calibration: What was measured.
    """

    name: str
    bits: int
    calibration: Calibration

    def __call__(
        self, weight: NDArray[np.generic]
    ) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Return table and flat indices."""
        table, indices = self.calibration.palette(self.name, weight, self.bits)
        return table, indices.ravel()


def _palettized(model: CoreMLModel, palettes: Mapping[str, _Palette]) -> CoreMLModel:
    from coremltools.optimize import coreml as optimize

    choices = {
        name: optimize.OpPalettizerConfig(
            mode="custom", lut_function=palette.__call__, weight_threshold=0
        )
        for name, palette in palettes.items()
    }
    config = optimize.OptimizationConfig(op_name_configs=choices)
    result: CoreMLModel = optimize.palettize_weights(model, config)
    return result


def palettized_weights(spec: Spec) -> list[str]:
    """Return the names of all large weights but the smallest ones that hold `_INTEGER_SHARE`."""
    weights = _large_weights(spec)
    kept, budget = [], _INTEGER_SHARE * sum(weights.values())
    for name, elements in sorted(weights.items(), key=lambda item: item[1]):
        budget -= elements
        if budget < 0:
            kept.append(name)
    return kept


def _large_weights(spec: Spec) -> dict[str, int]:
    """Return the elements of the constants that are to be compressed, by name.

    Named one by one, since coremltools refuses a choice by type where two types read one constant:
    equal constants are stored once, so a bias of zeros may be a norm's too.
    """
    readers: dict[str, set[str]] = {}
    for operation in operations_of(spec):
        for name in read_names(operation):
            readers.setdefault(name, set()).add(operation.type)
    return {
        name_of(operation): result_of(operation).elements
        for operation in operations_of(spec)
        if operation.type == "const"
        and _is_large_weight(result_of(operation))
        and readers.get(operation.outputs[0].name, {""}) <= _COMPRESSED_TYPES
    }


def _is_large_weight(result: TensorType) -> bool:
    is_weight = result.dtype in FLOATS and len(result.shape) > 1
    return is_weight and result.elements > _WEIGHT_THRESHOLD
