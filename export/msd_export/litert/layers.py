"""The layer of the model that an operator of a .tflite file belongs to, by its name.

litert-torch names an operator's output after the chain of modules that were called: class and name
of each. Where it fused operators, the chains of all follow each other.
"""

import re
from collections.abc import Iterator

from ai_edge_litert import schema_py_generated as schema
from torch import nn

from msd_export.graph import TextGraph
from msd_export.layers import CLASSIFIER, ROOT
from msd_export.litert.predictor import MAIN_ENTRY
from msd_export.litert.program import CONVERSIONS, indices, operator_name
from msd_export.signature import TEXT_ENTRY

# The operator is named after its output.
CLASSIFIER_SCOPE = f"^(?:{MAIN_ENTRY}|{TEXT_ENTRY})_logits"

_Named = list[tuple[str, re.Pattern[str]]]


def scope_of(graph: nn.Module, layer: str) -> str:
    """Return a regular expression of the names that a layer's operators have in a .tflite file.

    Args:
        graph: The exported graph.
        layer: The name of a module in it, without the root, or of a group.
    """
    if layer == CLASSIFIER:
        return CLASSIFIER_SCOPE
    parts = f"{ROOT}{layer}".split(".")
    links = [_link(graph, parts[: index + 1]) for index in range(len(parts))]
    ancestors = "".join(f"(?:{link}/)?" for link in links[:-1])
    root = "|".join(re.escape(kind.__qualname__) for kind in (type(graph), TextGraph))
    return rf"\.(?:{root})_exported/{ancestors}{links[-1]}(?:[/;]|$)"


def name_constants(model: schema.ModelT, graph: nn.Module) -> None:
    """Name constants after the layers that read them, and drop all other inner names.

    The chains of modules are 43 of the 149 kB of a tiny student in int8.

    Args:
        model: The file's content, as litert-torch or the quantizer named it; changed.
        graph: The exported graph.
    """
    named = list(_layers(graph))
    for entry in model.subgraphs:
        layers = _layers_of_inputs(model, entry, named)
        for index, tensor in enumerate(entry.tensors):
            if index not in (*entry.inputs, *entry.outputs):
                is_constant = model.buffers[tensor.buffer].data is not None
                tensor.name = layers.get(index, "") if is_constant else ""


def _layers(graph: nn.Module) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield the layers with parameters; those with most first, as where one took in another."""
    owners = [
        (sum(parameter.numel() for parameter in module.parameters()), name.removeprefix(ROOT))
        for name, module in graph.named_modules()
        if name.startswith(ROOT) and any(True for _ in module.parameters(recurse=False))
    ]
    for _, name in sorted(owners, reverse=True):
        yield name, re.compile(scope_of(graph, name))


def _layers_of_inputs(
    model: schema.ModelT, entry: schema.SubGraphT, named: _Named
) -> dict[int, str]:
    """Return the layer of each tensor: that of the operator that reads it first.

    Conversions between types stand in none: they go with what reads their result.
    """
    layers: dict[int, str] = {}
    for operator in reversed(entry.operators):
        output = int(operator.outputs[0])
        name = entry.tensors[output].name.decode()
        layer = next((layer for layer, scope in named if scope.search(name)), None)
        if operator_name(model, operator) in CONVERSIONS:
            layer = layers.get(output)
        if layer is not None:
            layers.update((index, layer) for index in indices(operator.inputs))
    return layers


def _link(graph: nn.Module, parts: list[str]) -> str:
    kind = type(graph.get_submodule(".".join(parts)))
    return re.escape(f"{kind.__module__}.{kind.__qualname__}_{parts[-1]}")
