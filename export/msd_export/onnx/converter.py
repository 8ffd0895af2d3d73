"""OnnxConverter and OrtConverter: fp32 through torch.export, other precisions from that file.

An .ort file, the format of ONNX Runtime mobile, is converted from the ONNX variant of the same
precision. Its converter applies the optimizations that do not depend on a processor and writes a
flat buffer, which is read without protobuf, also by a build with only the operators of a model.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts.manifest import Json
from msd_export.formats import PRECISIONS, Precision
from msd_export.model_file import converting, refuse_float
from msd_export.onnx.branches import branch_around_image_encoder
from msd_export.onnx.export import export_onnx
from msd_export.onnx.inspector import count_weights_and_operators
from msd_export.onnx.static_int8 import StaticQuantizer
from msd_export.onnx.weight_only import quantize_dynamic, quantize_int4, store_fp16
from msd_export.source import ExportSource


class OnnxConverter:
    """Writes ONNX files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._static: StaticQuantizer | None = None
        self._skips = False

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float, of int8 alone; see `converters.Converter`."""
        return self._quantizer().groups if precision == "int8" else ()

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`."""
        self._write(precision, path, kept)
        self._skips = False
        if self._source.skips_image_encoder:
            with converting("ONNX", path):
                self._skips = branch_around_image_encoder(path)

    def _write(self, precision: Precision, path: Path, kept: Collection[str]) -> None:
        match precision:
            case "int8":
                self._quantizer().write(path, kept=kept)
            case "fp16":
                store_fp16(self.float32(), path)
            case "int8-dynamic":
                quantize_dynamic(self.float32(), path)
            case "int4":
                quantize_int4(self.float32(), path)
            case "fp32":
                shutil.copyfile(self.float32(), path)
            case _:
                raise NotImplementedError(precision)

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count weights and operators of an .onnx or .ort file; see `converters.Converter`."""
        weights, operators = count_weights_and_operators(path)
        stored_as = "float16" if precision == "fp16" else PRECISIONS[precision].stored_as
        if stored_as is not None:
            refuse_float(precision, weights.get(stored_as, 0), path)
        return {"weights": weights, "operators": operators, "skips_image_encoder": self._skips}

    def float32(self) -> Path:
        """Return the float32 file, converted at the first call."""
        path = self._source.scratch / "float32.onnx"
        if not path.exists():
            graph = self._source.graph("nhwc")
            export_onnx(graph, self._source.signature, self._source.metadata(), path)
        return path

    def _quantizer(self) -> StaticQuantizer:
        if self._static is None:
            self._static = StaticQuantizer(
                self.float32(), self._source.calibration(), method=self._source.calibration_method
            )
        return self._static


class OrtConverter:
    """Writes .ort files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._onnx = OnnxConverter(source)

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float; see `converters.Converter`."""
        return self._onnx.groups(precision)

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`."""
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            model = Path(scratch) / "model.onnx"
            self._onnx.convert(precision, model, kept=kept)
            convert_to_ort(model, path)

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count what the .ort file itself holds; see `converters.Converter`."""
        return self._onnx.describe(precision, path)


def convert_to_ort(model: Path, path: Path) -> None:
    """Write an ONNX file as .ort.

    Args:
        model: The .onnx file; the converter writes beside it.
        path: The file to write.

    Raises:
        ExportError: The converter failed.
    """
    with converting(".ort", path):
        from onnxruntime.tools.convert_onnx_models_to_ort import (
            OptimizationStyle,
            convert_onnx_models_to_ort,
        )

        convert_onnx_models_to_ort(model, optimization_styles=[OptimizationStyle.Fixed])
        shutil.move(model.with_suffix(".ort"), path)
