"""Core ML itself against the MIL evaluator that stands in for it elsewhere."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts import digests_of_folder
from msd_deploy.models.fusion import FusionForClassification
from msd_export.coreml_export import export_coreml
from msd_export.coreml_quantize import quantize_weights_int8
from msd_export.graph import ExportGraph
from msd_export.predictors import CoreMLPredictor, MilPredictor
from msd_export.signature import ModelInputs, ModelSignature

pytestmark = [
    pytest.mark.macos,
    pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS alone"),
]

SIGNATURE = ModelSignature((48, 48), 16, ("no", "yes"), "single_label")
WORDS, ROWS = 300, 12
# Both run the same program with the same weights, int8 ones included, in float16; they differ in
# the order of summation and in what a processor keeps between operations. test_coreml_export.py
# allows .01 between the evaluator and float32; Core ML gets as much, and both may err apart.
TOLERANCE = 0.02

Quantize = Callable[[Path], Path]


@pytest.fixture
def package(tiny_model: FusionForClassification, tmp_path: Path) -> Path:
    path = tmp_path / "model.mlpackage"
    graph = ExportGraph(tiny_model, problem="single_label", image_layout="nchw")
    export_coreml(graph, SIGNATURE, {}, path)
    return path


def as_it_is(package: Path) -> Path:
    return package


def in_int8(package: Path) -> Path:
    path = package.with_name("int8.mlpackage")
    quantize_weights_int8(package, path)
    return path


def inputs_of_all_views() -> ModelInputs:
    """Return pair, picture alone and text alone in turn."""
    rng = np.random.default_rng(0)
    tokens = np.where(np.arange(ROWS) % 3 == 1, 1, rng.integers(2, 17, ROWS))
    return {
        "image": rng.integers(0, 256, (ROWS, 48, 48, 3), np.uint8),
        "image_present": (np.arange(ROWS) % 3 != 2).astype(np.int32),
        "input_ids": rng.integers(0, WORDS, (ROWS, 16)).astype(np.int32),
        "attention_mask": (np.arange(16) < tokens[:, None]).astype(np.int32),
    }


@pytest.mark.parametrize("form", [as_it_is, in_int8])
def test_core_ml_answers_as_the_evaluator_does(package: Path, form: Quantize) -> None:
    path, inputs = form(package), inputs_of_all_views()
    core_ml, evaluator = CoreMLPredictor(path).predict(inputs), MilPredictor(path).predict(inputs)
    assert core_ml.shape == evaluator.shape == (ROWS, 2)
    np.testing.assert_allclose(core_ml, evaluator, rtol=0, atol=TOLERANCE)


def test_core_ml_leaves_the_package_as_it_was(package: Path) -> None:
    """coremltools rewrites Manifest.json when it opens a package: to the same bytes, or an export
    that was run once would be refused as altered.
    """
    before = digests_of_folder(package)
    CoreMLPredictor(package).predict(inputs_of_all_views())
    assert digests_of_folder(package) == before
