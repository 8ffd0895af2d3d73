"""Core ML itself against the MIL evaluator that stands in for it elsewhere."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import digests_of_folder
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ParityError
from msd_deploy.models.fusion import FusionForClassification
from msd_export import exporter
from msd_export.config import ExportConfig
from msd_export.coreml.export import export_coreml
from msd_export.coreml.predictor import CoreMLPredictor, MilPredictor
from msd_export.coreml.weights import quantize_weights_int8
from msd_export.folder import PARITY_NAME
from msd_export.formats import FORMATS, Precision, Variant
from msd_export.graph import ExportGraph
from msd_export.pipeline import export_student
from msd_export.predictors import second_predictor
from msd_export.signature import Logits, ModelInputs, ModelSignature
from tests.export.conftest import DECIDED_ROWS

on_a_mac = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS alone")

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


@pytest.mark.macos
@on_a_mac
@pytest.mark.parametrize("form", [as_it_is, in_int8])
def test_core_ml_gives_the_evaluators_logits(package: Path, form: Quantize) -> None:
    path, inputs = form(package), inputs_of_all_views()
    core_ml, evaluator = CoreMLPredictor(path).predict(inputs), MilPredictor(path).predict(inputs)
    assert core_ml.shape == evaluator.shape == (ROWS, 2)
    np.testing.assert_allclose(core_ml, evaluator, rtol=0, atol=TOLERANCE)


@pytest.mark.macos
@on_a_mac
def test_core_ml_leaves_the_package_as_it_was(package: Path) -> None:
    """coremltools rewrites Manifest.json when it opens a package: to the same bytes, or an export
    that was run once would be refused as altered.
    """
    before = digests_of_folder(package)
    CoreMLPredictor(package).predict(inputs_of_all_views())
    assert digests_of_folder(package) == before


@pytest.mark.macos
@on_a_mac
@pytest.mark.parametrize("precision", FORMATS["coreml"].precisions)
def test_export_is_verified_in_core_ml_and_in_the_evaluator(
    decided_run: RunDirectory, tmp_path: Path, precision: Precision
) -> None:
    run = RunDirectory(Path(shutil.copytree(decided_run.root, tmp_path / "run")))
    report = export_report(run, ("coreml", precision))
    assert report["runtime"] == "Core ML"
    assert report["second_runtime"]["runtime"] == "MIL evaluator"
    assert max(report["second_runtime"]["max_abs_difference"].values()) < 5 * TOLERANCE


def export_report(run: RunDirectory, form: Variant) -> dict[str, Any]:
    (export,) = export_student(run, ExportConfig((form,), 100.0, DECIDED_ROWS, overwrite=True))
    report: dict[str, Any] = json.loads((export.folder / PARITY_NAME).read_text())
    return report


@pytest.fixture
def run_of_two_runtimes(
    decided_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunDirectory:
    """A run whose exports are verified twice on any machine: the evaluator stands on both sides."""
    monkeypatch.setattr(exporter, "open_predictor", lambda _, path, threads: MilPredictor(path))
    monkeypatch.setattr(exporter, "second_predictor", lambda _, path: MilPredictor(path))
    return RunDirectory(Path(shutil.copytree(decided_run.root, tmp_path / "run")))


@pytest.mark.slow
def test_both_runtimes_stand_in_the_report(run_of_two_runtimes: RunDirectory) -> None:
    report = export_report(run_of_two_runtimes, ("coreml", "fp16"))
    second = report["second_runtime"]
    assert second["views"] == report["views"]
    assert second["max_abs_difference"] == dict.fromkeys(report["views"], 0.0)


class Shifted(MilPredictor):
    """An evaluator whose logits are half a unit off."""

    runtime = "shifted"

    def predict(self, inputs: ModelInputs) -> Logits:
        return super().predict(inputs) + np.array([0.5, -0.5], np.float32)


@pytest.mark.slow
def test_a_second_runtime_beyond_tolerance_is_refused(
    run_of_two_runtimes: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "second_predictor", lambda _, path: Shifted(path))
    with pytest.raises(ParityError, match="mean error of the multimodal logits is"):
        export_report(run_of_two_runtimes, ("coreml", "fp16"))
    assert not (run_of_two_runtimes.exports / "coreml-fp16").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="has Core ML itself")
def test_elsewhere_there_is_one_runtime(tmp_path: Path) -> None:
    assert second_predictor("coreml", tmp_path) is None
