"""The one reader of a Core ML program's protobuf: operations, constants, storage, layer groups.

Everything is read from the written program, so that a weight which a quantizer left in float is
counted as such. A weight is an element of a float constant that has dimensions, or of a compressed
one; indices, look-up tables and scales are not weights. The values of constants are not read here:
`mil/program.py` has coremltools expand them.

Groups of layers have the same names as those of the ONNX target: the module of a parameter.
coremltools names a constant after its parameter, the parts joined by _; a constant that it folds or
transposes loses that name, and belongs to the layer of the bias that is added to its product.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msd_export.coreml.package import Spec, read_spec
from msd_export.layers import group_of as group_of_layer

FLOATS = {"float16": "fp16", "float32": "fp32"}
"""Short names of the float types, as weights are counted by in parity.json."""

INTEGER_TYPES = ("conv", "linear", "add", "avg_pool", "max_pool")
"""Operations that Core ML can compute on 8-bit activations."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value.

    Attributes:
        dtype: Of its elements, for example float16.
        shape: Its dimensions; () for a number.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


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
        kind, result = _stored_as(operation), result_of(operation)
        if kind and operation.outputs[0].name not in tables and result.shape:
            count[kind] += result.elements
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
    for parameter in operation.inputs:
        yield from read_names_of(operation, parameter)


def read_names_of(operation: Spec, parameter: str) -> list[str]:
    """Return the names of the values that an operation reads as one of its parameters."""
    if parameter not in operation.inputs:  # the map of a message would add it
        return []
    return [binding.name for binding in operation.inputs[parameter].arguments]


def name_of(operation: Spec) -> str:
    """Return an operation's own name, by which coremltools' choices go."""
    return str(operation.attributes["name"].immediateValue.tensor.strings.values[0])


def result_of(operation: Spec) -> TensorType:
    """Return the type of an operation's first result."""
    return _tensor_type(operation.outputs[0].type.tensorType)


def constants_in_weights_file(operation: Spec) -> Iterator[TensorType]:
    """Yield the types of an operation's constants whose values lie in the weights file."""
    for value in operation.attributes.values():
        if value.HasField("blobFileValue"):
            yield _tensor_type(value.type.tensorType)


def dtype_of(message: Spec) -> str:
    """Return the name of a tensor's or array's dataType, for example float16."""
    names = message.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    return str(names[message.dataType].name).lower()


def _tensor_type(message: Spec) -> TensorType:
    shape = tuple(size.constant.size for size in message.dimensions)
    return TensorType(dtype_of(message), shape)


def _stored_as(operation: Spec) -> str | None:
    """Return how an operation's constant is stored; None if it is no float constant."""
    match operation.type:
        case "const":
            return FLOATS.get(result_of(operation).dtype)
        case "constexpr_affine_dequantize":
            return dtype_of(operation.attributes["quantized_data"].type.tensorType)
        case "constexpr_lut_to_dense":
            # The table of iOS 16's operation has 2 ** bits entries.
            table = _tensor_type(operation.attributes["lut"].type.tensorType)
            return f"pal{round(math.log2(table.elements))}"
        case kind if kind.startswith("constexpr_"):
            return str(kind.removeprefix("constexpr_"))
    return None


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
            kind = result_of(constants[name]) if name in constants else None
            if kind is not None and len(kind.shape) > 1 and kind.dtype in FLOATS:
                yield name


def _first(names: Iterable[str], groups: Mapping[str, str]) -> str:
    return next((groups[name] for name in names if name in groups), "")


def _bias_group(operation: Spec, operations: Iterable[Spec], own: Mapping[str, str]) -> str:
    """Return the group of an operation's bias, its own or one that is added to its result."""
    result = operation.outputs[0].name
    readers = [op for op in operations if op.type == "add" and result in read_names(op)]
    return next(filter(None, (_first(read_names(op), own) for op in [operation, *readers])), "")
