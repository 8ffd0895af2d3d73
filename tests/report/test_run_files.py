import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.distillation.saliency import Saliency
from msd_deploy.errors import ArtifactError
from msd_deploy.report.run_files import BINS, against_saliency, read_training, read_weights


def _saliency(rows: int) -> Saliency:
    rising = torch.linspace(0, 2, rows)
    return Saliency(rising, rising.flip(0), torch.ones(rows), torch.ones(rows))


def _save(run: RunDirectory, **weights: np.ndarray) -> None:
    tensors = {name: np.ascontiguousarray(w, np.float32) for name, w in weights.items()}
    save_file(tensors, run.example_weights)


def test_bins_hold_as_many_examples_each_in_the_order_of_saliency() -> None:
    saliency = np.random.default_rng(0).permutation(np.linspace(0, 6, 120))
    found = against_saliency(saliency, saliency / 2)
    assert [one["examples"] for one in found["bins"]] == [10] * BINS
    first, rows = found["bins"][0], np.sort(saliency)[:10]
    assert first["saliency"] == pytest.approx(np.median(rows), abs=1e-6)
    assert first["median"] == pytest.approx(np.median(rows) / 2, abs=1e-6)
    assert first["low"] == pytest.approx(np.quantile(rows / 2, 0.1), abs=1e-6)
    assert found["rank_correlation"] == 1


def test_few_points_stand_for_many_examples() -> None:
    found = against_saliency(np.linspace(0, 1, 10_001), np.ones(10_001))
    assert len(found["points"]) <= 400
    assert found["points"][0][0] == 0
    assert found["rank_correlation"] is None


def test_fewer_examples_than_bins_make_fewer_bins() -> None:
    assert len(against_saliency(np.arange(3.0), np.arange(3.0))["bins"]) == 3


def test_constant_weights_are_a_number_a_view(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    _save(run, multimodal=np.ones(9), image=np.full(9, 0.25), text=np.full(9, 1.75))
    found = read_weights(run, _saliency(9))
    assert found == {
        "fixed": {"multimodal": 1.0, "image": 0.25, "text": 1.75},
        "by_saliency": {},
    }


def test_each_modality_is_compared_with_its_own_saliency(tmp_path: Path) -> None:
    run, rising = RunDirectory(tmp_path), np.linspace(0.5, 1.5, 30)
    _save(run, multimodal=np.ones(30), image=rising, text=rising)
    found = read_weights(run, _saliency(30))
    assert found is not None
    ranks = {view: one["rank_correlation"] for view, one in found["by_saliency"].items()}
    assert ranks == {"image": 1.0, "text": -1.0}


def test_a_method_without_weights_has_none(tmp_path: Path) -> None:
    assert read_weights(RunDirectory(tmp_path), _saliency(5)) is None


def test_weights_of_other_examples_are_rejected(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    _save(run, multimodal=np.ones(8), image=np.linspace(0, 1, 8), text=np.linspace(1, 2, 8))
    with pytest.raises(ArtifactError, match=r"image view for each of 9 examples.*distil again"):
        read_weights(run, _saliency(9))


def test_damaged_weights_are_rejected(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.example_weights.write_bytes(b"not a tensor in sight")
    with pytest.raises(ArtifactError, match=r"example_weights\.safetensors: cannot be read"):
        read_weights(run, _saliency(9))


def _line(**values: object) -> str:
    return json.dumps({"phase": "student", **values}) + "\n"


def test_a_training_is_read_as_it_was_logged(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    spread = {"image": {"mean": 1.5, "std": 0.25}}
    values = {"multimodal": 0.9, "image": 0.6, "text": 0.7}
    history.write_text(
        json.dumps({"phase": "teacher", "step": 7, "terms": {"labels": 9.0}})
        + "\n"
        + _line(step=1, terms={"labels": 0.5, "image": 0.25}, weights=spread)
        + _line(step=1, split="validation", accuracy=values)
        + _line(step=2, terms={"labels": 0.125})
    )
    found = read_training(history, metric="accuracy")
    assert found == {
        "steps": [1, 2],
        "terms": {"labels": [0.5, 0.125], "image": [0.25, None]},
        "weights": {"image": {"mean": [1.5, None], "std": [0.25, None]}},
        "validation": {"steps": [1], "views": {view: [value] for view, value in values.items()}},
    }


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(_line(step=1, terms={}) + '{"phase": "stu')
    with pytest.raises(ArtifactError, match=r"history\.jsonl:2: is not valid JSON"):
        read_training(history, metric="accuracy")
    history.write_text("[]\n")
    with pytest.raises(ArtifactError, match="is not a JSON object"):
        read_training(history, metric="accuracy")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"terms": {"labels": 0.5}}, "step"),
        ({"step": "7", "terms": {"labels": 0.5}}, "step"),
        ({"step": 7, "terms": None}, "terms"),
        ({"step": 7, "terms": {"labels": None}}, "terms"),
        ({"step": 7, "terms": {"labels": float("nan")}}, "terms"),
        ({"step": 7, "terms": {}, "weights": None}, "weights"),
        ({"step": 7, "terms": {}, "weights": {"image": {"mean": 1.0}}}, "weights"),
        ({"step": 7, "accuracy": None}, "accuracy"),
        ({"step": 7, "accuracy": {"multimodal": 0.5}}, "accuracy"),
    ],
)
def test_a_line_that_lacks_a_value_is_named(
    tmp_path: Path, line: dict[str, object], key: str
) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(_line(step=1, terms={"labels": 1}) + _line(**line))
    with pytest.raises(ArtifactError, match=rf"history\.jsonl:2: has no valid {key} \("):
        read_training(history, metric="accuracy")


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_history_that_ends_before_the_last_epoch_is_named(tmp_path: Path, kept: int) -> None:
    history = tmp_path / "history.jsonl"
    values = {"multimodal": 0.9, "image": 0.6, "text": 0.7}
    lines = [
        line
        for epoch in (1, 2)
        for line in (
            _line(step=epoch, epoch=epoch, terms={"labels": 1}),
            _line(step=epoch, epoch=epoch, split="validation", accuracy=values),
        )
    ]
    history.write_text("".join(lines))
    assert read_training(history, metric="accuracy", epochs=2)["steps"] == [1, 2]
    history.write_text("".join(lines[:kept]))
    said = f"history.jsonl: ends in epoch {kept // 2} of the student's 2: lines are missing"
    with pytest.raises(ArtifactError, match=said):
        read_training(history, metric="accuracy", epochs=2)


def test_a_missing_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"history\.jsonl: cannot be read"):
        read_training(tmp_path / "history.jsonl", metric="accuracy")


@pytest.mark.parametrize(
    "lines", ["", '{"phase": "teacher", "step": 7, "terms": {"labels": 9.0}}\n']
)
def test_a_history_without_the_students_training_is_named(tmp_path: Path, lines: str) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(lines)
    with pytest.raises(ArtifactError, match=r"history\.jsonl: has no line of the student"):
        read_training(history, metric="accuracy")


def test_a_student_of_int8_epochs_alone_has_no_curves(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(json.dumps({"phase": "int8", "step": 1, "terms": {"labels": 0.5}}) + "\n")
    assert read_training(history, metric="accuracy")["steps"] == []
