"""Execute a saved Core ML package (.mlpackage, ML Program) on any machine, without Core ML.

It reads only the saved package, so it checks what was really written: converter, fp16 casts and
quantized weights. Weights and results that the program declares fp16 pass through float16; each
operation itself computes in float32. It measures neither time nor how Core ML's engines
accumulate inside an operation (the Neural Engine partly in float16).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_deploy.errors import DataError, ExportError
from msd_export.coreml.mil.operations import DATA_PARAMETERS, EXACT_TYPES, OPERATIONS, Function
from msd_export.coreml.mil.program import (
    Constant,
    Program,
    ProgramInput,
    ProgramOperation,
    Reference,
    read_program,
)

CLASSIFY = "classify"
Slots = int | list[int]


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, ready to run.

    Attributes:
        function: The operation with its constant arguments bound.
        arguments: The other arguments: where each one's value stands.
        outputs: Where each result goes, and whether it is rounded to float16.
        label: Type and name, for errors.
    """

    function: Function
    arguments: tuple[tuple[str, Slots], ...]
    outputs: tuple[tuple[int, bool], ...]
    label: str

    def run(self, values: list[Tensor | None]) -> None:
        """Compute the results from earlier values and store them.

        Raises:
            ExportError: The operation fails on these values.
        """
        arguments = {
            name: values[slots] if isinstance(slots, int) else [values[slot] for slot in slots]
            for name, slots in self.arguments
        }
        try:
            result = self.function(**arguments)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ExportError(f"the operation {self.label} failed ({error})") from error
        results = (result,) if isinstance(result, Tensor) else result
        for (slot, is_rounded), tensor in zip(self.outputs, results, strict=True):
            values[slot] = _through_float16(tensor) if is_rounded else tensor


@dataclass(frozen=True, slots=True)
class Classifier:
    """The operation that makes a label and a dictionary of probabilities of a tensor.

    Attributes:
        probabilities: Name of the tensor.
        classes: Names of the classes, in its order.
        outputs: Names of both results.
    """

    probabilities: str
    classes: tuple[str, ...]
    outputs: tuple[str, str]


def _classifier(operation: ProgramOperation) -> Classifier:
    probabilities, classes = (operation.arguments[name] for name in ("probabilities", "classes"))
    assert isinstance(probabilities, Reference)
    label, by_class = (name for name, _ in operation.outputs)
    return Classifier(probabilities.name, tuple(map(str, np.asarray(classes))), (label, by_class))


class _Compiler:
    """Turn operations into steps over numbered values; compute at once what is constant."""

    def __init__(self, fp16_arithmetic: bool) -> None:
        self.fp16_arithmetic = fp16_arithmetic
        self.slots: dict[str, int] = {}
        self.values: list[Tensor | None] = []
        self.steps: list[_Step] = []
        self.classifier: Classifier | None = None

    def new_slot(self, name: str | None = None, value: Tensor | None = None) -> int:
        if name is not None:
            self.slots[name] = len(self.values)
        self.values.append(value)
        return len(self.values) - 1

    def add(self, operation: ProgramOperation) -> None:
        if operation.op_type == CLASSIFY:
            self.classifier = _classifier(operation)
            return
        constants: dict[str, object] = {}
        arguments: list[tuple[str, Slots]] = []
        for name, argument in operation.arguments.items():
            if isinstance(argument, tuple):
                arguments.append((name, [self._slot(item) for item in argument]))
            elif isinstance(argument, Reference):
                arguments.append((name, self.slots[argument.name]))
            else:
                constants[name] = _bound_value(name, argument)
        outputs = tuple(
            (self.new_slot(name), self._is_rounded(operation.op_type, dtype))
            for name, dtype in operation.outputs
        )
        label = f"{operation.op_type} {operation.name!r}"
        function = partial(OPERATIONS[operation.op_type], **constants)
        self._append(_Step(function, tuple(arguments), outputs, label))

    def _slot(self, item: Reference | Constant) -> int:
        if isinstance(item, Reference):
            return self.slots[item.name]
        return self.new_slot(value=_constant_tensor(np.asarray(item)))

    def _is_rounded(self, op_type: str, dtype: str) -> bool:
        if dtype != "fp16" or op_type in EXACT_TYPES:
            return False
        return self.fp16_arithmetic or op_type == "cast"

    def _append(self, step: _Step) -> None:
        slots = [
            slot
            for _, item in step.arguments
            for slot in (item if isinstance(item, list) else [item])
        ]
        if any(self.values[slot] is None for slot in slots):
            self.steps.append(step)
        else:
            step.run(self.values)


