"""int8 for ONNX Runtime: static quantization (QDQ), activations calibrated on training examples.

Weights are signed, symmetric and per channel; activations unsigned and per tensor. Weights use
seven of their eight bits: CPUs without VNNI add pairs of u8 * s8 products in 16 bits, which
saturates with full-range weights (microsoft/onnxruntime 5644), and the file must give the same
answers everywhere. Depthwise convolutions, whose kernels do not do that, use all eight.
"""

import copy
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from msd_deploy.errors import ExportError
from msd_deploy.quiet import quiet_python
from msd_export.formats import CalibrationMethod
from msd_export.onnx.export import save_like
from msd_export.onnx.layers import (
    attention_nodes,
    depthwise_weights,
    layer_groups,
    share_equal_weights,
    stream_sums,
)
from msd_export.signature import ModelInputs, single_example

# The operators between convolutions too: a float one among integer ones costs two conversions.
QUANTIZED_OPERATORS = ("Conv", "MatMul", "Gemm", "Add", "Clip", "Relu", "Gather")

_PERCENTILE = 99.99
_BINS = 512


class _Examples:
    """Feeds calibration examples to ONNX Runtime's quantizer (its CalibrationDataReader)."""

    def __init__(self, inputs: ModelInputs) -> None:
        rows = range(len(inputs["image"]))
        self._examples = iter([single_example(inputs, row) for row in rows])

    def get_next(self) -> ModelInputs | None:
        """Return the next example, or None at the end."""
        return next(self._examples, None)

    def __iter__(self) -> Iterator[ModelInputs]:
        return self._examples

    def set_range(self, start_index: int, end_index: int) -> None:
        """Unused: all examples are calibrated at once."""


class StaticQuantizer:
    """A float32 file that was run on calibration examples once, to be quantized in several ways.

    Args:
        source: The float32 file.
        calibration: Training examples of all three views, whose activations set the scales.
        method: How an activation's range follows from what was seen. minmax: all of it; entropy:
            the range whose histogram diverges least from the whole one; percentile: all but the
            outermost ten-thousandth.

    Raises:
        ExportError: ONNX Runtime cannot prepare or run the file.
    """

    def __init__(
        self, source: Path, calibration: ModelInputs, *, method: CalibrationMethod = "minmax"
    ) -> None:
        self._original = onnx.load(source)
        try:
            with quiet_python(), tempfile.TemporaryDirectory() as scratch:
                prepared = Path(scratch) / "prepared.onnx"
                self._prepared = _prepare(source, prepared)
                self._ranges = _calibrate(prepared, calibration, method)
        except Exception as error:  # the quantizer raises whatever its passes meet
            raise ExportError(f"int8 calibration failed ({error})", where=source.name) from error
        self._groups = layer_groups(self._prepared)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of layers that `write` can keep in float."""
        return tuple(self._groups)

    def write(self, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write the int8 file.

        Args:
            path: The file.
            kept: Groups of layers that stay in float32.

        Raises:
            ExportError: The quantizer failed, or left the model in float.
        """
        excluded = attention_nodes(self._prepared) + stream_sums(self._prepared)
        excluded += [name for group in kept for name in self._groups[group]]
        try:
            with quiet_python():
                save_like(self._original, self._quantized(excluded), path)
        except Exception as error:  # as above
            raise ExportError(f"int8 quantization failed ({error})", where=path.name) from error

    def _quantized(self, excluded: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        quantizer = QDQQuantizer(
            copy.deepcopy(self._prepared),
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=copy.deepcopy(self._ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=excluded,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            extra_options={"TensorQuantOverrides": _full_range_weights(self._prepared)},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        model: onnx.ModelProto = quantizer.model.model
        share_equal_weights(model)
        return model


def _full_range_weights(model: onnx.ModelProto) -> dict[str, list[dict[str, object]]]:
    """Return the overrides by which depthwise convolutions use all 8 bits of their weights.

    Their kernels multiply one channel at a time and widen each product, so nothing saturates; and
    their 9 or 25 weights a channel are what seven bits hurt most (measured on a mobile student: the
    divergence on the test split halves, .207 to .085).
    """
    from onnxruntime.quantization import QuantType

    full = {"quant_type": QuantType.QInt8, "reduce_range": False, "axis": 0}
    return {name: [dict(full)] for name in depthwise_weights(model)}


def _prepare(source: Path, prepared: Path) -> onnx.ModelProto:
    """Write and return the file with shapes inferred and constants folded."""
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model: onnx.ModelProto = load_model_with_shape_infer(prepared)
    return model


def _calibrate(prepared: Path, inputs: ModelInputs, method: CalibrationMethod) -> Any:
    """Return the ranges of all activations, as ONNX Runtime's quantizer takes them."""
    from onnxruntime.quantization import CalibrationMethod as Method
    from onnxruntime.quantization.calibrate import create_calibrator

    methods: Mapping[CalibrationMethod, Any] = {
        "minmax": Method.MinMax,
        "entropy": Method.Entropy,
        "percentile": Method.Percentile,
    }
    options: Mapping[CalibrationMethod, dict[str, object]] = {
        "minmax": {},
        "entropy": {"num_bins": _BINS},  # its own 128 are as many as the steps: nothing to choose
        "percentile": {"percentile": _PERCENTILE},
    }
    calibrator = create_calibrator(
        prepared,
        list(QUANTIZED_OPERATORS),
        augmented_model_path=str(prepared.with_suffix(".augmented.onnx")),
        calibrate_method=methods[method],
        extra_options=options[method],
    )
    calibrator.collect_data(_Examples(inputs))
    return calibrator.compute_data()
