import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from msd_deploy.artifacts.atomic import remove_path
from msd_deploy.artifacts.manifest import write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.confidence import confidences
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError, ConfigError, ParityError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.problem import Problem
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View
from msd_export import source as source_module
from msd_export import tolerance as tolerance_module
from msd_export.config import ExportConfig
from msd_export.folder import open_export
from msd_export.formats import Variant, variants_of
from msd_export.graph import ExportGraph, graph_of
from msd_export.opened_model import open_model
from msd_export.parity import compare_logits, divergence, loss_of, notes_on_source
from msd_export.pipeline import export_student
from msd_export.tolerance import Gate, Tolerance, check_parity, parity_as_json, uncertain_losses

ROWS = 200
LENIENT = Gate(("coreml", "pal4"), max_drop=0.0)
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
    check_parity(parity, Gate(("onnx", "fp32"), max_drop=0.0))
    assert parity[View.IMAGE].max_abs_error == 0.0


@pytest.mark.parametrize("view", list(View))
def test_an_error_in_any_view_is_found_and_named(split: PreparedSplit, view: View) -> None:
    exported = logits_of(1.0)
    exported[view][17, 1] += 2e-3
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    with pytest.raises(ParityError, match=rf"{view} logits differ by up to 2\.00e-03") as caught:
        check_parity(parity, Gate(("onnx", "fp32"), max_drop=1.0))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("form", [("onnx", "int8"), ("coreml", "int8")])
@pytest.mark.parametrize("view", list(View))
def test_too_many_other_decisions_on_any_view_are_refused(
    split: PreparedSplit, view: View, form: Variant
) -> None:
    exported = logits_of(1.0)
    exported[view][:11, 0] = -1.0
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    message = rf"the {view} view agrees .* on 94\.50% of the test examples.*less than 95\.0%"
    with pytest.raises(ParityError, match=message):
        check_parity(parity, Gate(form, max_drop=1.0))


@pytest.mark.parametrize("view", list(View))
def test_scaled_logits_are_refused_though_every_decision_is_the_same(
    split: PreparedSplit, view: View
) -> None:
    """An app's threshold on the probability would no longer hold."""
    generator = np.random.default_rng(2)
    source = {each: generator.normal(size=(ROWS, 2)).astype(np.float32) for each in View}
    exported = dict(source) | {view: source[view] * 1.2}
    parity = compare_logits(exported, source, split, "single_label")
    assert parity[view].agreement == 1.0
    before, after = (confidences(each[view], "single_label") for each in (source, exported))
    assert parity[view].confidence.shift == pytest.approx((after - before).mean(), abs=1e-6)
    message = rf"the mean confidence of the {view} view shifts by \+0\.0[23]\d, more than 0\.02"
    with pytest.raises(ParityError, match=message):
        check_parity(parity, Gate(("onnx", "int8"), max_drop=1.0))


def test_probabilities_that_all_move_up_are_refused_where_classes_are_independent(
    split: PreparedSplit,
) -> None:
    """As many come nearer to 1/2 as go away from it: only their mean shows it."""
    generator = np.random.default_rng(2)
    source = {each: generator.normal(size=(ROWS, 8)).astype(np.float32) * 3 for each in View}
    labels = (generator.random((ROWS, 8)) < 0.5).astype(np.float32)
    split, gate = replace(split, labels=labels), Gate(("onnx", "int8"), max_drop=1.0)
    higher = {each: logits + np.float32(0.3) for each, logits in source.items()}
    parity = compare_logits(higher, source, split, "multi_label")
    assert parity[View.TEXT].confidence.shift > 0.02
    assert abs(parity[View.TEXT].confidence.certainty) < 0.01
    with pytest.raises(ParityError, match="mean confidence of the multimodal view shifts by"):
        check_parity(parity, gate)
    sharper = {each: logits * np.float32(1.2) for each, logits in source.items()}
    parity = compare_logits(sharper, source, split, "multi_label")
    assert abs(parity[View.TEXT].confidence.shift) < 0.01
    assert parity[View.TEXT].confidence.certainty > 0.02
    with pytest.raises(ParityError, match="mean confidence of the multimodal view shifts by"):
        check_parity(parity, gate)


