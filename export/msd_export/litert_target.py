"""The target litert: .tflite files for LiteRT, float32 and the precisions made from that file.

One example at a time, of one text length.
"""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from msd_deploy.artifacts import Json
from msd_deploy.errors import ExportError
from msd_export.export_source import ExportSource
from msd_export.formats import Precision
from msd_export.layer_groups import layer_groups
from msd_export.operator_counts import is_integer
from msd_export.quiet import quiet

if TYPE_CHECKING:
    from msd_export.litert_quantize import Ranges


class LiteRTConverter:
    """Writes .tflite files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._ranges: Ranges | None = None

    def convert(self, precision: Precision, path: Path) -> Json:
        """Write a form; see `converters.Converter`."""
        return self.convert_mixed(precision, path, ())

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what `convert_mixed` can keep in float; see `converters.MixingConverter`."""
        if not is_integer(precision):
            return ()
        return layer_groups(self._source.graph("nhwc"))

    def convert_mixed(self, precision: Precision, path: Path, kept: Collection[str]) -> Json:
        """Write a form, some groups in float; see `converters.MixingConverter`."""
        try:
            with quiet():
                from msd_export.litert_program import count_operators, finish

                self._write(precision, path, kept)
                counts = count_operators(path)
                finish(path, self._source.metadata())
        # litert-torch, its quantizer and torch.export raise whatever their passes meet.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"the conversion to LiteRT failed ({reason})", where=path.name
            ) from error
        counts.check(precision, path)
        return counts.as_json()

    def _write(self, precision: Precision, path: Path, kept: Collection[str]) -> None:
        from msd_export.litert_quantize import quantize_litert, ranges_of, scope_of

        if precision == "fp32":
            shutil.copyfile(self._float32(), path)
            return
        if precision == "int8" and self._ranges is None:
            self._ranges = ranges_of(self._float32(), self._source.calibration())
        graph = self._source.graph("nhwc")
        quantize_litert(
            self._float32(),
            path,
            precision,
            ranges=self._ranges if precision == "int8" else None,
            kept=[scope_of(graph, name) for name in kept],
        )

    def _float32(self) -> Path:
        from msd_export.litert_export import export_litert

        path = self._source.scratch / "float32.tflite"
        if not path.exists():
            export_litert(self._source.graph("nhwc"), self._source.signature, path)
        return path
