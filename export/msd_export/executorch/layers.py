"""The layers of a .pte file, which names no weights: a table of our own, stored as a method.

ExecuTorch numbers the operators that a delegate computes (their debug handles) and keeps these
numbers in the file. The layer of each is known when the program is lowered.
"""

import json
from typing import TYPE_CHECKING

from msd_export.executorch.predictor import MAIN_METHOD
from msd_export.layers import ROOT

if TYPE_CHECKING:
    from executorch.exir import EdgeProgramManager
    from torch import fx


METHOD = "msd_layers"
"""Answers with JSON: the debug handle of each operator with weights, and its layer."""

_AROUND = "exported."


def add_layers(lowered: "EdgeProgramManager") -> None:
    """Add the table to a lowered program."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    graph = lowered.exported_program(MAIN_METHOD).graph_module
    layers: dict[str, str] = {}
    for _, part, _ in get_lowered_submodules(graph):
        for node in part.original_module.graph.nodes:
            if _has_weights(node):
                layers[str(node.meta["debug_handle"])] = _layer(node)
    # They are known only now, and ExecuTorch has no public way to add a method after lowering.
    lowered._config_methods = {**(lowered._config_methods or {}), METHOD: json.dumps(layers)}


def read_layers(text: str) -> dict[int, str]:
    """Return the result of the method as layers by debug handle."""
    return {int(handle): str(layer) for handle, layer in json.loads(text).items()}


def _has_weights(node: "fx.Node") -> bool:
    from executorch.exir.dialects._ops import ops

    weighted = (ops.edge.aten.convolution.default, ops.edge.aten.linear.default)
    is_traced = "debug_handle" in node.meta and bool(node.meta.get("nn_module_stack"))
    return node.target in weighted and is_traced


def _layer(node: "fx.Node") -> str:
    *_, (name, _) = node.meta["nn_module_stack"].values()
    return str(name).removeprefix("L['self'].").removeprefix(_AROUND).removeprefix(ROOT)
