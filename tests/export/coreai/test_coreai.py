import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.views import View
from msd_export.formats import Precision
from msd_export.inspection import inspect_export
from msd_export.model_file import TensorFacts
from msd_export.signature import ModelInputs
from msd_export.source import ExportSource

# Before the imports that need it.
pytest.importorskip("coreai", reason="needs the extra [coreai]")

from msd_export.coreai.converter import CoreAIConverter
from msd_export.coreai.predictor import PIP_RUNTIME, CoreAIPredictor, core_ai_runtime
from tests.export.conftest import MakeSource
from tests.export.written_forms import Ask, Forms, check_decisions, write_form, write_forms

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def forms(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    folder = tmp_path_factory.mktemp("coreai")
    converter = CoreAIConverter(replace(source, scratch=folder))
    paths = {precision: folder / f"{precision}.aimodel" for precision in PRECISIONS}
    return write_forms(converter, paths)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.1)])
@pytest.mark.parametrize("view", [*(view.value for view in View), "nothing"])
def test_logits_equal_pytorchs_whatever_lies_where_nothing_is_shown(
    source: ExportSource,
    forms: Forms,
    hard_inputs: dict[str, ModelInputs],
    torch_logits: Ask,
    view: str,
    precision: Precision,
    tolerance: float,
) -> None:
    inputs = hard_inputs[view]
    found = CoreAIPredictor(forms[precision][0]).predict(inputs)
    if view == "nothing":  # attention is even where all tokens are masked, but for rounding
        assert np.isfinite(found).all()
    else:
        np.testing.assert_allclose(found, torch_logits(source, inputs), atol=tolerance)


def test_int8_decides_as_pytorch_where_it_is_confident(
    source: ExportSource,
    forms: Forms,
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
) -> None:
    predictor = CoreAIPredictor(forms["int8"][0])
    check_decisions(predictor, source, torch_logits, memes[0].splits["test"].head(40))


def test_the_entry_for_texts_answers_whatever_images_are_given(
    forms: Forms, hard_inputs: dict[str, ModelInputs]
) -> None:
    entry = CoreAIPredictor(forms["fp32"][0]).text_entry
    assert entry is not None
    with_images = entry.predict(hard_inputs["multimodal"])
    np.testing.assert_array_equal(with_images, entry.predict(hard_inputs["text"]))


@pytest.mark.parametrize("view", ["multimodal", "text"])
def test_a_prepared_call_runs_every_row(
    forms: Forms, hard_inputs: dict[str, ModelInputs], view: str
) -> None:
    predictor = CoreAIPredictor(forms["fp32"][0])
    answers = predictor.prepare(hard_inputs[view])()
    assert isinstance(answers, list)
    found = np.concatenate([answer["logits"].numpy() for answer in answers])
    np.testing.assert_allclose(found, predictor.predict(hard_inputs[view]), atol=1e-5)


def test_what_is_integer_is_counted_from_the_file(source: ExportSource, forms: Forms) -> None:
    model = source.loaded.model
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    stored = {precision: form[1]["weights"] for precision, form in forms.items()}
    assert "int8" not in stored["fp32"]
    assert "int8" not in stored["fp16"]
    assert stored["fp32"]["float32"] > weights + 300 * 16
    assert stored["fp16"]["float16"] > weights + 300 * 16
    zero_points = stored["int8"]["int8"] - weights - 300 * 16  # all of them 0, stored once
    assert 0 <= zero_points < 20
    sizes = [inspect_export(forms[precision][0]).size_bytes for precision in PRECISIONS]
    assert sizes == sorted(sizes, reverse=True)


def test_inspect_shows_signature_operators_and_metadata(source: ExportSource, forms: Forms) -> None:
    for path, described in forms.values():
        facts = inspect_export(path).facts
        assert facts.inputs == (
            TensorFacts("image", (1, 48, 48, 3), "uint8"),
            TensorFacts("image_present", (1,), "int32"),
            TensorFacts("input_ids", (1, 16), "int32"),
            TensorFacts("attention_mask", (1, 16), "int32"),
        )
        assert facts.outputs == (
            TensorFacts("logits", (1, 2), "float32"),
            TensorFacts("probabilities", (1, 2), "float32"),
        )
        assert facts.entry_points == ("text",)
        assert facts.operators["conv2d"] == 3
        numbers = {tensor.storage: tensor.elements for tensor in facts.tensors}
        assert numbers == described["weights"]
        metadata = dict(facts.metadata)
        assert metadata.pop("producer").startswith("coreai-core ")
        assert metadata == source.metadata()


