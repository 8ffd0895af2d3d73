"""The target executorch: .pte programs for ExecuTorch, computed by XNNPACK where it can.

One example at a time, of one text length; a second method takes a text alone, and both share their
weights. What XNNPACK has no operator for (looking up embeddings, layer normalisation) is left to
ExecuTorch's portable kernels.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.fx.traceback import NodeSource

from msd_deploy.artifacts.manifest import Json
from msd_deploy.quiet import quiet
from msd_export.executorch.layers import add_layers
from msd_export.executorch.predictor import MAIN_METHOD, rows_of
from msd_export.formats import PRECISIONS, Precision
from msd_export.graph import (
    HalfPrecision,
    entry_points_of,
    layer_groups,
    program_of,
)
from msd_export.model_file import converting
from msd_export.signature import INPUT_NAMES, TEXT_ENTRY, TEXT_INPUT_NAMES
from msd_export.source import ExportSource

if TYPE_CHECKING:
    from torch.export import ExportedProgram


_INPUTS = {MAIN_METHOD: INPUT_NAMES, TEXT_ENTRY: TEXT_INPUT_NAMES}
"""The inputs of each method, in its order."""


class ExecutorchConverter:
    """Writes .pte files of one source; see `converters.Converter`.

    Args:
        source: What is exported.
    """

    def __init__(self, source: ExportSource) -> None:
        self._source = source

    def groups(self, precision: Precision) -> tuple[str, ...]:
        """Return what can stay in float; see `converters.Converter`."""
        if not PRECISIONS[precision].is_integer:
            return ()
        return layer_groups(self._source.graph("nhwc"))

    def convert(self, precision: Precision, path: Path, *, kept: Collection[str] = ()) -> None:
        """Write a variant; see `converters.Converter`."""
        with converting("ExecuTorch", path), _shared_provenance():
            programs = self._programs(precision, kept)
            path.write_bytes(lower_to_xnnpack(programs, self._source.metadata()))

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count operators and integer weights; see `converters.Converter`."""
        with quiet():
            from msd_export.executorch.program import count_operators

            counts = count_operators(path)
        counts.check(precision, path)
        return counts.as_json()

    def _programs(
        self, precision: Precision, kept: Collection[str]
    ) -> dict[str, "ExportedProgram"]:
        """Return the graph of each method, by the method's name."""
        graph = self._source.graph("nhwc")
        entries = entry_points_of(graph, MAIN_METHOD)
        if precision == "fp32":
            return {name: self._exported(entry, name) for name, entry in entries.items()}
        if precision == "fp16":
            halves = {name: HalfPrecision(entry) for name, entry in entries.items()}
            return {name: self._exported(half, name) for name, half in halves.items()}
        assert PRECISIONS[precision].is_integer
        from msd_export.executorch.quantize import (
            StudentQuantizer,
            quantize,
            quantize_word_embeddings,
        )

        quantize_word_embeddings(graph, kept)
        programs = {}
        for name, entry in entries.items():
            quantizer = StudentQuantizer(kept, is_dynamic=precision == "int8-dynamic")
            module = quantize(self._exported(entry, name), quantizer, self._calibration(name))
            programs[name] = self._exported(module, name)
        return programs

    def _exported(self, module: nn.Module, method: str) -> "ExportedProgram":
        return program_of(module, self._source.signature, _INPUTS[method])

    def _calibration(self, method: str) -> list[tuple[Tensor, ...]]:
        """Return the inputs of a method for each training example that calibrates it."""
        source = self._source
        inputs = source.text_calibration() if method == TEXT_ENTRY else source.calibration()
        return rows_of(inputs, _INPUTS[method])


@contextlib.contextmanager
def _shared_provenance() -> Iterator[None]:
    """Let nodes share the record of the nodes that they were made from.

    Each of some forty passes makes every node anew, and PyTorch 2.13 copies for each the whole
    chain of records before it: a third of a conversion's time. Nothing changes a record.
    """

    def shared(self: NodeSource, memo: dict[int, object]) -> NodeSource:
        return self

    NodeSource.__deepcopy__ = shared  # type: ignore[attr-defined]  # not defined by the class
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]


def lower_to_xnnpack(
    programs: Mapping[str, "ExportedProgram"], metadata: Mapping[str, str]
) -> bytes:
    """Return programs as the content of a .pte file, what XNNPACK can compute handed to it.

    Args:
        programs: The graphs, by the name of their method.
        metadata: Each entry becomes a method without inputs, which returns it.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        dict(programs),
        partitioner={name: [XnnpackPartitioner()] for name in programs},
        constant_methods=dict(metadata),
    )
    add_layers(lowered)
    content: bytes = lowered.to_executorch().buffer
    return content
