"""What `msd bundle` writes and refuses; what its code does is tested in a browser (test_web.py)."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import CARD_NAME, read_json, read_manifest, sha256_of_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError, MsdError
from msd_deploy.hooks import StageHooks
from msd_export.bundle import vectors_folder
from msd_export.bundle.bundle_folder import KIND, write_bundle
from msd_export.folder import ExportFolder
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.opened_model import open_model


@pytest.fixture(scope="module")
def run(decided_exports: Callable[..., list[ExportFolder]]) -> RunDirectory:
    """A run with exports; read it, never write into it."""
    first, *_ = decided_exports(("onnx", "fp32"), ("onnx", "int8"), ("coreml", "fp16"))
    return RunDirectory(first.folder.parents[1])


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "web"
    write_bundle(run.root, "web", folder, form="onnx-int8")
    return folder


@pytest.mark.slow
def test_the_folder_of_the_model_has_all_that_an_app_reads(bundle: Path, run: RunDirectory) -> None:
    manifest: Any = read_manifest(bundle / "model", KIND)
    stated = (manifest["platform"], manifest["form"], manifest["model"])
    assert stated == ("web", "onnx-int8", "model.onnx")
    export = run.exports / "onnx-int8"
    for name in ("model.onnx", "labels.json", "preprocess.json"):
        assert (bundle / "model" / name).read_bytes() == (export / name).read_bytes()
    assert (bundle / CARD_NAME).read_bytes() == (export / CARD_NAME).read_bytes()
    assert read_manifest(bundle / "vectors", "vectors")


@pytest.mark.slow
def test_the_answers_are_those_of_the_exported_file(bundle: Path, run: RunDirectory) -> None:
    opened = open_model(run.exports / "onnx-int8")
    assert isinstance(opened.predictor, OnnxPredictor)
    examples: Any = read_json(bundle / "model" / "vectors.json")["examples"]
    assert len(examples) == 10
    for example in examples:
        found = opened.predict(image=bundle / "model" / example["image"], text=example["text"])
        expected = example["views"]["multimodal"]
        assert [float(str(value)) for value in found.logits] == expected["logits"]
        assert list(found.decided) == expected["decided"]


@pytest.mark.slow
def test_a_bundle_is_replaced_when_asked_to_and_nothing_else_is(
    bundle: Path, run: RunDirectory, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    with pytest.raises(ArtifactError, match="own: already exists"):
        write_bundle(run.root, "web", own)
    write_bundle(run.root, "web", own, overwrite=True)
    assert read_manifest(own / "model", KIND)["form"] == "onnx-fp32"
    for name in ("notes.txt", "src/index.js"):
        mine = own / name
        mine.write_text("mine")
        with pytest.raises(ArtifactError, match=f"{name}: was added or changed after"):
            write_bundle(run.root, "web", own, overwrite=True)
        assert mine.read_text() == "mine"
        mine.unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").touch()
    with pytest.raises(ArtifactError, match="is not a bundle"):
        write_bundle(run.root, "web", tmp_path / "site", overwrite=True)


@pytest.fixture
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles have the answers to four examples instead of a hundred."""
    monkeypatch.setattr(vectors_folder, "EXAMPLES", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("few_examples")
@pytest.mark.parametrize(("form", "other"), [("onnx-int8", "LiteRt"), ("litert-fp32", "Onnx")])
def test_a_bundle_for_android_has_the_runtime_of_its_form_alone(
    decided_exports: Callable[..., list[ExportFolder]], tmp_path: Path, form: str, other: str
) -> None:
    target, precision = form.split("-")
    (export,) = decided_exports((target, precision))
    write_bundle(export.folder.parents[1], "android", tmp_path / "out", form=form)
    code = [path.name for path in (tmp_path / "out" / "android").rglob("*.kt")]
    assert "MultimodalClassifiers.kt" in code
    assert not any(name.startswith(other) for name in code)
    assert len([name for name in code if name.endswith("Runtime.kt")]) == 1
    assert (tmp_path / "out" / "android" / "runtime.gradle.kts").is_file()
    assert not (tmp_path / "out" / "runtimes").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("few_examples")
def test_a_bundle_of_core_ai_has_core_ml_for_older_systems(
    export_decided: Callable[..., list[ExportFolder]], tmp_path: Path
) -> None:
    first, _ = export_decided(("coreai", "fp16"), ("coreml", "fp16"))
    run, notes = first.folder.parents[1], []
    hooks = StageHooks(on_note=notes.append)
    write_bundle(run, "ios", tmp_path / "out", form="coreai-fp16", hooks=hooks)
    folder = tmp_path / "out" / "Sources/MsdDeploy/Resources/model"
    manifest: Any = read_manifest(folder, KIND)
    assert (manifest["form"], manifest["model"]) == ("coreai-fp16", "model.aimodel")
    digest = sha256_of_json(read_manifest(run / "exports" / "coreml-fp16", "export"))
    assert manifest["fallback"] == {
        "model": "model.mlpackage",
        "form": "coreml-fp16",
        "export_digest": digest,
    }
    assert "model.mlpackage/Manifest.json" in manifest["files"]
    assert not any("Without" in note for note in notes)
    shutil.rmtree(run / "exports" / "coreml-fp16")
    write_bundle(run, "ios", tmp_path / "out", form="coreai-fp16", overwrite=True, hooks=hooks)
    assert "fallback" not in read_manifest(folder, KIND)
    assert any("Without coreml-fp16 beside it" in note for note in notes)


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ("onnx-int8-dynamic", ArtifactError, "--target onnx --precision int8-dynamic"),
        ("coreml-fp16", ConfigError, "'coreml-fp16' does not run on web.*onnx-fp32, onnx-"),
        ("nonsense", ConfigError, "'nonsense' does not run on web"),
        ("../student", ConfigError, "does not run on web"),
    ],
)
def test_a_form_that_cannot_be_bundled_says_what_to_do(
    run: RunDirectory, tmp_path: Path, form: str, error: type[MsdError], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_bundle(run.root, "web", tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def test_a_damaged_export_is_not_bundled(run: RunDirectory, tmp_path: Path) -> None:
    own = RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))
    model = own.exports / "onnx-fp32" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"model\.onnx: was altered"):
        write_bundle(own.root, "web", tmp_path / "out")


def test_the_command_refuses_a_form_before_it_asks_for_data(
    run: RunDirectory, tmp_path: Path
) -> None:
    line = ["bundle", str(run.exports / "onnx-fp32"), "--platform", "ios"]
    answer = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
    assert answer.exit_code == 2
    assert "does not run on ios" in " ".join(answer.output.replace("\u2502", " ").split())


def test_the_command_needs_data_for_an_export_by_itself(run: RunDirectory, tmp_path: Path) -> None:
    line = ["bundle", str(run.exports / "onnx-fp32"), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 2
    assert "--data" in answer.output
    answer = CliRunner().invoke(app, [*line, "--form", "onnx-fp32", "--data", "synthetic:memes"])
    assert answer.exit_code == 2
    assert "--form" in answer.output