def test_confidence_is_compared_after_calibration(split: PreparedSplit) -> None:
    source, exported = logits_of(4.0), logits_of(4.4)
    hot = Temperatures(dict.fromkeys(View, 4.0), dict.fromkeys(View, ROWS))
    plain = compare_logits(exported, source, split, "single_label")
    calibrated = compare_logits(exported, source, split, "single_label", temperatures=hot)
    assert plain[View.IMAGE].confidence.source == pytest.approx(expit(4.0), abs=1e-6)
    # `split` has an image and no text in each example, so there is one temperature.
    assert calibrated[View.IMAGE].confidence.source == pytest.approx(expit(1.0), abs=1e-6)
    assert calibrated[View.IMAGE].confidence.shift == pytest.approx(expit(1.1) - expit(1), abs=1e-6)
    stated = calibrated[View.IMAGE].as_json()["confidence"]
    assert isinstance(stated, dict)
    assert stated["shift_interval"] == [stated["shift"], stated["shift"]]


def test_ties_of_a_single_view_may_flip_but_those_of_the_whole_may_not(
    split: PreparedSplit,
) -> None:
    """An image alone answers no question: yes and no are as likely, and rounding decides."""
    source = logits_of(1.0)
    source[View.IMAGE][:100, 0] = 0.01
    exported = {view: logits.copy() for view, logits in source.items()}
    exported[View.IMAGE][:100, 0] = -0.01
    gate = Gate(("onnx", "int8"), max_drop=1.0)
    parity = compare_logits(exported, source, split, "single_label")
    assert parity[View.IMAGE].agreement == 0.5
    assert parity[View.IMAGE].sure_agreement == 1.0
    check_parity(parity, gate)
    swapped = {View.MULTIMODAL: View.IMAGE, View.IMAGE: View.MULTIMODAL, View.TEXT: View.TEXT}
    parity = compare_logits(
        {view: exported[other] for view, other in swapped.items()},
        {view: source[other] for view, other in swapped.items()},
        split,
        "single_label",
    )
    with pytest.raises(
        ParityError, match=r"multimodal view agrees .* on 50\.00% of the test examples \("
    ):
        check_parity(parity, gate)


@pytest.mark.parametrize(
    ("logits", "problem", "sure"),
    [
        ([[0.3, 0.0], [0.1, 0.0]], "single_label", 0.0),
        ([[0.3, -0.1], [0.1, 9.0]], "multi_label", 1 / 2),
    ],
)
def test_sure_is_a_lead_of_a_tenth(
    split: PreparedSplit, logits: list[list[float]], problem: Problem, sure: float
) -> None:
    source = {View.IMAGE: np.array(logits, np.float32)}
    exported = {View.IMAGE: source[View.IMAGE] * np.array([[-1.0, 1.0]], np.float32)}
    labels = np.zeros(2, np.int64) if problem == "single_label" else np.ones((2, 2), np.float32)
    some = PreparedSplit(
        split.pixels,
        np.arange(2),
        split.input_ids[:2],
        split.attention_mask[:2],
        labels,
        np.arange(2),
    )
    found = compare_logits(exported, source, some, problem)[View.IMAGE]
    assert found.sure_agreement == pytest.approx(sure)


def test_a_drop_beyond_the_gate_is_refused(split: PreparedSplit) -> None:
    exported = logits_of(1.0)
    exported[View.MULTIMODAL][:3, 0] = -1.0
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    assert 1 - 197 / 200 > 0.015, "in floating point the drop is above the limit that it reaches"
    check_parity(parity, Gate(("onnx", "int8"), max_drop=0.015))
    with pytest.raises(ParityError, match=r"loses 1\.50 percentage points .* than --max-drop 1"):
        check_parity(parity, Gate(("onnx", "int8"), max_drop=0.01))


def test_a_drop_on_a_single_view_is_refused_unless_it_can_be_chance(split: PreparedSplit) -> None:
    """Integer rounding flips ties of a single view either way; a real loss goes one way."""
    source = logits_of(1.0)
    source[View.IMAGE][:40, 0] = -1.0
    exported = {view: logits.copy() for view, logits in source.items()}
    exported[View.IMAGE][:8, 0], exported[View.IMAGE][188:, 0] = 1.0, -1.0
    parity = compare_logits(exported, source, split, "single_label")
    loss = parity[View.IMAGE].loss
    assert (loss.only_source_right, loss.only_export_right) == (12, 8)
    assert loss.drop == pytest.approx(0.02)
    assert loss.low < 0 < loss.high
    gate = replace(LENIENT, max_drop=0.01)
    check_parity(parity, gate)
    exported[View.IMAGE][:8] = source[View.IMAGE][:8]
    parity = compare_logits(exported, source, split, "single_label")
    with pytest.raises(ParityError, match=r"the image view loses 6\.00 percentage points \[\d"):
        check_parity(parity, gate)


