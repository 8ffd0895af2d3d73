"""The target ort: the format of ONNX Runtime mobile, made from the ONNX form of the same precision.

The converter applies the optimizations that do not depend on a processor, and writes a flat buffer
that is read without protobuf, also by a build that holds only the operators that a model needs.
"""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_deploy.errors import ExportError
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.onnx_target import OnnxConverter


class OrtConverter:
    """Writes .ort files of one source; see `converters.MixingConverter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._onnx = OnnxConverter(source)

    def convert(self, precision: Precision, path: Path) -> Json:
        """Write a form; see `converters.Converter`."""
        return self.convert_mixed(precision, path, ())

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float; see `converters.MixingConverter`."""
        return self._onnx.groups(precision)

    def convert_mixed(self, precision: Precision, path: Path, kept: Collection[str]) -> Json:
        """Write a form, some groups in float; see `converters.MixingConverter`."""
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            model = Path(scratch) / "model.onnx"
            facts = self._onnx.convert_mixed(precision, model, kept)
            convert_to_ort(model, path)
        return facts


def convert_to_ort(model: Path, path: Path) -> None:
    """Write an ONNX file as .ort.

    Args:
        model: The .onnx file; the converter writes beside it.
        path: The file to write.

    Raises:
        ExportError: The converter failed.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import (
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    try:
        convert_onnx_models_to_ort(model, optimization_styles=[OptimizationStyle.Fixed])
    except Exception as error:  # it wraps whatever onnxruntime raises
        raise ExportError(f"the conversion to .ort failed ({error})", where=path.name) from error
    shutil.move(model.with_suffix(".ort"), path)
