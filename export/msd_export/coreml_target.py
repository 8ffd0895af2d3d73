"""The target coreml: float16 through torch.export, the other precisions made from that package."""

import shutil
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_deploy.errors import ExportError
from msd_export.coreml_export import export_coreml
from msd_export.coreml_quantize import count_int8_weights, quantize_coreml_int8
from msd_export.export_source import ExportSource
from msd_export.formats import Precision


class CoreMLConverter:
    """Writes Core ML packages of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source

    def convert(self, precision: Precision, path: Path) -> Json:
        """Write a form; see `converters.Converter`."""
        if precision == "fp16":
            shutil.copytree(self._float16(), path)
        elif precision == "int8":
            quantize_coreml_int8(self._float16(), path)
            if count_int8_weights(path) == 0:
                raise ExportError("int8 quantization left every weight in float", where=path.name)
        else:
            raise NotImplementedError(precision)
        return {}

    def _float16(self) -> Path:
        path = self._source.scratch / "float16.mlpackage"
        if not path.exists():
            graph = self._source.graph("nchw")
            export_coreml(graph, self._source.signature, self._source.metadata(), path)
        return path
