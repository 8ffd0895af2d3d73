"""The target litert: .tflite files for LiteRT, float32 and the precisions made from that file.

One example at a time, of one text length.
"""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from msd_deploy.artifacts.manifest import Json
from msd_deploy.quiet import quiet
from msd_export.formats import PRECISIONS, Precision
from msd_export.graph import layer_groups
from msd_export.model_file import converting
from msd_export.source import ExportSource

if TYPE_CHECKING:
    from msd_export.litert.quantize import Ranges


class LiteRTConverter:
    """Writes .tflite files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source
        self._ranges: Ranges | None = None

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float; see `converters.Converter`."""
        if not PRECISIONS[precision].is_integer:
            return ()
        return layer_groups(self._source.graph("nhwc"))

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`."""
        with converting("LiteRT", path):
            from msd_export.litert.export import finish

            self._write(precision, path, kept)
            finish(path, self._source.metadata(), self._source.graph("nhwc"))

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count operators and integer weights; see `converters.Converter`."""
        with quiet():
            from msd_export.litert.program import count_operators

            counts = count_operators(path)
        counts.check(precision, path)
        return counts.as_json()

    def _write(self, precision: Precision, path: Path, kept: Collection[str]) -> None:
        from msd_export.litert.layers import scope_of
        from msd_export.litert.quantize import quantize_litert, ranges_of

        if precision == "fp32":
            shutil.copyfile(self._float32(), path)
            return
        if precision == "int8" and self._ranges is None:
            has_text = self._source.has_text_entry("litert")
            texts = self._source.text_calibration() if has_text else None
            self._ranges = ranges_of(self._float32(), self._source.calibration(), texts)
        graph = self._source.graph("nhwc")
        quantize_litert(
            self._float32(),
            path,
            precision,
            ranges=self._ranges if precision == "int8" else None,
            kept=[scope_of(graph, name) for name in kept],
        )

    def _float32(self) -> Path:
        from msd_export.litert.export import export_litert

        path = self._source.scratch / "float32.tflite"
        if not path.exists():
            export_litert(self._source.graph("nhwc"), self._source.signature, path)
        return path
