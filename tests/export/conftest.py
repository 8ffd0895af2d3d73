"""What the export tests share."""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_deploy.artifacts import RunDirectory
from msd_deploy.models.folders import load_model, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.runs import data_of_run
from msd_deploy.views import View
from msd_export.coreml_package import quiet_coremltools
from msd_export.export_folder import ExportFolder
from msd_export.parity import predict_split
from msd_export.pipeline import ExportConfig, export_student
from msd_export.predictors import Logits, TorchPredictor

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


DECIDED_ROWS = 60


def _decide(model: FusionForClassification, logits: Logits) -> None:
    """Scale and shift a classifier of two: decisions wide apart, part of them each way, no tie.

    The border between the two lies in the widest gap of the middle third.
    """
    leads = np.sort(logits[:, 1] - logits[:, 0])
    middle = leads[len(leads) // 3 : -len(leads) // 3]
    gap = int(np.diff(middle).argmax())
    scale = 4.0 / float(leads.std())
    with torch.no_grad():
        model.classifier.weight *= scale
        model.classifier.bias *= scale
        model.classifier.bias[1] -= scale * float(middle[gap : gap + 2].mean())


@pytest.fixture(scope="session")
def decided_run(
    finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A finished run whose student, at random, decides by pixels, words and their places alike.

    What few steps of training make leans on few features, and answers much alike whatever it is
    shown: a comparison with it would miss what a comparison with a good student sees.
    """
    run = RunDirectory(tmp_path_factory.mktemp("decided") / "run")
    shutil.copytree(finished_run.root, run.root)
    loaded = load_model(run.student)
    torch.manual_seed(3)
    model = FusionForClassification(loaded.model.config).eval()
    with torch.no_grad():
        model.image_projection.weight *= 8
    facts = {"labels": loaded.labels, "problem": loaded.problem, "facts": {}}
    save_model(run.student, model, loaded.preprocessor, **facts)
    rows = data_of_run(run, loaded.preprocessor).splits["test"].head(DECIDED_ROWS)
    _decide(model, predict_split(TorchPredictor(run.student), rows, View.MULTIMODAL))
    save_model(run.student, model, loaded.preprocessor, **facts)
    return run


@pytest.fixture(scope="session")
def decided_export(decided_run: RunDirectory) -> ExportFolder:
    """Its student as Core ML in float16, verified; read it, never write into it."""
    config = ExportConfig((("coreml", "fp16"),), examples=DECIDED_ROWS)
    (written,) = export_student(decided_run, config)
    return written
