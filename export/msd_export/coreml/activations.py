"""Quantize the activations of a Core ML package to int8, with ranges measured without a Mac.

coremltools measures ranges by running Core ML, on macOS only, and keeps those of the last example
only (9.0: `ModelDebugger.record_intermediate_output` overwrites before it compares). Here the MIL
evaluator measures them over all calibration examples; coremltools' own graph passes then insert
quantize and dequantize around convolutions, projections, poolings and residual additions, which
Core ML computes in integers where the processor can. These operations require iOS 17.
"""

from collections.abc import Container, Iterable
from pathlib import Path

from msd_export.coreml.calibration import Calibration, Ranges
from msd_export.coreml.mil.operations import OPERATIONS
from msd_export.coreml.mil.program import Program, Reference, read_program
from msd_export.coreml.package import CoreMLModel, Spec, rewrite_package
from msd_export.coreml.spec import INTEGER_TYPES, name_of, operations_of
from msd_export.coreml.weights import with_int8_weights

_SPECIFICATION_OF_IOS_17 = 8
_MASK = -1e3
"""What reaches below this is a mask: -1e4 stands for absent tokens, no activation comes near."""


def quantize_activations(
    source: Path, destination: Path, calibration: Calibration, *, kept: Iterable[str] = ()
) -> None:
    """Write a copy of a package with int8 weights and activations.

    Args:
        source: The .mlpackage in float16.
        destination: The .mlpackage to write; replaced where it exists.
        calibration: What was measured on it.
        kept: Names of operations whose activations stay float16.

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot quantize it, or the evaluator cannot run it.
    """
    program = read_program(source, known_types=OPERATIONS)
    ranges = calibration.ranges
    in_float = {*kept, *_masking_additions(program, ranges)}

    def change(model: CoreMLModel) -> CoreMLModel:
        model = with_relu6(model, clips_at_six(program))
        integer = _with_integer_activations(model, ranges, kept=sorted(in_float))
        return with_int8_weights(integer, calibration)

    rewrite_package(source, destination, change, what="quantization to w8a8")


def operations_to_quantize(spec: Spec) -> list[str]:
    """Return the names of the operations that can compute on 8-bit activations."""
    return [name_of(op) for op in operations_of(spec) if op.type in INTEGER_TYPES]


def clips_at_six(program: Program) -> set[str]:
    """Return the names of the results of what clips at 0 and 6."""
    return {
        operation.outputs[0][0]
        for operation in program.operations
        if operation.op_type == "clip"
        and operation.arguments["alpha"] == 0
        and operation.arguments["beta"] == 6
    }


def _masking_additions(program: Program, ranges: Ranges) -> list[str]:
    """Return the additions of a mask to attention scores: 8 bits would leave nothing of those."""
    return [
        operation.name
        for operation in program.operations
        if operation.op_type == "add"
        and any(
            ranges[argument.name]["rmin"] <= _MASK
            for argument in operation.arguments.values()
            if isinstance(argument, Reference)
        )
    ]


def with_relu6(model: CoreMLModel, clips: Container[str]) -> CoreMLModel:
    """Name what clips at 0 and 6 as coremltools' pass knows it, by the names of the results.

    Else the value before it is quantized, whose range is many times as wide: the steps in the part
    that remains would be as much coarser.
    """
    from coremltools.models import MLModel

    spec = model.get_spec()
    for operation in operations_of(spec):
        if operation.type == "clip" and operation.outputs[0].name in clips:
            operation.type = "relu6"
            del operation.inputs["alpha"], operation.inputs["beta"]
    changed: CoreMLModel = MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
    return changed


def _with_integer_activations(
    model: CoreMLModel, ranges: Ranges, *, kept: Iterable[str]
) -> CoreMLModel:
    """Apply the passes of coremltools' `linear_quantize_activations`, with ranges of our own.

    `_apply_graph_pass` is what that function itself calls after it has run Core ML.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass
    from coremltools.optimize import coreml as optimize

    choice = optimize.OpLinearQuantizerConfig(mode="linear", dtype="int8")
    config = optimize.OptimizationConfig(
        op_type_configs=dict.fromkeys(INTEGER_TYPES, choice),
        op_name_configs=dict.fromkeys(kept, None),
    )
    inserting = [
        PASS_REGISTRY[f"compression::insert_{place}_quantize_dequantize_pair"]
        for place in ("prefix", "suffix")
    ]
    for insert in inserting:
        insert.set_options([PassOption("config", config), PassOption("activation_stats", ranges)])
    changed: CoreMLModel = _apply_graph_pass(
        model,
        [*inserting, PASS_REGISTRY["common::dequantize_quantize_pair_elimination"]],
        spec_version=_SPECIFICATION_OF_IOS_17,
        skip_model_load=True,
    )
    return changed
