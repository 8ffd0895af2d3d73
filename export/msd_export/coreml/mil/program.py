"""Read the program of a saved Core ML package into plain, typed values; no Mac needed.

Covers programs of one function with fixed shapes, image and tensor inputs, and compressed weights
(constexpr_*, expanded when read). Does not run the program: see `mil/evaluator.py`.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.quiet import quiet_python
from msd_export.coreml.package import WEIGHTS_PATH, Spec, read_spec
from msd_export.coreml.spec import operations_of

FUNCTION_NAME = "main"


@dataclass(frozen=True, slots=True)
class Reference:
    """The value of an input or of an earlier operation.

    Attributes:
        name: Its name, unique in the program.
    """

    name: str


Constant = NDArray[np.generic] | np.generic | str | int | float | bool
Argument = Reference | Constant | tuple[Reference | Constant, ...]


@dataclass(frozen=True, slots=True)
class ProgramInput:
    """An input of the program.

    Attributes:
        name: The input's name.
        shape: Its shape inside the program; an image's is [1, 3, height, width].
        dtype: The program's name of its type: fp32, fp16 or int32.
        is_image: Core ML fills it from a pixel buffer of RGB bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_image: bool


@dataclass(frozen=True, slots=True)
class ProgramOperation:
    """One operation that is not a constant.

    Attributes:
        op_type: For example "conv".
        name: The operation's name in the program.
        arguments: By parameter name, defaults filled in, absent optional ones left out.
        outputs: Name and type (fp16, fp32, int32, bool, ...) of each result.
    """

    op_type: str
    name: str
    arguments: dict[str, Argument]
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A program as a list of operations in their order of execution.

    Attributes:
        inputs: What the caller passes.
        operations: Everything but constants, which stand in the arguments.
        outputs: Names of the results.
    """

    inputs: tuple[ProgramInput, ...]
    operations: tuple[ProgramOperation, ...]
    outputs: tuple[str, ...]


class _Var(Protocol):
    """The part of coremltools' Var that is read here."""

    name: str
    shape: Sequence[int]
    dtype: type
    val: Constant
    op: "_Operation | None"


class _Operation(Protocol):
    """The part of coremltools' Operation that is read here."""

    op_type: str
    name: str
    inputs: Mapping[str, "_Var | Sequence[_Var] | None"]
    outputs: Sequence[_Var]

    def materialized_val_inference(self) -> NDArray[np.generic]: ...


class _Function(Protocol):
    """The part of coremltools' Function that is read here."""

    inputs: Mapping[str, _Var]
    outputs: Sequence[_Var]
    operations: Sequence[_Operation]


def read_program(package: Path, *, known_types: Container[str]) -> Program:
    """Read the program of a saved package.

    Args:
        package: The .mlpackage folder.
        known_types: The operation types that the caller can execute.

    Raises:
        ArtifactError: No such package, or it cannot be read as an ML Program.
        ExportError: The program holds an operation or an input of another kind.
    """
    spec = read_spec(package)
    images = _image_names(spec, package)
    for op in operations_of(spec):
        _refuse_unknown(op.type, op.outputs[0].name, known_types, package)
    with quiet_python():
        function = _load_function(spec, package)
        return Program(
            inputs=tuple(
                ProgramInput(name, tuple(map(int, var.shape)), _type_name(var), name in images)
                for name, var in function.inputs.items()
            ),
            operations=tuple(_operation(op) for op in function.operations if not _is_constant(op)),
            outputs=tuple(var.name for var in function.outputs),
        )


def _image_names(spec: Spec, package: Path) -> frozenset[str]:
    images = [item for item in spec.description.input if item.type.HasField("imageType")]
    for image in images:
        layout = image.type.imageType
        if layout.colorSpace != layout.ColorSpace.Value("RGB"):
            raise ExportError(f"its input {image.name!r} is not an RGB image", where=package)
    return frozenset(image.name for image in images)


def _load_function(spec: Spec, package: Path) -> _Function:
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        program = load(spec, spec.specificationVersion, str(package / WEIGHTS_PATH))
        function: _Function = program.functions[FUNCTION_NAME]
    except Exception as error:  # it raises assertions, KeyErrors, bare Exceptions and more
        raise ArtifactError(f"its program cannot be read ({error})", where=package) from error
    return function


def _refuse_unknown(op_type: str, output: str, known: Container[str], package: Path) -> None:
    if op_type != "const" and not op_type.startswith("constexpr_") and op_type not in known:
        raise ExportError(
            f"the MIL evaluator does not implement the operation {op_type!r} (result {output!r})",
            where=package,
            fix="Change the model, or add the operation to msd_export/coreml/mil/operations.py",
        )


def _is_constant(op: _Operation) -> bool:
    return op.op_type == "const" or op.op_type.startswith("constexpr_")


def _operation(op: _Operation) -> ProgramOperation:
    arguments = {
        name: _argument(var) if not isinstance(var, Sequence) else tuple(map(_argument, var))
        for name, var in op.inputs.items()
        if var is not None
    }
    outputs = tuple((var.name, _type_name(var)) for var in op.outputs)
    return ProgramOperation(op.op_type, op.name, arguments, outputs)


def _argument(var: _Var) -> Reference | Constant:
    if var.op is None or not _is_constant(var.op):
        return Reference(var.name)
    return var.val if var.op.op_type == "const" else var.op.materialized_val_inference()


def _type_name(var: _Var) -> str:
    from coremltools.converters.mil.mil.types import builtin_to_string

    return str(builtin_to_string(var.dtype))
