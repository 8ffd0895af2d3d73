"""Put weights that are rounded already into a Core ML model, as coremltools puts its own.

coremltools' quantizer for 8-bit integers takes no function that rounds, as its palettizer does; so
this is a graph pass that writes the same operation.
"""

from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np

from msd_export.coreml_calibration import Calibration
from msd_export.coreml_package import CoreMLModel

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