@pytest.mark.parametrize(
    ("lost", "won", "p_value"), [(0, 0, 1.0), (5, 0, 0.0625), (7, 1, 0.0703125)]
)
def test_mcnemars_test_counts_the_examples_that_one_of_both_gets_right(
    split: PreparedSplit, lost: int, won: int, p_value: float
) -> None:
    source, exported = logits_of(1.0)[View.TEXT], logits_of(1.0)[View.TEXT]
    exported[:lost, 0] = -1.0
    source[100 : 100 + won, 0] = -1.0
    loss = loss_of(exported, source, split.labels, "single_label")
    assert (loss.only_source_right, loss.only_export_right) == (lost, won)
    assert loss.p_value == pytest.approx(p_value)  # 2 * sum of binomial(n, k) / 2^n, k <= won


def test_the_divergence_is_that_of_the_formula() -> None:
    source = np.log(np.array([[0.5, 0.25, 0.25], [1.0, 1.0, 2.0]], np.float32))
    exported = np.log(np.array([[0.25, 0.5, 0.25], [1.0, 1.0, 2.0]], np.float32))
    expected = (0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2  # the second row is equal
    assert divergence(exported, source, "single_label") == pytest.approx(expected, rel=1e-6)
    zeros, some = np.zeros((1, 2), np.float32), np.array([[0.0, np.log(3.0)]], np.float32)
    sigmoid = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)  # of the second class alone
    assert divergence(some, zeros, "multi_label") == pytest.approx(sigmoid, rel=1e-6)
    certain = np.array([[1000.0, 0.0, -1000.0]], np.float32)
    assert divergence(certain, certain, "single_label") == 0.0


