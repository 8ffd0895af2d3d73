"""Damage verified LiteRT, ExecuTorch and Core AI models: opening or verification must notice it."""

import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_deploy.artifacts.manifest import read_versioned_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError, ParityError
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.folder import PARITY_NAME, ExportFolder, open_export
from msd_export.formats import FORMATS, Target
from msd_export.graph import TextGraph
from msd_export.inspection import inspect_export
from msd_export.opened_model import open_model
from msd_export.parity import predict_split
from msd_export.pipeline import export_student
from msd_export.predictors import open_predictor

from .mutants import (
    FILE_MUTANTS,
    REFUSALS,
    Mutate,
    check_contradiction_of_changed,
    check_digest_of_changed,
    verify,
)

pytestmark = pytest.mark.slow

TARGETS: list[Target] = ["litert", "executorch", "coreai"]
Weights = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.fixture(scope="module", params=TARGETS)
def export(
    request: pytest.FixtureRequest, decided_exports: Callable[..., list[ExportFolder]]
) -> ExportFolder:
    """The decided student in float32, verified."""
    target: Target = request.param
    if not all(map(importlib.util.find_spec, FORMATS[target].modules)):
        pytest.skip(f"needs {target}")
    (written,) = decided_exports((target, "fp32"))
    return written


def test_a_text_alone_is_predicted_by_its_own_entry_point(
    export: ExportFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(export.folder)
    whole = open_model(export.folder).predictor.predict(opened.inputs(text="look at him go"))
    monkeypatch.setattr(type(opened.predictor), "predict", None)
    found = opened.predict(text="look at him go")
    np.testing.assert_allclose(found.logits, whole[0], atol=1e-4)


@pytest.fixture
def copied(export: ExportFolder, tmp_path: Path) -> ExportFolder:
    """A copy, to be damaged."""
    return open_export(Path(shutil.copytree(export.folder, tmp_path / export.name)))


@pytest.fixture(scope="module")
def layer(decided_run: RunDirectory) -> Weights:
    """Weights that all three formats store as PyTorch does, [classes, width]."""
    model = load_model(decided_run.student).model
    return np.asarray(model.classifier.weight.detach().numpy(), np.float32)


def program_of(export: ExportFolder) -> Path:
    """Return the file that holds operators and weights."""
    path = export.model_path
    return path if path.is_file() else path / "main.mlirb"


def replace_program(export: ExportFolder, content: bytes) -> None:
    """Replace the file, and in a Core AI asset the digest that it has for it."""
    program_of(export).write_bytes(content)
    if export.target == "coreai":
        (export.model_path / "main.hash").write_bytes(hashlib.sha256(content).digest())


def replace_weights(export: ExportFolder, layer: Weights, changed: Weights) -> None:
    """Replace a layer's bytes wherever they lie."""
    content = program_of(export).read_bytes()
    assert content.count(layer.tobytes()) >= 1
    replaced = content.replace(layer.tobytes(), np.ascontiguousarray(changed).tobytes())
    replace_program(export, replaced)


CHANGES = {
    "flip_signs": lambda layer: -layer,
    "exchange_classes": lambda layer: layer[::-1],
    "zero_a_class": lambda layer: layer * np.float32([[0], [1]]),
    "damage_bytes": lambda layer: (layer.view(np.uint32) ^ np.uint32(0x003C0000)).view(np.float32),
    "roll_the_features": lambda layer: np.roll(layer, 1, axis=1),
    "not_a_number": lambda layer: layer * np.float32(np.nan),
}


def check(export: ExportFolder, logits: LogitsByView, rows: PreparedSplit) -> None:
    verify(
        open_predictor(export.target, export.model_path),
        (export.target, export.precision),
        logits,
        rows,
    )


def test_the_undamaged_file_passes(
    copied: ExportFolder, decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    check(copied, decided_logits, decided_rows)


def test_the_text_entry_answers_as_the_whole_file_does_to_a_text(
    export: ExportFolder, decided_rows: PreparedSplit
) -> None:
    predictor = open_predictor(export.target, export.model_path)
    entry = predictor.text_entry
    assert entry is not None
    expected = predict_split(predictor, decided_rows, View.TEXT)
    np.testing.assert_allclose(predict_split(entry, decided_rows, View.TEXT), expected, atol=1e-4)
    with_images = predict_split(entry, decided_rows, View.MULTIMODAL)
    np.testing.assert_allclose(with_images, expected, atol=1e-4)
    assert np.abs(predict_split(predictor, decided_rows, View.MULTIMODAL) - expected).max() > 1
    entries = export.manifest["signature"]["entry_points"]
    assert list(entries["text"]["inputs"]) == ["input_ids", "attention_mask"]
    parity = read_versioned_json(export.folder / PARITY_NAME)
    assert parity["entry_points"]["text"]["agreement"] == 1
    assert inspect_export(export.folder).facts.entry_points == ("text",)


def test_a_text_entry_that_answers_otherwise_is_not_written(
    export: ExportFolder,
    export_decided: Callable[..., list[ExportFolder]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = TextGraph.forward

    def without_mask(self: TextGraph, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return forward(self, ids, torch.ones_like(mask))

    monkeypatch.setattr(TextGraph, "forward", without_mask)
    with pytest.raises(ParityError, match="through the entry point text, text logits differ"):
        export_decided((export.target, export.precision))


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_weights_are_refused(
    change: str,
    copied: ExportFolder,
    layer: Weights,
    decided_logits: LogitsByView,
    decided_rows: PreparedSplit,
) -> None:
    replace_weights(copied, layer, CHANGES[change](layer))
    with pytest.raises(REFUSALS):
        check(copied, decided_logits, decided_rows)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_cut_file_is_refused(
    share: float,
    copied: ExportFolder,
    decided_logits: LogitsByView,
    decided_rows: PreparedSplit,
) -> None:
    content = program_of(copied).read_bytes()
    replace_program(copied, content[: int(share * len(content))])
    with pytest.raises(REFUSALS):
        check(copied, decided_logits, decided_rows)


def test_another_student_in_its_place_is_refused(
    copied: ExportFolder,
    finished_run: RunDirectory,
    tmp_path: Path,
    decided_logits: LogitsByView,
    decided_rows: PreparedSplit,
) -> None:
    """As when files of two runs were mixed up."""
    other = RunDirectory(Path(shutil.copytree(finished_run.root, tmp_path / "other")))
    form = ((copied.target, copied.precision),)
    (written,) = export_student(other, ExportConfig(form, 100.0, examples=8))
    replace_program(copied, program_of(written).read_bytes())
    with pytest.raises(REFUSALS):
        check(copied, decided_logits, decided_rows)
    with pytest.raises(ArtifactError, match="SHA-256 does not match"):
        open_export(copied.folder)


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_does_not_have_its_digest(mutate: Mutate, copied: ExportFolder) -> None:
    check_digest_of_changed(copied.folder, mutate)


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_with_a_digest_to_match_contradicts_the_model(
    mutate: Mutate, copied: ExportFolder
) -> None:
    check_contradiction_of_changed(copied.folder, mutate)
