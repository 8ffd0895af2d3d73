"""The target coreml: float through torch.export, the others made from its fp16 package."""

import shutil
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_deploy.errors import ExportError
from msd_export.coreml_activations import quantize_activations
from msd_export.coreml_export import FloatPrecision, export_coreml
from msd_export.coreml_quantize import palettize_weights, quantize_weights_int8
from msd_export.coreml_storage import count_integer_operations, count_weights
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.operator_counts import refuse_float

_STORED_AS: dict[Precision, str] = {"int8": "int8", "pal6": "pal6", "pal4": "pal4", "w8a8": "int8"}


class CoreMLConverter:
    """Writes Core ML packages of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return (): no layers are kept in float; see `converters.Converter`."""
        return ()

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a form; see `converters.Converter`."""
        assert not kept
        match precision:
            case "fp32" | "fp16":
                shutil.copytree(self._in_float(precision), path)
            case "int8":
                quantize_weights_int8(self._in_float("fp16"), path)
            case "pal6" | "pal4":
                calibration = self._source.calibration()
                palettize_weights(self._in_float("fp16"), path, precision, calibration)
            case "w8a8":
                quantize_activations(self._in_float("fp16"), path, self._source.calibration())
            case _:
                raise NotImplementedError(precision)

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count weights by how they are stored, and operations that read 8-bit activations.

        See `converters.Converter`.
        """
        weights, integer_operations = count_weights(path), count_integer_operations(path)
        stored_as = _STORED_AS.get(precision)
        if stored_as is not None:
            refuse_float(precision, weights.get(stored_as, 0), path)
        if precision == "w8a8" and not integer_operations:
            raise ExportError("w8a8 quantization left every activation in float", where=path.name)
        activations = {"int8_activations": dict(integer_operations)}
        return {"weights": dict(weights), "operators": activations}

    def _in_float(self, precision: FloatPrecision) -> Path:
        path = self._source.scratch / f"{precision}.mlpackage"
        if not path.exists():
            graph, signature = self._source.graph("nchw"), self._source.signature
            export_coreml(graph, signature, self._source.metadata(), path, precision=precision)
        return path
