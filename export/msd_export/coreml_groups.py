"""Which constants and operations of a saved Core ML package belong to which group of layers.

Groups are named as those of the ONNX target are, by the module that a parameter stands in.
coremltools names a constant after its parameter, the parts joined by _; what it folds or transposes
loses that name, and belongs to the layer of the bias that its product meets.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from msd_export.coreml_package import Spec
from msd_export.coreml_storage import float_type, name_of, operations_of, read_names
from msd_export.layer_names import group_of as group_of_layer

_MADE = re.compile(r"(_to_fp16|_to_fp32)+$")
_WITH_WEIGHTS = frozenset({"conv", "linear", "matmul", "gather"})


@dataclass(frozen=True, slots=True)
class PackageGroups:
    """The division of a package among groups, in the order of the program.

    Attributes:
        weights: Group by the name of a constant that a layer or embedding multiplies or looks up.
        operations: Group by the name of an operation that is not a constant.
    """

    weights: Mapping[str, str]
    operations: Mapping[str, str]


def groups_of_package(spec: Spec, parameters: Iterable[str]) -> PackageGroups:
    """Divide a float package.

    An operation with weights belongs to their group; any other to the group of what it reads first.

    Args:
        spec: The package's description.
        parameters: Names of the parameters of the module that was converted.
    """
    named = {
        f"p_{name.replace('.', '_')}": group_of_layer(name.rpartition(".")[0])
        for name in parameters
    }
    operations = list(operations_of(spec))
    constants = {op.outputs[0].name: op for op in operations if op.type == "const"}
    own = {name: named[plain] for name in constants if (plain := _MADE.sub("", name)) in named}
    weights: dict[str, str] = {}
    group_of: dict[str, str] = {}
    divided: dict[str, str] = {}
    for operation in operations:
        if operation.type == "const":
            continue
        read = list(_weights_of(operation, constants))
        group = _first(read, own) or (read and _bias_group(operation, operations, own))
        group = group or _first(read_names(operation), group_of)
        if not group:
            continue
        weights |= {name_of(constants[name]): weights.get(name, group) for name in read}
        divided[name_of(operation)] = group
        group_of |= {output.name: group for output in operation.outputs}
    return PackageGroups(weights, divided)


def _weights_of(operation: Spec, constants: Mapping[str, Spec]) -> Iterator[str]:
    """Yield the constants of an operation that have at least two dimensions."""
    if operation.type in _WITH_WEIGHTS:
        for name in read_names(operation):
            kind = constants[name].outputs[0].type.tensorType if name in constants else None
            if kind is not None and kind.rank > 1 and float_type(kind) is not None:
                yield name


def _first(names: Iterable[str], groups: Mapping[str, str]) -> str:
    return next((groups[name] for name in names if name in groups), "")


def _bias_group(operation: Spec, operations: Iterable[Spec], own: Mapping[str, str]) -> str:
    """Return the group of an operation's bias, its own or one that is added to its result."""
    result = operation.outputs[0].name
    readers = [op for op in operations if op.type == "add" and result in read_names(op)]
    return next(filter(None, (_first(read_names(op), own) for op in [operation, *readers])), "")
