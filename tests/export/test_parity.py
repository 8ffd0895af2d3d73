import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts import RunDirectory
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError, ConfigError, ParityError
from msd_deploy.evaluation import LogitsByView
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View
from msd_export import pipeline
from msd_export.export_folder import open_export
from msd_export.graph import ExportGraph
from msd_export.opening import open_model
from msd_export.parity import check_parity, compare_logits
from msd_export.pipeline import ExportConfig, export_student, forms_of

ROWS = 200
ONNX = (("onnx", "fp32"),)


@pytest.fixture
def split() -> PreparedSplit:
    nothing = np.zeros((ROWS, 4), np.int32)
    labels = np.zeros(ROWS, np.int64)
    index = np.arange(ROWS)
    return PreparedSplit(np.zeros((1, 2, 2, 3), np.uint8), index, nothing, nothing, labels, index)


def logits_of(value: float) -> LogitsByView:
    row = np.array([[value, 0.0]], np.float32)
    return {view: np.repeat(row, ROWS, axis=0) for view in View}


def test_equal_logits_pass(split: PreparedSplit) -> None:
    parity = compare_logits(logits_of(1.0), logits_of(1.0), split, "single_label")
    check_parity(parity, form=("onnx", "fp32"), max_drop=0.0)
    assert parity[View.IMAGE].max_abs_error == 0.0


@pytest.mark.parametrize("view", list(View))
def test_an_error_in_any_view_is_found_and_named(split: PreparedSplit, view: View) -> None:
    exported = logits_of(1.0)
    exported[view][17, 1] += 2e-4
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    with pytest.raises(ParityError, match=rf"{view} logits differ by up to 2\.00e-04") as caught:
        check_parity(parity, form=("onnx", "fp32"), max_drop=1.0)
    assert caught.value.exit_code == 3


def test_too_many_other_decisions_are_refused(split: PreparedSplit) -> None:
    exported = logits_of(1.0)
    exported[View.MULTIMODAL][:5, 0] = -1.0
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    with pytest.raises(ParityError, match=r"in 97\.50% of 200 test examples, less than 98\.0%"):
        check_parity(parity, form=("onnx", "int8"), max_drop=1.0)


def test_a_drop_beyond_the_gate_is_refused(split: PreparedSplit) -> None:
    exported = logits_of(1.0)
    exported[View.MULTIMODAL][:3, 0] = -1.0
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    check_parity(parity, form=("onnx", "int8"), max_drop=0.016)
    with pytest.raises(ParityError, match=r"loses 1\.50 points .* more than --max-drop 1"):
        check_parity(parity, form=("onnx", "int8"), max_drop=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(split: PreparedSplit, value: float) -> None:
    exported = logits_of(1.0)
    exported[View.TEXT][3, 1] = value
    with pytest.raises(ParityError, match="NaN or infinite logits on the text view"):
        compare_logits(exported, logits_of(1.0), split, "single_label")


@pytest.mark.slow
def test_every_form_is_exported_and_verified(own_run: RunDirectory) -> None:
    forms = forms_of(("onnx", "coreml"), ())
    config = ExportConfig(forms, max_drop_points=3.0, examples=100)
    for export in export_student(own_run, config):
        parity = json.loads((export.folder / "parity.json").read_text())
        assert parity["views"]["multimodal"]["export"]["examples"] == 100
        opened = open_model(export.folder)
        assert opened.labels == ("benign", "hateful")
    sizes = {
        export.name: export.size_bytes() for export in map(open_export, own_run.exports.iterdir())
    }
    assert sizes["onnx-int8"] < sizes["onnx-fp32"]
    assert sizes["coreml-int8"] < sizes["coreml-fp16"]


@pytest.mark.slow
def test_a_failed_verification_leaves_nothing(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that is converted is damaged: one bias is a hundredth off."""

    def damaged(model: FusionForClassification, **options: Any) -> ExportGraph:
        other = copy.deepcopy(model)
        other.classifier.bias.data[0] += 0.01
        return ExportGraph(other, **options)

    monkeypatch.setattr(pipeline, "ExportGraph", damaged)
    with pytest.raises(ParityError, match="logits differ"):
        export_student(own_run, ExportConfig(ONNX, examples=100))
    assert list(own_run.exports.iterdir()) == []


@pytest.mark.slow
def test_an_existing_export_is_replaced_only_when_asked(own_run: RunDirectory) -> None:
    config = ExportConfig(ONNX, examples=50)
    (first,) = export_student(own_run, config)
    with pytest.raises(ArtifactError, match=r"onnx-fp32: already exists.*--overwrite"):
        export_student(own_run, config)
    again = ExportConfig(ONNX, examples=50, overwrite=True)
    (second,) = export_student(own_run, again)
    assert second.manifest["files"]["model.onnx"] == first.manifest["files"]["model.onnx"]  # type: ignore[index]


def test_an_unfinished_run_is_not_exported(own_run: RunDirectory) -> None:
    own_run.metrics.unlink()
    with pytest.raises(ArtifactError, match=r"unfinished.*msd distill --resume"):
        export_student(own_run, ExportConfig(ONNX))


def test_a_precision_that_a_target_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="coreml has none of the precisions fp32"):
        forms_of(("coreml",), ("fp32",))
    assert forms_of(("onnx", "coreml"), ("int8",)) == (("onnx", "int8"), ("coreml", "int8"))


@pytest.mark.parametrize(
    ("setting", "name"), [({"max_drop_points": 101.0}, "max-drop"), ({"examples": 0}, "examples")]
)
def test_a_setting_of_the_export_out_of_range_is_named(setting: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{name}: must lie between"):
        ExportConfig(ONNX, **setting)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no run, model or export folder"):
        open_model(tmp_path)
