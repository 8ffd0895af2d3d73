"""Write an ONNX graph node by node; every value gets a name of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

EXTENSIONS_DOMAIN = "com.microsoft.extensions"
CONTRIB_DOMAIN = "ai.onnx.contrib"


class GraphBuilder:
    """Collects nodes and constants.

    Args:
        prefix: Of all names that it makes.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix, self._count = prefix, 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(
        self,
        operator: str,
        *inputs: str,
        domain: str = "",
        name: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> str:
        """Add a node; return the name of its first output.

        Args:
            operator: Its type.
            inputs: Names; "" for one that is left out.
            domain: Of the operator.
            name: Stands in ONNX Runtime's error if the node fails.
            outputs: How many it has.
            attributes: As ONNX defines them.
        """
        made = [self._next() for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(
                operator, inputs, made, name=name or made[0], domain=domain, **attributes
            )
        )
        return made[0]

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """Add a constant; return its name."""
        array: NDArray[np.generic] = np.array(value, dtype)
        name = self._next()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def strings(self, values: Sequence[str]) -> str:
        """Add a constant [values] of strings; return its name."""
        name = self._next()
        array = np.array(values, object)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def named(self, value: str, name: str) -> None:
        """Give a value a second name, that of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def subgraph(self, output: str) -> onnx.GraphProto:
        """Return what was built as the branch of an If, with one output of any type."""
        value = helper.make_empty_tensor_value_info(output)
        return helper.make_graph(self.nodes, self._prefix, [], [value], self.initializers)

    def _next(self) -> str:
        self._count += 1
        return f"{self._prefix}_{self._count}"