class MilEvaluator:
    """A compiled program: read and prepared once, run on one example at a time."""

    def __init__(
        self, program: Program, *, where: object = None, fp16_arithmetic: bool = True
    ) -> None:
        """Compile a program.

        Args:
            program: What `read_program` returned.
            where: Named in errors; the package's path.
            fp16_arithmetic: Round the result of every operation that the program declares fp16.
                Without it only weights and explicit casts pass through float16, which tells the
                error of the weights from the error of the arithmetic.
        """
        compiler = _Compiler(fp16_arithmetic)
        with torch.inference_mode():
            self._inputs = {
                item.name: (item, compiler.new_slot(item.name)) for item in program.inputs
            }
            for operation in program.operations:
                compiler.add(operation)
        self.classifier = compiler.classifier
        """What names the class, if the program has it; `run` returns only tensors."""
        of_classifier = self.classifier.outputs if self.classifier else ()
        self._outputs = {
            name: compiler.slots[name] for name in program.outputs if name not in of_classifier
        }
        self._slots = compiler.slots
        self._steps = tuple(compiler.steps)
        self._values = tuple(compiler.values)
        self._where = where

    @classmethod
    def load(cls, package: Path, *, fp16_arithmetic: bool = True) -> "MilEvaluator":
        """Read and compile a saved package.

        Args:
            package: The .mlpackage folder.
            fp16_arithmetic: As for the constructor.

        Raises:
            ArtifactError: No such package, or it cannot be read as an ML Program.
            ExportError: The program holds an operation type that has no function here.
        """
        program = read_program(package, known_types=OPERATIONS.keys() | {CLASSIFY})
        return cls(program, where=package, fp16_arithmetic=fp16_arithmetic)

    @property
    def operation_count(self) -> int:
        """Operations that run for every example: those of constants alone are done at load."""
        return len(self._steps)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the program on one example.

        Args:
            inputs: By name. An image input takes RGB values 0 to 255 as uint8 [1, height, width,
                3], as Core ML takes a pixel buffer, or any numbers [1, 3, height, width]; the
                others take their shape in the program.

        Returns:
            The outputs by name, as float32 whatever their type in the program.

        Raises:
            DataError: An input is missing, unknown, or of another shape or type.
            ExportError: An operation fails on these values, such as an index out of range.
        """
        values = self._run(inputs)
        return {name: _as_float32(values[slot]) for name, slot in self._outputs.items()}

    def trace(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run the program on one example and return every value in it by name, as `run` does.

        Inputs, results in between and outputs are there; what depends on constants alone too.
        """
        values = self._run(inputs)
        return {name: _as_float32(values[slot]) for name, slot in self._slots.items()}

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> list[Tensor | None]:
        self._refuse_other_names(inputs)
        values = list(self._values)
        with torch.inference_mode():
            for name, (item, slot) in self._inputs.items():
                values[slot] = self._tensor(item, inputs[name])
            for step in self._steps:
                step.run(values)
        return values

    def _refuse_other_names(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        for state, names in (
            ("missing", self._inputs.keys() - inputs.keys()),
            ("unknown", inputs.keys() - self._inputs.keys()),
        ):
            if names:
                raise DataError(
                    f"inputs are {state}: {', '.join(sorted(names))}",
                    where=self._where,
                    fix=f"Pass exactly {', '.join(self._inputs)}",
                )

    def _tensor(self, item: ProgramInput, array: NDArray[np.generic]) -> Tensor:
        if item.is_image and array.dtype == np.uint8 and array.shape[-1:] == (3,):
            array = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        is_integer = item.dtype.startswith(("int", "uint"))
        if array.shape != item.shape or array.dtype.kind not in ("iu" if is_integer else "iuf"):
            raise DataError(
                f"the input {item.name!r} has shape {list(array.shape)} and type {array.dtype}",
                where=self._where,
                fix=f"Pass {_expectation(item)}",
            )
        tensor = torch.from_numpy(array.astype(np.int64 if is_integer else np.float32))
        return _through_float16(tensor) if item.dtype == "fp16" else tensor


def _expectation(item: ProgramInput) -> str:
    if item.is_image:
        batch, channels, height, width = item.shape
        return f"uint8 {[batch, height, width, channels]} or numbers {list(item.shape)}"
    return f"{item.dtype} {list(item.shape)}"


def _bound_value(parameter: str, constant: Constant) -> object:
    """Return a constant as the functions take it: data and float arrays as tensors."""
    if isinstance(constant, str):
        return constant
    array = np.asarray(constant)
    if parameter in DATA_PARAMETERS or (array.ndim > 0 and array.dtype.kind == "f"):
        return _constant_tensor(array)
    return array.tolist()


def _constant_tensor(array: NDArray[np.generic]) -> Tensor:
    kind = {"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64)
    return torch.from_numpy(array.astype(kind))


def _through_float16(tensor: Tensor) -> Tensor:
    return tensor.half().float()


def _as_float32(tensor: Tensor | None) -> NDArray[np.float32]:
    assert tensor is not None  # every step ran
    return tensor.numpy().astype(np.float32)
