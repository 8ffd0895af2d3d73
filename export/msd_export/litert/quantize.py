"""Integer and half precision for LiteRT: the precision of each operator of a .tflite file.

Weights are signed, symmetric and per channel, activations signed and per tensor. int8 calibrates
convolutions, linear layers and what lies between convolutions; int8-dynamic computes the scale of
activations for each input. Products of two activations, the addition of the mask (its -1e4 would
stretch the scale of the scores until all of them fall into one step) and normalisation stay in
float.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update

from msd_export.formats import Precision
from msd_export.litert.layers import CLASSIFIER_SCOPE
from msd_export.litert.predictor import MAIN_ENTRY
from msd_export.signature import (
    TEXT_ENTRY,
    TEXT_INPUT_NAMES,
    ModelInputs,
    single_examples,
)

Ranges = dict[str, dict[str, Any]]
"""By tensor, as ai-edge-quantizer keeps them."""

_Operation = qtyping.TFLOperationName
_WEIGHTED = (_Operation.CONV_2D, _Operation.DEPTHWISE_CONV_2D, _Operation.FULLY_CONNECTED)
# These only move numbers: in float, each would cost two conversions.
_BETWEEN_CONVOLUTIONS = (_Operation.PAD, _Operation.TRANSPOSE, _Operation.RESHAPE)
_CONVOLUTIONAL = r"\.(ConvStem|EfficientNetLite)_vision"
_EVERYWHERE = ".*"
_HALF = qtyping.OpQuantizationConfig(
    weight_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
    ),
    compute_precision=qtyping.ComputePrecision.FLOAT,
    explicit_dequantize=True,
)


def quantize_litert(
    source: Path,
    destination: Path,
    precision: Precision,
    *,
    ranges: Ranges | None = None,
    kept: Collection[str] = (),
) -> None:
    """Write a float32 .tflite file in another precision.

    Args:
        source: The float32 file.
        destination: The file to write.
        precision: fp16, int8 or int8-dynamic.
        ranges: What `ranges_of` returned for the source; int8 alone needs them.
        kept: Scopes, as regular expressions of `litert.layers.scope_of`, whose operators stay in
            float.
    """
    quantizer = _quantizer_for(source, precision)
    for scope in kept:
        quantizer.update_quantization_recipe(
            scope, _Operation.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    result = quantizer.quantize(ranges, enable_progress_report=False)
    destination.write_bytes(bytes(result.quantized_model))


def ranges_of(source: Path, calibration: ModelInputs, texts: ModelInputs | None) -> Ranges:
    """Return the least and greatest value of each tensor that int8 scales.

    The quantizer's own calibration follows them with a moving average, which forgets the views that
    come first.

    Args:
        source: The float32 file.
        calibration: Training examples of all three views.
        texts: Training examples of the text view, for the entry point that takes a text alone; None
            where the file has none.
    """
    recipe = RecipeManager()
    recipe.load_quantization_recipe(_quantizer_for(source, "int8").get_quantization_recipe())
    calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=min_max_update)
    examples = {MAIN_ENTRY: list(single_examples(calibration))}
    if texts is not None:
        examples[TEXT_ENTRY] = list(single_examples(texts, TEXT_INPUT_NAMES))
    calibrator.calibrate(examples, recipe)
    ranges: Ranges = calibrator.get_model_qsvs()
    return ranges


def _quantizer_for(source: Path, precision: Precision) -> Quantizer:
    quantizer = Quantizer(str(source))
    for operation in (*_WEIGHTED, _Operation.EMBEDDING_LOOKUP):
        _set_precision(quantizer, operation, precision)
    if precision == "int8":
        for operation in _BETWEEN_CONVOLUTIONS:
            quantizer.add_static_config(_CONVOLUTIONAL, operation, 8, 8)
        quantizer.add_static_config(r"\._InvertedResidual_", _Operation.ADD, 8, 8)
        # Or logits beyond those of the calibration would be cut off, and decisions with them.
        quantizer.add_dynamic_config(CLASSIFIER_SCOPE, _Operation.FULLY_CONNECTED, 8)
    return quantizer


def _set_precision(
    quantizer: Quantizer, operation: qtyping.TFLOperationName, precision: Precision
) -> None:
    if precision == "fp16":
        quantizer.update_quantization_recipe(
            _EVERYWHERE, operation, op_config=_HALF, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
    elif precision == "int8" and operation in _WEIGHTED:
        quantizer.add_static_config(_EVERYWHERE, operation, 8, 8)
    else:
        quantizer.add_dynamic_config(_EVERYWHERE, operation, 8)
