"""Every operation of the MIL evaluator against coremltools, and against numpy or PyTorch.

Twice, since neither is a full check alone: coremltools' own value inference has no convolution, and
a formula of ours could share a mistake with the function of ours.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.quiet import quiet_python
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.mil.operations import OPERATIONS
from msd_export.coreml.mil.program import read_program
from tests.export.coreml.mil.cases import Array, Case
from tests.export.coreml.mil.elementwise_cases import ELEMENTWISE, REDUCTIONS
from tests.export.coreml.mil.layer_cases import INTEGERS, LAYERS
from tests.export.coreml.mil.tensor_cases import TENSORS

with quiet_python():
    import coremltools as ct
    from coremltools.converters.mil.mil import Function

CASES = [*ELEMENTWISE, *REDUCTIONS, *LAYERS, *INTEGERS, *TENSORS]
NOT_INFERRED = {
    *("avg_pool", "batch_norm", "conv", "gather_nd", "max_pool", "silu", "upsample_bilinear")
}
"""Of these coremltools infers no value: numpy or PyTorch alone says what is right."""
WRONGLY_INFERRED = {"concat interleaved", "cumsum reversed"}
"""coremltools 9.0 forgets `interleave` there, and cannot infer `reverse`."""


def inferred(case: Case) -> Array | None:
    """Return what coremltools itself computes of the case's inputs as constants."""
    with quiet_python(), Function({}, opset_version=ct.target[case.target]):
        result = case.build(*case.inputs)
    is_kept_small = result.op is not None and result.op.op_type == "dequantize"
    value = result.op.materialized_val_inference() if is_kept_small else result.val
    return None if value is None else np.asarray(value, np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_operation_computes_what_coremltools_and_a_formula_do(
    case: Case, save_program: Callable[..., Path]
) -> None:
    package = save_program(case.build, case.inputs, target=case.target)
    assert case.op_type in {
        op.op_type for op in read_program(package, known_types=OPERATIONS).operations
    }
    names = inspect.signature(case.build).parameters
    (result,) = MilEvaluator.load(package).run(dict(zip(names, case.inputs, strict=True))).values()
    sources = [np.asarray(case.expected(*case.inputs))]
    if case.op_type not in NOT_INFERRED and case.name not in WRONGLY_INFERRED:
        value = inferred(case)
        assert value is not None
        sources.append(value)
    for expected in sources:
        assert result.shape == expected.shape
        # One operation in float32 in another order of summation: a few ulps of values of order 10.
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op_type", sorted(OPERATIONS))
def test_operation_is_checked_against_coremltools_where_that_infers_it(op_type: str) -> None:
    cases = [case for case in CASES if case.op_type == op_type]
    sound = [case for case in cases if case.name not in WRONGLY_INFERRED]
    assert all((inferred(case) is None) == (op_type in NOT_INFERRED) for case in sound)
    assert sound
