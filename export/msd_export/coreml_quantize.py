"""Compress the weights of a Core ML package: 8-bit integers, or one of 64 or 16 values.

Weights only: activations stay float16, so no calibration data is needed (with them:
coreml_activations). int8: each weight w of output channel c becomes q = round(w / s_c) in -127..127
with s_c = max |w| / 127 (coremltools, linear_symmetric), and Core ML expands it as s_c * q when it
loads the model. Palettized: 6 or 4 bits a weight index a table of a weight's own, found by k-means.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msd_export.coreml_package import CoreMLModel, Spec, rewrite_package
from msd_export.coreml_storage import elements_of, float_type, operations_of, read_names

WeightPrecision = Literal["int8", "pal6", "pal4"]

_BITS: Mapping[WeightPrecision, int] = {"pal6": 6, "pal4": 4}

_COMPRESSED_TYPES = frozenset({"conv", "linear", "matmul", "gather"})
"""Operations whose weights are compressed: convolutions, projections, embeddings."""

_WEIGHT_THRESHOLD = 512
"""Weights with more elements than this are compressed. coremltools' default of 2,048 would leave a
student of width 32 (1,024 a projection) wholly in float16. A quantized weight costs scales, zero
points, their padding to 64 bytes and some 140 bytes of program: measured on single projections,
the package grows with 144 elements, is even at 256, and shrinks by 160 bytes or more from 512.
A palettized one shrinks by 266 (4 bits) or 138 bytes (6 bits) at 256, 650 or 458 at 512, of which
an EfficientNet-Lite0 student has 9 kB in all below 2,048: below the threshold is little to win."""


def compress_weights(source: Path, destination: Path, precision: WeightPrecision) -> None:
    """Write a copy of a package with compressed weights.

    Metadata and descriptions are kept. Whether anything was large enough to be compressed is told
    by `coreml_storage.count_weights`.

    Args:
        source: The .mlpackage in float16.
        destination: The .mlpackage to write; replaced where it exists.
        precision: How the weights are stored.

    Raises:
        ArtifactError: The source is not a package, or holds no ML Program.
        ExportError: coremltools cannot compress it.
    """
    rewrite_package(
        source,
        destination,
        lambda model: compressed(model, precision),
        what=f"quantization to {precision}",
    )


def compressed(model: CoreMLModel, precision: WeightPrecision) -> CoreMLModel:
    """Return a model with compressed weights; see `compress_weights`."""
    from coremltools.optimize import coreml as optimize

    if precision == "int8":
        choice = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype="int8",
            granularity="per_channel",
            weight_threshold=0,
        )
        compress = optimize.linear_quantize_weights
    else:
        choice = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=_BITS[precision], weight_threshold=0
        )
        compress = optimize.palettize_weights
    names = _large_weights(model.get_spec())
    config = optimize.OptimizationConfig(op_name_configs=dict.fromkeys(names, choice))
    result: CoreMLModel = compress(model, config)
    return result


def _large_weights(spec: Spec) -> list[str]:
    """Return the constants to be compressed by name.

    Named one by one, since coremltools refuses a choice by type where two types read one constant:
    equal constants are stored once, so a bias of zeros may be a norm's too.
    """
    readers: dict[str, set[str]] = {}
    for operation in operations_of(spec):
        for name in read_names(operation):
            readers.setdefault(name, set()).add(operation.type)
    return [
        str(operation.attributes["name"].immediateValue.tensor.strings.values[0])
        for operation in operations_of(spec)
        if operation.type == "const"
        and _is_large_weight(operation.outputs[0].type.tensorType)
        and readers.get(operation.outputs[0].name, {""}) <= _COMPRESSED_TYPES
    ]


def _is_large_weight(tensor_type: Spec) -> bool:
    is_weight = float_type(tensor_type) is not None and tensor_type.rank > 1
    return is_weight and elements_of(tensor_type) > _WEIGHT_THRESHOLD
