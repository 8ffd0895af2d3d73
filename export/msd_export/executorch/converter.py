"""The target executorch: .pte programs for ExecuTorch, computed by XNNPACK where it can.

One example at a time, of one text length. What XNNPACK has no operator for (looking up embeddings,
layer normalisation) is left to ExecuTorch's portable kernels.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from msd_deploy.artifacts.manifest import Json
from msd_deploy.quiet import quiet
from msd_export.executorch.layers import add_layers
from msd_export.formats import PRECISIONS, Precision
from msd_export.graph import ExportableGraph, example_inputs, layer_groups
from msd_export.model_file import converting
from msd_export.source import ExportSource

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class HalfPrecision(nn.Module):
    """A graph that computes in float16 between borders that stay as they are.

    Args:
        graph: Its weights become float16.
    """

    def __init__(self, graph: ExportableGraph) -> None:
        super().__init__()
        self.exported = graph.half()

    def forward(
        self, image: Tensor, image_present: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits and probabilities, float32 [1, classes]."""
        outputs = self.exported(image, image_present, input_ids, attention_mask)
        return tuple(output.float() for output in outputs)


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
        with converting("ExecuTorch", path):
            program = self._program(precision, kept)
            path.write_bytes(lower_to_xnnpack(program, self._source.metadata()))

    def describe(self, precision: Precision, path: Path) -> Json:
        """Count operators and integer weights; see `converters.Converter`."""
        with quiet():
            from msd_export.executorch.program import count_operators

            counts = count_operators(path)
        counts.check(precision, path)
        return counts.as_json()

    def _program(self, precision: Precision, kept: Collection[str]) -> "ExportedProgram":
        graph = self._source.graph("nhwc")
        if precision == "fp32":
            return self._exported(graph)
        if precision == "fp16":
            return self._exported(HalfPrecision(graph))
        assert PRECISIONS[precision].is_integer
        from msd_export.executorch.quantize import (
            StudentQuantizer,
            quantize,
            quantize_word_embeddings,
        )

        quantize_word_embeddings(graph, kept)
        quantizer = StudentQuantizer(kept, is_dynamic=precision == "int8-dynamic")
        module = quantize(self._exported(graph), quantizer, self._source.calibration())
        return self._exported(module)

    def _exported(self, module: nn.Module) -> "ExportedProgram":
        example = example_inputs(self._source.signature, batch=1)
        with torch.no_grad():
            return torch.export.export(module, example, strict=False)


def lower_to_xnnpack(program: "ExportedProgram", metadata: Mapping[str, str]) -> bytes:
    """Return a program as the content of a .pte file, what XNNPACK can compute handed to it.

    Args:
        program: The graph.
        metadata: Each entry becomes a method without inputs, which returns it.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods=dict(metadata)
    )
    add_layers(lowered)
    content: bytes = lowered.to_executorch().buffer
    return content
