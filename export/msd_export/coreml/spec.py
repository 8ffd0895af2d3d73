"""Walk a Core ML program's protobuf: operations, weight storage, groups of layers.

Read from the written program itself, so that what a quantizer left in float is seen. A weight is an
element of a float constant that has dimensions, or of a compressed one; indices, look-up tables and
scales are no weights.

Which constants and operations of a saved Core ML package belong to which group of layers.

Groups are named as those of the ONNX target are, by the module that a parameter stands in.
coremltools names a constant after its parameter, the parts joined by _; what it folds or transposes
loses that name, and belongs to the layer of the bias that its product meets.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msd_export.coreml.package import Spec, read_spec
from msd_export.layers import group_of as group_of_layer

_FLOATS = {"FLOAT16": "fp16", "FLOAT32": "fp32"}

INTEGER_TYPES = ("conv", "linear", "add", "avg_pool", "max_pool")
"""Operations that Core ML can compute on 8-bit activations."""


def count_weights(package: Path) -> dict[str, int]:
    """Count a package's weights by how they are stored: int8, pal4, pal6, fp16, fp32, ...

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    operations = list(operations_of(read_spec(package)))
    tables = {
        name
        for operation in operations
        if operation.type.startswith("constexpr_")
        for name in read_names(operation)
    }
    count: Counter[str] = Counter()
    for operation in operations:
        output = operation.outputs[0]
        kind = _stored_as(operation)
        if kind and output.name not in tables and output.type.tensorType.rank:
            count[kind] += elements_of(output.type.tensorType)
    return dict(sorted(count.items()))


def count_integer_operations(package: Path) -> dict[str, int]:
    """Count the operations of each type that read activations of 8 bits.

    Raises:
        ArtifactError: It is not a package, or holds no ML Program.
    """
    operations = list(operations_of(read_spec(package)))
    integers = {
        operation.outputs[0].name for operation in operations if operation.type == "dequantize"
    }
    count = Counter(
        operation.type
        for operation in operations
        if operation.type in INTEGER_TYPES and integers & set(read_names(operation))
    )
    return dict(sorted(count.items()))


def operations_of(spec: Spec) -> Iterator[Spec]:
    """Yield the operations of a model's program, constants included."""
    for function in spec.mlProgram.functions.values():
        yield from function.block_specializations[function.opset].operations


def read_names(operation: Spec) -> Iterator[str]:
    """Yield the names of the values that an operation reads."""
    for argument in operation.inputs.values():
        yield from (binding.name for binding in argument.arguments)


def name_of(operation: Spec) -> str:
    """Return an operation's own name, by which coremltools' choices go."""
    return str(operation.attributes["name"].immediateValue.tensor.strings.values[0])


def _stored_as(operation: Spec) -> str | None:
    """Return how an operation's constant is stored; None if it is no float constant."""
    match operation.type:
        case "const":
            return float_type(operation.outputs[0].type.tensorType)
        case "constexpr_affine_dequantize":
            return _type_name(operation.attributes["quantized_data"].type.tensorType).lower()
        case "constexpr_lut_to_dense":
            return f"pal{_table_bits(operation)}"
        case kind if kind.startswith("constexpr_"):
            return str(kind.removeprefix("constexpr_"))
    return None


def _table_bits(operation: Spec) -> int:
    """Return the bits of an index: the table of iOS 16's operation has 2 ** bits entries."""
    return round(math.log2(elements_of(operation.attributes["lut"].type.tensorType)))


def _type_name(tensor_type: Spec) -> str:
    from coremltools.proto import MIL_pb2

    return str(MIL_pb2.DataType.Name(tensor_type.dataType))


def float_type(tensor_type: Spec) -> str | None:
    """Return fp16 or fp32; None if the tensor is of another type."""
    return _FLOATS.get(_type_name(tensor_type))


def elements_of(tensor_type: Spec) -> int:
    """Return the elements of a tensor by its type."""
    return math.prod(size.constant.size for size in tensor_type.dimensions)


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