def test_an_asset_has_no_trace_of_the_machine(forms: Forms) -> None:
    for path, _ in forms.values():
        for file in path.iterdir():
            content = file.read_bytes()
            for trace in (str(Path.cwd()), "site-packages", str(path.parent), "msd_export"):
                assert trace.encode() not in content


@pytest.mark.slow
def test_groups_can_stay_in_float(own_source: ExportSource, forms: Forms, tmp_path: Path) -> None:
    converter = CoreAIConverter(own_source)
    kept = ("layers.0.attention", "word_embeddings")
    assert set(kept) < set(converter.groups("int8"))
    assert converter.groups("fp32") == converter.groups("fp16") == ()
    mixed = write_form(converter, "int8", tmp_path / "mixed.aimodel", kept=kept)
    layer = own_source.loaded.model.get_submodule("layers.0.attention")
    weights = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
    integer = forms["int8"][1]["weights"]["int8"]
    assert mixed["weights"]["int8"] == integer - weights - 300 * 16
    with pytest.raises(ExportError, match="left every weight in float"):
        write_form(converter, "int8", tmp_path / "f.aimodel", kept=converter.groups("int8"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_efficientnet_converts(
    make_source: MakeSource,
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    tmp_path: Path,
    precision: Precision,
) -> None:
    source = make_source({"kind": "efficientnet_lite", "variant": "lite0"})
    write_form(CoreAIConverter(source), precision, tmp_path / "model.aimodel")
    inputs = memes[0].splits["test"].inputs(slice(0, 2))
    error = CoreAIPredictor(tmp_path / "model.aimodel").predict(inputs)
    error -= torch_logits(source, inputs)
    assert np.abs(error).max() < {"fp32": 1e-3, "fp16": 0.1, "int8": 0.5}[precision]


def test_a_notebook_whose_loop_runs_can_predict(
    forms: Forms, hard_inputs: dict[str, ModelInputs]
) -> None:
    import asyncio

    async def cell() -> float:
        predictor = CoreAIPredictor(forms["fp32"][0])
        return float(predictor.predict(hard_inputs["multimodal"]).sum())

    assert np.isfinite(asyncio.run(cell()))


def change_a_byte(asset: Path) -> None:
    content = bytearray((asset / "main.mlirb").read_bytes())
    content[len(content) // 2] ^= 1
    (asset / "main.mlirb").write_bytes(content)


def remove_the_program(asset: Path) -> None:
    (asset / "main.mlirb").unlink()


def forget_the_metadata(asset: Path) -> None:
    write_json(asset / "metadata.json", {"assetVersion": "2.0"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_a_byte, r"main\.mlirb does not have the digest in main\.hash"),
        (remove_the_program, "No such file"),
        (forget_the_metadata, "creatorDefinedMetadata"),
    ],
)
def test_a_damaged_asset_is_one_clear_and_quiet_error(
    forms: Forms, tmp_path: Path, damage: object, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    asset = Path(shutil.copytree(forms["fp32"][0], tmp_path / "model.aimodel"))
    damage(asset)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=reason):
        CoreAIPredictor(asset)
    with pytest.raises(ArtifactError, match=reason):
        inspect_export(asset)
    assert capfd.readouterr() == ("", "")


def test_a_failed_conversion_is_one_quiet_error(
    exotic_source: ExportSource, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"the conversion to Core AI failed \(.*bessel_j0"):
        CoreAIConverter(exotic_source).convert("fp32", tmp_path / "model.aimodel")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("system", "release", "runtime"),
    [("linux", "", PIP_RUNTIME), ("darwin", "26.1", PIP_RUNTIME), ("darwin", "27.0", "Core AI")],
)
def test_the_runtime_is_the_systems_from_macos_27_on(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, runtime: str
) -> None:
    """No Mac can be here: what the system says of itself stands in for it."""
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.mac_ver", lambda: (release, ("", "", ""), ""))
    assert core_ai_runtime() == runtime
