"""The target ort: the format of ONNX Runtime mobile, made from the ONNX form of the same precision.

The converter applies the optimizations that do not depend on a processor, and writes a flat buffer
that is read without protobuf, also by a build that holds only the operators that a model needs.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.onnx_target import OnnxConverter
from msd_export.quiet import converting


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
        """Write a form; see `converters.Converter`."""
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
