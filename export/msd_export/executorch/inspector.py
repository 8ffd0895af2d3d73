"""Read .pte files: the program, what it delegates, and what lies inside XNNPACK's delegates."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType

from msd_export.executorch.layers import METHOD, read_layers
from msd_export.executorch.program import (
    BACKEND,
    Fields,
    calls_of,
    constants_of,
    delegates_of,
    main_plan,
    operators_of,
    read_program,
    xnnpack_graph,
)
from msd_export.model_file import ModelFacts, StoredTensor, TensorFacts, reading

_OTHER = "other constants"
_TYPES = {
    ScalarType.BOOL: ("bool", 8),
    ScalarType.BYTE: ("uint8", 8),
    ScalarType.CHAR: ("int8", 8),
    ScalarType.SHORT: ("int16", 16),
    ScalarType.INT: ("int32", 32),
    ScalarType.LONG: ("int64", 64),
    ScalarType.HALF: ("float16", 16),
    ScalarType.BFLOAT16: ("bfloat16", 16),
    ScalarType.FLOAT: ("float32", 32),
    ScalarType.DOUBLE: ("float64", 64),
}
_NOTES = (
    "int8 counts the operators inside XNNPACK's delegates that compute in integers",
    "A .pte file does not name inputs and outputs: they are numbered",
    "Where layers are not known, bytes are listed by the delegate and operator, or the kernel,"
    " that reads them",
)


@dataclass(frozen=True, slots=True)
class _Delegate:
    """What a backend computes.

    Attributes:
        backend: Its name.
        label: Its name and number.
        size_bytes: Of its content.
        graph: The graph in it, of XNNPACK alone.
    """

    backend: str
    label: str
    size_bytes: int
    graph: Fields | None


def read_executorch(path: Path) -> ModelFacts:
    """Read a .pte file; see `model_file.Reader`."""
    with reading("ExecuTorch", path):
        program = read_program(path)
        plan = main_plan(program)
        delegates = list(_delegates(program, plan))
        operators, integer = _operators(plan, delegates)
        metadata = _constant_methods(program, plan)
        layers = read_layers(metadata.pop(METHOD, "{}"))
        return ModelFacts(
            inputs=tuple(_border(plan, v, f"input {n}") for n, v in enumerate(plan.inputs)),
            outputs=tuple(_border(plan, v, f"output {n}") for n, v in enumerate(plan.outputs)),
            operators=dict(operators.most_common()),
            int8_operators=dict(integer),
            tensors=(*_constants(plan, delegates), *_delegated(delegates, layers)),
            metadata=metadata,
            notes=_NOTES,
            entry_points=tuple(
                other.name for other in program.execution_plan if other is not plan and other.inputs
            ),
        )


def _delegates(program: schema.Program, plan: schema.ExecutionPlan) -> Iterator[_Delegate]:
    for index, (backend, content) in enumerate(delegates_of(program, plan)):
        graph = xnnpack_graph(content) if backend == BACKEND else None
        yield _Delegate(backend, f"{backend} {index}", len(content), graph)


def _operators(
    plan: schema.ExecutionPlan, delegates: list[_Delegate]
) -> tuple[Counter[str], Counter[str]]:
    """Count calls of kernels and delegates with what is inside, and of these what is integer."""
    every = Counter(_callee(plan, delegates, call) for call in calls_of(plan))
    integer: Counter[str] = Counter()
    for delegate in delegates:
        if delegate.graph is not None:
            operators = list(operators_of(delegate.graph))
            every.update(kind for kind, _ in operators)
            integer.update(kind for kind, is_integer in operators if is_integer)
    return every, integer


def _callee(
    plan: schema.ExecutionPlan,
    delegates: list[_Delegate],
    call: schema.KernelCall | schema.DelegateCall,
) -> str:
    if isinstance(call, schema.DelegateCall):
        return f"delegate {delegates[call.delegate_index].backend}"
    operator = plan.operators[call.op_index]
    return ".".join(part for part in (operator.name, operator.overload) if part)


def _border(plan: schema.ExecutionPlan, value: int, name: str) -> TensorFacts:
    held = plan.values[value].val
    if not isinstance(held, schema.Tensor):
        return TensorFacts(name, (), type(held).__name__.lower())
    is_static = held.shape_dynamism == schema.TensorShapeDynamism.STATIC
    # A free dimension is planned with its greatest size; the file does not show which are free.
    shape = tuple(size if is_static else f"<= {size}" for size in held.sizes)
    return TensorFacts(name, shape, _type(held)[0])


def _constants(plan: schema.ExecutionPlan, delegates: list[_Delegate]) -> Iterator[StoredTensor]:
    """Yield the constants of kernels, and those that are handed to delegates; each buffer once."""
    readers = _readers(plan, delegates)
    seen: set[int] = set()
    for index, value in enumerate(plan.values):
        tensor = value.val
        if not isinstance(tensor, schema.Tensor) or tensor.data_buffer_idx in {0, *seen}:
            continue
        seen.add(tensor.data_buffer_idx)
        storage, bits = _type(tensor)
        layer = readers.get(index, _OTHER)
        yield StoredTensor(layer, storage, math.prod(tensor.sizes), bits)


def _readers(plan: schema.ExecutionPlan, delegates: list[_Delegate]) -> dict[int, str]:
    """Return what reads each value first: a delegate, or a kind of kernel."""
    readers: dict[int, str] = {}
    for call in calls_of(plan):
        if isinstance(call, schema.DelegateCall):
            reader = f"{delegates[call.delegate_index].label}.inputs"
        else:
            reader = f"kernels.{plan.operators[call.op_index].name}"
        for value in call.args:
            held = plan.values[value].val
            parts = held.items if isinstance(held, schema.TensorList) else []
            readers.update((part, reader) for part in (value, *parts) if part not in readers)
    return readers


def _delegated(delegates: list[_Delegate], layers: Mapping[int, str]) -> Iterator[StoredTensor]:
    """Yield what delegates store: weights of XNNPACK's; of another backend's, all as one."""
    seen: set[str] = set()
    for delegate in delegates:
        if delegate.graph is None:
            yield StoredTensor(delegate.label, "unknown", delegate.size_bytes, 8)
            continue
        for key, tensor in constants_of(delegate.graph, delegate.label, layers):
            if key not in seen:
                seen.add(key)
                yield tensor


def _constant_methods(program: schema.Program, plan: schema.ExecutionPlan) -> dict[str, str]:
    """Return the results of the methods that return a constant: the file's metadata."""
    scalars = (schema.String, schema.Int, schema.Double, schema.Bool)
    return {
        other.name: ", ".join(
            str(astuple(held)[0])
            for held in (other.values[value].val for value in other.outputs)
            if isinstance(held, scalars)
        )
        for other in program.execution_plan
        if other is not plan and not other.inputs
    }


def _type(tensor: schema.Tensor) -> tuple[str, int]:
    return _TYPES.get(tensor.scalar_type, (ScalarType(tensor.scalar_type).name.lower(), 8))
