"""CoreMLConverter: fp32 and fp16 through torch.export, other precisions from the fp16 package."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import ExportError
from msd_export.coreml.activations import operations_to_quantize, quantize_activations
from msd_export.coreml.calibration import Calibration
from msd_export.coreml.export import FloatPrecision, export_coreml
from msd_export.coreml.package import add_class_label, read_spec
from msd_export.coreml.spec import (
    PackageGroups,
    count_integer_operations,
    count_weights,
    groups_of_package,
)
from msd_export.coreml.weights import palettize_weights, palettized_weights, quantize_weights_int8
from msd_export.formats import PRECISIONS, Precision
from msd_export.model_file import refuse_float
from msd_export.source import ExportSource


class CoreMLConverter:
    """Writes Core ML packages of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._measured: Calibration | None = None
        self._divided: PackageGroups | None = None

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in higher precision; see `Converter`, `PrecisionFacts.kept_as`."""
        match precision:
            case "pal6" | "pal4":
                names = palettized_weights(read_spec(self._in_float("fp16")))
                divided = self._groups().weights
            case "w8a8":
                names = operations_to_quantize(read_spec(self._in_float("fp16")))
                divided = self._groups().operations
            case _:
                return ()
        return tuple(dict.fromkeys(divided[name] for name in names if name in divided))

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`."""
        match precision:
            case "fp32" | "fp16":
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(self._in_float(precision), path)
            case "int8":
                quantize_weights_int8(self._in_float("fp16"), path, self._calibration())
            case "pal6" | "pal4":
                weights = _names_within(self._groups().weights, kept)
                float16, calibration = self._in_float("fp16"), self._calibration()
                palettize_weights(float16, path, precision, calibration, kept=weights)
            case "w8a8":
                operations = _names_within(self._groups().operations, kept)
                float16, calibration = self._in_float("fp16"), self._calibration()
                quantize_activations(float16, path, calibration, kept=operations)
            case _:
                raise NotImplementedError(precision)
        signature = self._source.signature
        if signature.problem == "single_label":  # last: the quantizers read programs of tensors
            add_class_label(path, signature.labels)

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count weights by how they are stored, and operations that read 8-bit activations.

        See `converters.Converter`.
        """
        weights, integer_operations = count_weights(path), count_integer_operations(path)
        stored_as = PRECISIONS[precision].stored_as
        if stored_as is not None:
            refuse_float(precision, weights.get(stored_as, 0), path)
        if precision == "w8a8" and not integer_operations:
            raise ExportError("w8a8 quantization left every activation in float", where=path.name)
        activations = {"int8_activations": dict(integer_operations)}
        return {"weights": dict(weights), "operators": activations}

    def _calibration(self) -> Calibration:
        if self._measured is None:
            self._measured = Calibration(self._in_float("fp16"), self._source.calibration())
        return self._measured

    def _groups(self) -> PackageGroups:
        if self._divided is None:
            parameters = [name for name, _ in self._source.graph("nchw").named_parameters()]
            self._divided = groups_of_package(read_spec(self._in_float("fp16")), parameters)
        return self._divided

    def _in_float(self, precision: FloatPrecision) -> Path:
        path = self._source.scratch / f"{precision}.mlpackage"
        if not path.exists():
            graph, signature = self._source.graph("nchw"), self._source.signature
            export_coreml(graph, signature, self._source.metadata(), path, precision=precision)
        return path


def _names_within(divided: Mapping[str, str], kept: Collection[str]) -> set[str]:
    return {name for name, group in divided.items() if group in kept}
