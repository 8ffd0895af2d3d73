"""int8 for ExecuTorch: which operators of the student are computed in integers, and how.

Weights are signed, symmetric and per channel, activations signed and per tensor (XNNPACK's scheme,
applied by PT2E). Convolutions, linear layers and what lies between convolutions are integer.
Everything else stays in float: products of two activations, and the addition of the mask, whose
-1e4 would stretch the scale of the scores until all of them fall into one step.
"""

from collections.abc import Collection, Iterable

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    get_symmetric_quantization_config,
)
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

from msd_deploy.models.fusion import FusionForClassification
from msd_export.graph import ExportableGraph
from msd_export.layers import CLASSIFIER, WORD_EMBEDDINGS, group_of

_ANNOTATION = "quantization_annotation"
_CONVOLUTION, _LINEAR = torch.ops.aten.conv2d.default, torch.ops.aten.linear.default
_ADDITION, _PAD = torch.ops.aten.add.Tensor, torch.ops.aten.pad.default
# XNNPACK computes these as limits of the convolution's output, so the scale is that of the result:
# ReLU6 then has all 256 steps between 0 and 6.
_CLAMPS = (torch.ops.aten.relu.default, torch.ops.aten.hardtanh.default)


class StudentQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
    """Annotates the operators that are to be integer.

    Args:
        kept: Groups of layers that stay in float.
        is_dynamic: Scale activations anew for each input; only weighted operators then.
    """

    def __init__(self, kept: Collection[str], *, is_dynamic: bool) -> None:
        super().__init__()
        self._kept = tuple(kept)
        self._is_dynamic = is_dynamic
        self._config = _scheme(is_dynamic=is_dynamic)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate a graph; see `Quantizer`."""
        for node in model.graph.nodes:
            if node.target in (_CONVOLUTION, _LINEAR) and not _is_in(node, self._kept):
                self._annotate_weighted(node)
        if not self._is_dynamic:
            for node in model.graph.nodes:
                # Of a kept layer too: ExecuTorch 1.5.1 pads what comes from an integer layer in
                # integers by itself, and then cannot give it to a float convolution.
                if node.target is _PAD and _is_integer(_input_of(node)):
                    shared = SharedQuantizationSpec(_input_of(node))
                    _annotate(node, {_input_of(node): shared}, shared)
                elif node.target is _ADDITION and not _is_in(node, self._kept):
                    self._annotate_addition(node)
        return model

    def _annotate_addition(self, node: fx.Node) -> None:
        if all(map(_is_integer, node.all_input_nodes)):
            specs = dict.fromkeys(node.all_input_nodes, self._config.input_activation)
            _annotate(node, specs, self._config.output_activation)

    def validate(self, model: fx.GraphModule) -> None:
        """Accept any graph; see `Quantizer`."""

    def _annotate_weighted(self, node: fx.Node) -> None:
        weight = node.all_input_nodes[1]
        if self._is_dynamic and node.target is _CONVOLUTION and not _can_be_dynamic(node):
            return
        # Logits beyond those of the calibration would be cut off, and decisions with them.
        config = _scheme(is_dynamic=True) if _is_in(node, (CLASSIFIER,)) else self._config
        specs = {_input_of(node): config.input_activation, weight: config.weight}
        clamp = next(iter(node.users))
        if self._is_dynamic or len(node.users) > 1 or clamp.target not in _CLAMPS:
            _annotate(node, specs, config.output_activation)
        else:
            _annotate(node, specs, None)
            _annotate(clamp, {}, config.output_activation)


def quantize(
    program: ExportedProgram, quantizer: Quantizer, examples: Iterable[tuple[Tensor, ...]]
) -> fx.GraphModule:
    """Return a program's graph with its operators quantized.

    Args:
        program: The float graph, of one example.
        quantizer: Says which operators.
        examples: Inputs of training examples, whose activations set the scales.
    """
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        for example in examples:
            prepared(*example)
    quantized: fx.GraphModule = convert_pt2e(prepared)
    return quantized


class Int8Embedding(nn.Module):
    """An embedding whose rows are stored as int8, each with a scale of its own.

    The row w of a word becomes q = round(w / s) in -127..127 with s = max |w| / 127, and is looked
    up as s * q.

    Args:
        embedding: What it stands for.
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight = embedding.weight.detach()
        scales = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        self.register_buffer("rows", torch.round(weight / scales).to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return float32 [..., width] of int [...]."""
        rows = nn.functional.embedding(input_ids, self.rows)
        return rows.to(self.scales.dtype) * nn.functional.embedding(input_ids, self.scales)


def quantize_word_embeddings(graph: ExportableGraph, kept: Collection[str]) -> None:
    """Store a graph's word embeddings as int8, unless they are kept; changes the graph."""
    model = graph.model
    if not isinstance(model, FusionForClassification):  # other families keep theirs in float
        return
    if WORD_EMBEDDINGS not in kept:
        embeddings = Int8Embedding(model.word_embeddings)
        model.word_embeddings = embeddings  # type: ignore[assignment]  # same use


def _scheme(*, is_dynamic: bool) -> QuantizationConfig:
    config: QuantizationConfig = get_symmetric_quantization_config(
        is_per_channel=True, is_dynamic=is_dynamic
    )
    return config


def _is_in(node: fx.Node, groups: Collection[str]) -> bool:
    """Return whether a node was traced from a layer of some groups."""
    names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(group_of(name.removeprefix("L['self'].")) in groups for name in names)


def _annotate(
    node: fx.Node,
    inputs: dict[fx.Node, QuantizationSpecBase | None],
    output: QuantizationSpecBase | None,
) -> None:
    node.meta[_ANNOTATION] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _input_of(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _is_integer(node: fx.Node) -> bool:
    annotation: QuantizationAnnotation | None = node.meta.get(_ANNOTATION)
    return annotation is not None and isinstance(
        annotation.output_qspec, QuantizationSpec | SharedQuantizationSpec
    )


def _can_be_dynamic(node: fx.Node) -> bool:
    """Return whether XNNPACK computes a convolution whose input is scaled anew.

    It has no such depthwise convolution, and one after a pad of its own fails when it is run
    (executorch 1.5.1: "Propagating input shapes failed").
    """
    groups = node.args[6] if len(node.args) > 6 else 1
    return bool(groups == 1) and _input_of(node).target is not _PAD
