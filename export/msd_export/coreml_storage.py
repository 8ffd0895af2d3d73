"""Count what a Core ML package stores its weights as, and what it computes in 8 bits.

Read from the written program itself, so that what a quantizer left in float is seen. A weight is an
element of a float constant that has dimensions, or of a compressed one; indices, look-up tables and
scales are no weights.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msd_export.coreml_package import Spec, read_spec

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
