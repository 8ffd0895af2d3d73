"""Store the weights of a Core ML package as int8, and count what is stored so.

Weights only: activations stay float16, so no calibration data is needed. Each weight w of output
channel c becomes q = round(w / s_c) in -127..127 with s_c = max |w| / 127 (coremltools,
linear_symmetric), and Core ML expands it as s_c * q when it loads the model.
"""

import math
from pathlib import Path

from msd_deploy.errors import ExportError
from msd_export.coreml_package import WEIGHTS_PATH, quiet_coremltools, read_spec, save_package

_QUANTIZED_TYPES = ("conv", "linear", "matmul", "gather")
"""Operations whose weights are quantized: convolutions, projections, embeddings."""

_WEIGHT_THRESHOLD = 512
"""Weights with more elements than this are quantized. coremltools' default of 2,048 would leave a
student of width 32 (1,024 a projection) wholly in float16. A quantized weight costs scales, zero
points, their padding to 64 bytes and some 140 bytes of program: measured on single projections,
the package grows with 144 elements, is even at 256, and shrinks by 160 bytes or more from 512."""


def quantize_coreml_int8(source: Path, destination: Path) -> None:
    """Write a copy of a package with int8 weights, one scale per output channel.

    Metadata and descriptions are kept. Whether anything was large enough to be quantized is told
    by `count_int8_weights`.

    Args:
        source: The .mlpackage in float16.
        destination: The .mlpackage to write; replaced where it exists.

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot quantize it.
    """
    spec = read_spec(source)
    with quiet_coremltools():
        import coremltools as ct
        from coremltools.optimize import coreml as optimize

        choice = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype="int8",
            granularity="per_channel",
            weight_threshold=_WEIGHT_THRESHOLD,
        )
        config = optimize.OptimizationConfig(
            op_type_configs=dict.fromkeys(_QUANTIZED_TYPES, choice)
        )
        try:
            model = ct.models.MLModel(
                spec, weights_dir=str(source / WEIGHTS_PATH), skip_model_load=True
            )
            quantized = optimize.linear_quantize_weights(model, config)
        except Exception as error:  # coremltools raises all kinds, bare Exceptions included
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ExportError(
                f"the quantization to int8 failed ({reason})", where=source.name
            ) from error
        save_package(quantized, destination)


def count_int8_weights(package: Path) -> int:
    """Count the weights that a package stores as 8-bit integers.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    count = 0
    for function in read_spec(package).mlProgram.functions.values():
        for op in function.block_specializations[function.opset].operations:
            if op.type == "constexpr_affine_dequantize":
                stored = op.attributes["quantized_data"].type.tensorType
                count += math.prod(size.constant.size for size in stored.dimensions)
    return count
