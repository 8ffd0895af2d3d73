"""Layers that int8 ruins are found by measuring, and stay in float."""

from typing import Any

import pytest
import torch

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ParityError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import load_model, save_model
from msd_export.config import ExportConfig
from msd_export.mixed_precision import Sensitivity, mixes
from msd_export.onnx.inspector import count_weights_and_operators
from msd_export.pipeline import export_student
from msd_export.source import ExportSource

INT8 = (("onnx", "int8"),)
LARGEST_ERROR = 0.1


def ruin_for_int8(run: RunDirectory, stretch: float = 1e4) -> None:
    """Stretch one of the channels between two convolutions, and shrink what is read of it.

    In float nothing changes; in 8 bits, with one scale for all channels, the others become 0.
    """
    loaded = load_model(run.student)
    layers = loaded.model.vision.layers
    with torch.no_grad():
        layers[1].weight[0] *= stretch
        layers[1].bias[0] *= stretch
        layers[3].weight[:, 0] /= stretch
    save_model(
        run.student,
        loaded.model,
        loaded.preprocessor,
        labels=loaded.labels,
        problem=loaded.problem,
        facts={},
    )


@pytest.mark.slow
def test_the_layer_that_int8_ruins_is_found_and_stays_in_float(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's student was trained too briefly for a decision to flip: its logits are held."""
    from msd_export import tolerance

    close = tolerance.Tolerance(LARGEST_ERROR, 0.0)
    monkeypatch.setattr(
        tolerance, "PARITY_TOLERANCE", {**tolerance.PARITY_TOLERANCE, "int8": close}
    )
    ruin_for_int8(own_run)
    told: list[str] = []
    (export,) = export_student(own_run, ExportConfig(INT8), StageHooks(on_note=told.append))
    report = read_json(export.folder / "parity.json")
    mixed = report["conversion"]["mixed"]  # type: ignore[index,call-overload]
    ruined = ["vision.layers.0", "vision.layers.3"]
    assert sorted(mixed["kept"]) == ruined
    table = mixed["sensitivity"]["kl_nats"]
    others = [nats for group, nats in table.items() if group not in ruined]
    assert min(table[group] for group in ruined) > 10 * max(others)
    assert mixed["kept_as"] == "float"
    assert mixed["judged_on_test"] == 1
    stored = count_weights_and_operators(export.model_path)[0]
    assert stored["int8"] > 0
    assert any("2 of 10 layer groups are kept in float: vision.layers" in note for note in told)


@pytest.mark.slow
def test_what_no_mix_saves_is_refused_with_the_layers_that_cost_most(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is as close as a tolerance that allows no error at all."""
    from msd_export import tolerance

    none = tolerance.Tolerance(0.0, 1.0)
    monkeypatch.setattr(tolerance, "PARITY_TOLERANCE", {**tolerance.PARITY_TOLERANCE, "int8": none})
    ruin_for_int8(own_run)
    message = (
        r"all but one of 10 layer groups.*most sensitive.*: vision.layers.[03] \([\d.]+ nats\), "
    )
    with pytest.raises(ParityError, match=message) as caught:
        export_student(own_run, ExportConfig(INT8, examples=60))
    assert caught.value.exit_code == 3
    assert not own_run.exports.exists()


def test_ever_more_groups_are_kept_the_most_sensitive_first() -> None:
    sensitivity = Sensitivity({"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.0, "e": 0.01}, examples=3)
    assert sensitivity.worst_first() == ("b", "c", "a", "e", "d")
    kept = list(mixes(sensitivity))
    assert kept == [("b",), ("b", "c"), ("b", "c", "a"), ("b", "c", "a", "e")]
    assert sensitivity.summary(2) == "b (0.3 nats), c (0.2 nats)"
    assert list(sensitivity.as_json()["kl_nats"]) == ["b", "c", "a", "e", "d"]  # type: ignore[call-overload]


@pytest.mark.slow
def test_the_way_to_calibrate_reaches_the_quantizer(own_run: RunDirectory) -> None:
    written = []
    for calibration in ("minmax", "percentile"):
        config = ExportConfig(INT8, 100.0, examples=20, overwrite=True, calibration=calibration)
        (export,) = export_student(own_run, config)
        written.append(export.model_path.read_bytes())
    assert written[0] != written[1]


@pytest.mark.slow
def test_core_ml_keeps_float_activations_where_integers_ruin_them(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_export import tolerance

    close = tolerance.Tolerance(LARGEST_ERROR, 0.0)
    monkeypatch.setattr(
        tolerance, "PARITY_TOLERANCE", {**tolerance.PARITY_TOLERANCE, "w8a8": close}
    )
    monkeypatch.setattr(ExportSource.calibration, "__defaults__", (8,))  # rows; 64 take a minute
    ruin_for_int8(own_run, stretch=100)
    (export,) = export_student(own_run, ExportConfig((("coreml", "w8a8"),), examples=20))
    conversion: Any = read_json(export.folder / "parity.json")["conversion"]
    assert conversion["mixed"]["kept_as"] == "float16 activations"
    assert "vision.layers.3" in conversion["mixed"]["kept"]
    assert conversion["operators"]["int8_activations"]["conv"] < 3
