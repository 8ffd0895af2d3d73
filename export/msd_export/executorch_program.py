"""Read .pte files, and count what they compute in integers, from the file itself."""

import math
from collections.abc import Iterator
from pathlib import Path

from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import (
    DataLocation,
    DelegateCall,
    ExecutionPlan,
    KernelCall,
    Program,
    Tensor,
)

from msd_export.executorch_xnnpack import (
    BACKEND,
    CONVERSION,
    int8_weights,
    operators_of,
    xnnpack_graph,
)
from msd_export.operator_counts import OperatorCounts

_IDENTIFIER = slice(4, 6), b"ET"  # a version follows


def read_program(path: Path) -> Program:
    """Return a .pte file's program.

    Raises:
        ValueError: It is no such file; a damaged one raises whatever its bytes lead to.
    """
    content = path.read_bytes()
    place, identifier = _IDENTIFIER
    if content[place] != identifier:
        raise ValueError("it is no .pte file")
    return deserialize_pte_binary(content).program


def delegates_of(program: Program, plan: ExecutionPlan) -> Iterator[tuple[str, bytes]]:
    """Yield the backend and the content of each delegate of a plan, in its order."""
    for delegate in plan.delegates:
        if delegate.processed.location != DataLocation.INLINE:
            raise ValueError("the content of a delegate is missing")
        yield delegate.id, bytes(program.backend_delegate_data[delegate.processed.index].data)


def calls_of(plan: ExecutionPlan) -> Iterator[KernelCall | DelegateCall]:
    """Yield the calls of kernels and delegates of a plan, in its order."""
    for chain in plan.chains:
        for instruction in chain.instructions:
            if isinstance(instruction.instr_args, KernelCall | DelegateCall):
                yield instruction.instr_args


def count_operators(path: Path) -> OperatorCounts:
    """Count a .pte file's operators and integer weights."""
    program = read_program(path)
    integer, other, weights = 0, 0, 0
    for plan in program.execution_plan:
        other += sum(isinstance(call, KernelCall) for call in calls_of(plan))
        weights += _int8_constants(plan)
        for backend, content in delegates_of(program, plan):
            if backend == BACKEND:
                graph = xnnpack_graph(content)
                operators = [op for op in operators_of(graph) if op[0] != CONVERSION]
                integer += sum(is_integer for _, is_integer in operators)
                other += sum(not is_integer for _, is_integer in operators)
                weights += int8_weights(graph)
    return OperatorCounts(integer, other, weights)


def _int8_constants(plan: ExecutionPlan) -> int:
    tensors = [value.val for value in plan.values if isinstance(value.val, Tensor)]
    return sum(
        math.prod(tensor.sizes)
        for tensor in tensors
        if tensor.scalar_type == ScalarType.CHAR and tensor.data_buffer_idx > 0
    )
