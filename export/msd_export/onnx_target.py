"""The target onnx: float32 through torch.export, the other precisions made from that file."""

import shutil
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.onnx_export import export_onnx
from msd_export.onnx_quantize import quantize_onnx_int8


class OnnxConverter:
    """Writes ONNX files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source

    def convert(self, precision: Precision, path: Path) -> Json:
        """Write a form; see `converters.Converter`."""
        return self.convert_mixed(precision, path, ())

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what `convert_mixed` can keep in float; see `converters.MixingConverter`."""
        return ()

    def convert_mixed(self, precision: Precision, path: Path, kept: Collection[str]) -> Json:
        """Write a form, some groups in float; see `converters.MixingConverter`."""
        if precision == "fp32":
            shutil.copyfile(self.float32(), path)
        elif precision == "int8":
            quantize_onnx_int8(self.float32(), path, self._source.calibration())
        else:
            raise NotImplementedError(precision)
        return {}

    def float32(self) -> Path:
        """Return the float32 file, converted at the first call."""
        path = self._source.scratch / "float32.onnx"
        if not path.exists():
            graph = self._source.graph("nhwc")
            export_onnx(graph, self._source.signature, self._source.metadata(), path)
        return path