def test_the_report_states_every_limit(split: PreparedSplit) -> None:
    parity = compare_logits(logits_of(1.0), logits_of(1.0), split, "single_label")
    gate = Gate(("onnx", "int8"), max_drop=0.02, examples=ROWS)
    report = parity_as_json(parity, gate, runtime="ONNX Runtime", problem="single_label")
    assert report["tolerance"] == {
        "max_abs_error": None,
        "min_agreement": 0.95,
        "max_drift": 0.25,
        "max_confidence_shift": 0.02,
        "max_drop": 0.02,
    }
    assert report["examples_limit"] == ROWS


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_a_source_that_decides_all_alike_is_noted_by_view(
    split: PreparedSplit, problem: Problem
) -> None:
    source = logits_of(1.0)
    source[View.TEXT][7] = -1.0, 2.0
    notes = notes_on_source(source, split, problem)
    assert [note.partition(" view ")[0] for note in notes] == ["On the multimodal", "On the image"]
    assert "predicts the same for all 200 examples" in notes[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(split: PreparedSplit, value: float) -> None:
    exported = logits_of(1.0)
    exported[View.TEXT][3, 1] = value
    with pytest.raises(ParityError, match="NaN or infinite logits on the text view"):
        compare_logits(exported, logits_of(1.0), split, "single_label")


@pytest.mark.slow
def test_every_variant_is_exported_and_verified(own_run: RunDirectory) -> None:
    forms = variants_of(("onnx", "coreml"), ())
    config = ExportConfig(forms, max_drop_points=3.0, examples=100)
    for export in export_student(own_run, config):
        parity = json.loads((export.folder / "parity.json").read_text())
        assert parity["views"]["multimodal"]["export"]["examples"] == 100
        opened = open_model(export.folder)
        assert opened.labels == ("benign", "hateful")
    sizes = {
        export.name: export.size_bytes() for export in map(open_export, own_run.exports.iterdir())
    }
    for name in sizes:  # what chance does to a loss is stated where it may be beyond --max-drop
        report = json.loads((own_run.exports / name / "parity.json").read_text())
        reach = [v["drop_interval"][1] for v in report["views"].values() if v["drop"] <= 0.03]
        assert sum(end > 0.03 for end in reach) == str(report["notes"]).count("may lose")
    assert sizes["onnx-int8"] < sizes["onnx-fp32"]
    assert sizes["coreml-int8"] < sizes["coreml-fp16"]


@pytest.mark.slow
def test_a_note_on_the_source_is_shown_once_and_is_in_every_report(
    own_run: RunDirectory,
) -> None:
    """One test example: whatever the source decides, it decides all alike."""
    told: list[str] = []
    config = ExportConfig((("onnx", "fp32"), ("onnx", "int8")), 100.0, examples=1)
    exports = export_student(own_run, config, StageHooks(on_note=told.append))
    assert len(told) == len(View)
    for export in exports:
        assert json.loads((export.folder / "parity.json").read_text())["notes"] == told


@pytest.mark.slow
def test_a_failed_verification_leaves_nothing(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that is converted is damaged: one bias is a hundredth off."""

    def damaged(loaded: Any, **options: Any) -> ExportGraph:
        graph = graph_of(loaded, **options)
        graph.model.classifier.bias.data[0] += 0.01
        return graph

    monkeypatch.setattr(source_module, "graph_of", damaged)
    with pytest.raises(ParityError, match="logits differ"):
        export_student(own_run, ExportConfig(ONNX, examples=100))
    assert not own_run.exports.exists()


@pytest.mark.slow
def test_a_variant_beyond_tolerance_does_not_keep_the_others_from_being_written(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = {**tolerance_module.PARITY_TOLERANCE, "fp32": Tolerance(-1.0, 0.0)}
    monkeypatch.setattr(tolerance_module, "PARITY_TOLERANCE", strict)
    forms = (("onnx", "fp32"), ("coreml", "fp16"))
    with pytest.raises(ParityError, match=r"onnx-fp32: .*; written: coreml-fp16"):
        export_student(own_run, ExportConfig(forms, max_drop_points=100, examples=50))
    assert [path.name for path in own_run.exports.iterdir()] == ["coreml-fp16"]


@pytest.mark.slow
def test_an_existing_export_is_replaced_only_with_overwrite(own_run: RunDirectory) -> None:
    config = ExportConfig(ONNX, examples=50)
    (first,) = export_student(own_run, config)
    with pytest.raises(ArtifactError, match=r"onnx-fp32: already exists.*--overwrite"):
        export_student(own_run, config)
    again = ExportConfig(ONNX, examples=50, overwrite=True)
    (second,) = export_student(own_run, again)
    assert second.manifest["files"]["model.onnx"] == first.manifest["files"]["model.onnx"]  # type: ignore[index]


@pytest.fixture
def run_with_an_older_export(own_run: RunDirectory) -> RunDirectory:
    """A run that holds an export, coreml-fp16, of what was its student once: of its teacher."""
    folder = own_run.exports / "coreml-fp16"
    folder.mkdir(parents=True)
    facts = {"target": "coreml", "precision": "fp16"}
    write_manifest(folder, "export", {**facts, "source_digest": load_model(own_run.teacher).digest})
    return own_run


def test_an_export_of_an_older_student_is_refused_as_such(
    run_with_an_older_export: RunDirectory,
) -> None:
    config = ExportConfig((("coreml", "fp16"),))
    message = r"coreml-fp16: already exists\. It was made from another student; .*--overwrite"
    with pytest.raises(ArtifactError, match=message):
        export_student(run_with_an_older_export, config)


@pytest.mark.slow
def test_an_export_of_an_older_student_that_stays_is_named(
    run_with_an_older_export: RunDirectory,
) -> None:
    told: list[str] = []
    hooks = StageHooks(on_note=told.append)
    export_student(run_with_an_older_export, ExportConfig(ONNX, examples=50), hooks)
    assert [note for note in told if "from another student" in note] == [
        f"{run_with_an_older_export.exports / 'coreml-fp16'} was exported from another student:"
        " export it again and set overwrite (--overwrite)"
    ]


def test_an_unfinished_run_is_not_exported(own_run: RunDirectory) -> None:
    own_run.metrics.unlink()
    with pytest.raises(ArtifactError, match=r"unfinished.*msd distill --resume"):
        export_student(own_run, ExportConfig(ONNX))


def test_a_precision_that_a_target_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="coreml supports none of the precisions int4"):
        variants_of(("coreml",), ("int4",))
    assert variants_of(("onnx", "coreml"), ("int8",)) == (("onnx", "int8"), ("coreml", "int8"))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a run, model or export folder"):
        open_model(tmp_path)


@pytest.mark.parametrize("lost", ["student", "student/manifest.json"])
def test_the_student_that_a_run_lacks_is_named(own_run: RunDirectory, lost: str) -> None:
    remove_path(own_run.root / lost)
    messages = []
    for use in (open_model, lambda run: export_student(RunDirectory(run), ExportConfig(ONNX))):
        with pytest.raises(ArtifactError, match=re.escape(f"{own_run.student}: ")) as caught:
            use(own_run.root)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_an_interval_beyond_the_allowed_loss_is_noted(split: PreparedSplit) -> None:
    exported = logits_of(1.0)
    exported[View.TEXT][:2, 0] = -1.0  # 1 point is lost
    parity = compare_logits(exported, logits_of(1.0), split, "single_label")
    (noted,) = uncertain_losses(parity, Gate(ONNX[0], max_drop=0.015))
    assert noted.startswith(
        "the text view may lose more than 1.5 percentage points: on 200 test examples"
    )
    assert uncertain_losses(parity, Gate(ONNX[0], max_drop=0.1)) == ()
