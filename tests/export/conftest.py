"""What the export tests share."""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_export.coreml_package import quiet_coremltools

SaveProgram = Callable[..., Path]


@pytest.fixture
def save_program(tmp_path: Path) -> Iterator[SaveProgram]:
    """Yield a function that saves what `build(x, y, ...)` makes with coremltools' Builder.

    The program's inputs have the names of build's parameters and the shapes and types of the given
    arrays. No optimisation touches it: the operations saved are those built.
    """
    with quiet_coremltools():
        import coremltools as ct
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil.types import numpy_type_to_builtin_type

    def save(
        build: Callable[..., Any],
        inputs: Sequence[np.ndarray[Any, Any]],
        *,
        target: str = "iOS16",
        features: Sequence[Any] | None = None,
    ) -> Path:
        specs = [
            Builder.TensorSpec(array.shape, dtype=numpy_type_to_builtin_type(array.dtype.type))
            for array in inputs
        ]
        with quiet_coremltools():
            model = ct.convert(
                Builder.program(input_specs=specs, opset_version=ct.target[target])(build),
                inputs=features,
                convert_to="mlprogram",
                minimum_deployment_target=ct.target[target],
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
            )
        package = tmp_path / "program.mlpackage"
        model.save(str(package))
        return package

    gc.freeze()  # ct.convert collects garbage each time, 0.4 s where torch's objects are looked at
    yield save
    gc.unfreeze()
