"""The target onnx: float32 through torch.export, the other precisions made from that file."""

import shutil
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.onnx_export import export_onnx
from msd_export.onnx_layers import count_operators, count_weights
from msd_export.onnx_static import StaticQuantizer
from msd_export.onnx_weights import quantize_dynamic, quantize_int4, store_fp16


class OnnxConverter:
    """Writes ONNX files of one source; see `converters.MixingConverter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._static: StaticQuantizer | None = None

    def convert(self, precision: Precision, path: Path) -> Json:
        """Write a form; see `converters.Converter`."""
        return self.convert_mixed(precision, path, ())

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float, of int8 alone; see `converters.MixingConverter`."""
        return self._quantizer().groups if precision == "int8" else ()

    def convert_mixed(self, precision: Precision, path: Path, kept: Collection[str]) -> Json:
        """Write a form, some groups in float; see `converters.MixingConverter`."""
        match precision:
            case "int8":
                self._quantizer().write(path, kept=kept)
            case "fp16":
                store_fp16(self.float32(), path)
            case "int8-dynamic":
                quantize_dynamic(self.float32(), path)
            case "int4":
                quantize_int4(self.float32(), path)
            case _:
                shutil.copyfile(self.float32(), path)
        return {"weights": count_weights(path), "operators": count_operators(path)}

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
