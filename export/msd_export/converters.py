"""The interface of all targets for writing: Converter, and one converter per target.

A converter writes variants of one model; some can keep groups of layers in higher precision.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from msd_deploy.artifacts.manifest import Json
from msd_export.formats import Precision, Target
from msd_export.source import ExportSource


class Converter(Protocol):
    """Writes one target's files from one source; what several variants share is made once."""

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return the names of the groups of layers that can be exempted; () if none can.

        They stay in the type that `formats.kept_as` returns.
        """
        ...

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant.

        Args:
            precision: One that the target has.
            path: The file or package folder to write.
            kept: Of `groups`, those that stay in higher precision; see `formats.kept_as`.

        Raises:
            ExportError: The converter failed.
        """
        ...

    def describe(self, precision: Precision, path: Path) -> Json:
        """Return what a written variant holds, for parity.json under "conversion".

        Raises:
            ExportError: What was to be quantized is still in float.
        """
        ...


def converter_for(target: Target, source: ExportSource) -> Converter:
    """Return the converter of a target; its libraries are imported here and not before."""
    return _CONVERTERS[target](source)


def _onnx(source: ExportSource) -> Converter:
    from msd_export.onnx.converter import OnnxConverter

    return OnnxConverter(source)


def _ort(source: ExportSource) -> Converter:
    from msd_export.onnx.converter import OrtConverter

    return OrtConverter(source)


def _coreml(source: ExportSource) -> Converter:
    from msd_export.coreml.converter import CoreMLConverter

    return CoreMLConverter(source)


def _executorch(source: ExportSource) -> Converter:
    from msd_export.executorch.converter import ExecutorchConverter

    return ExecutorchConverter(source)


def _litert(source: ExportSource) -> Converter:
    from msd_export.litert.converter import LiteRTConverter

    return LiteRTConverter(source)


def _coreai(source: ExportSource) -> Converter:
    from msd_export.coreai.converter import CoreAIConverter

    return CoreAIConverter(source)


_CONVERTERS: dict[Target, Callable[[ExportSource], Converter]] = {
    "onnx": _onnx,
    "ort": _ort,
    "coreml": _coreml,
    "executorch": _executorch,
    "litert": _litert,
    "coreai": _coreai,
}
