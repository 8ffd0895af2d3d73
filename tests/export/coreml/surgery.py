"""Change a saved Core ML package on purpose: its program, its constants, its weight file."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msd_deploy.quiet import quiet_python
from msd_export.coreml.package import SPEC_PATH, WEIGHTS_PATH, Spec, read_spec
from msd_export.coreml.spec import operations_of

WEIGHT_FILE = WEIGHTS_PATH / "weight.bin"
_BLOB_HEADER = struct.Struct("<IIQQ")  # sentinel, type, bytes, where the data begin

Array = np.ndarray[tuple[int, ...], np.dtype[np.float16]]
Change = Callable[[Array], Array]


def edit_program(package: Path, change: Callable[[Spec], None]) -> None:
    """Change the model's description in place."""
    spec = read_spec(package)
    change(spec)
    (package / SPEC_PATH).write_bytes(spec.SerializeToString(deterministic=True))


def edit_constant(package: Path, name: str, change: Change) -> None:
    """Change a float16 constant, wherever it is stored."""
    spec = read_spec(package)
    constant = next(op for op in operations_of(spec) if op.outputs[0].name == name)
    kind = constant.outputs[0].type.tensorType
    shape = tuple(size.constant.size for size in kind.dimensions)
    value = constant.attributes["val"]
    if value.WhichOneof("value") == "blobFileValue":
        content = bytearray((package / WEIGHT_FILE).read_bytes())
        _, _, size, start = _BLOB_HEADER.unpack_from(content, value.blobFileValue.offset)
        array = np.frombuffer(bytes(content[start : start + size]), np.float16).reshape(shape)
        content[start : start + size] = change(array.copy()).astype(np.float16).tobytes()
        (package / WEIGHT_FILE).write_bytes(content)
        return
    array = np.frombuffer(value.immediateValue.tensor.bytes.values, np.float16).reshape(shape)
    value.immediateValue.tensor.bytes.values = change(array.copy()).astype(np.float16).tobytes()
    (package / SPEC_PATH).write_bytes(spec.SerializeToString(deterministic=True))


def operations(package: Path, kind: str) -> list[Spec]:
    """Return the operations of a type, in the order of the program."""
    return [operation for operation in operations_of(read_spec(package)) if operation.type == kind]


def argument(operation: Spec, parameter: str) -> str:
    """Return the name of the value that an operation reads."""
    return str(operation.inputs[parameter].arguments[0].name)


def set_number(spec: Spec, name: str, number: float) -> None:
    """Change a scalar constant, an integer or a float16."""
    constant = next(op for op in operations_of(spec) if op.outputs[0].name == name)
    tensor = constant.attributes["val"].immediateValue.tensor
    if tensor.WhichOneof("value") == "ints":
        tensor.ints.values[0] = int(number)
    else:
        tensor.bytes.values = np.float16(number).tobytes()


def rename_reads(spec: Spec, names: dict[str, str]) -> None:
    """Have every operation that reads one value read another instead."""
    for operation in operations_of(spec):
        for binding in operation.inputs.values():
            for item in binding.arguments:
                item.name = names.get(item.name, item.name)


def add_ones(spec: Spec, name: str) -> None:
    """Add an int32 constant [1] of a one at the program's beginning."""
    with quiet_python():
        from coremltools.proto import MIL_pb2
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    constant = MIL_pb2.Operation(type="const")
    constant.outputs.add(name=name).type.tensorType.CopyFrom(
        next(item for item in function.inputs if item.name == "image_present").type.tensorType
    )
    constant.attributes["name"].immediateValue.tensor.strings.values.append(name)
    constant.attributes["name"].type.tensorType.dataType = MIL_pb2.DataType.STRING
    constant.attributes["val"].type.CopyFrom(constant.outputs[0].type)
    constant.attributes["val"].immediateValue.tensor.ints.values.append(1)
    block.operations.insert(0, constant)
