import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.errors import ArtifactError, MsdError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.models.folders import load_classifier
from msd_deploy.models.predict import predict_views
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.evaluate import evaluate_model
from msd_export.pipeline import export_student, export_teacher_reference

FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "preprocess.json",
    "labels.json",
    "manifest.json",
}


FAMILIES = ("clip", "siglip", "vilt", "visual_bert")


def every_family(function: object) -> object:
    return pytest.mark.parametrize("family", FAMILIES)(function)


@pytest.fixture(scope="module")
def config_of(published: dict[str, Path], memes_file: DataConfig) -> Callable[..., TeachingConfig]:
    """A fine-tuning of a few steps, with a checkpoint at every one."""

    def make(family: str = "clip", **changes: Any) -> TeachingConfig:
        finetune = FineTuneConfig(
            model=str(published[family]),
            vision=str(published["vision"]) if family == "visual_bert" else None,
            epochs=1,
            batch_size=16,
            learning_rate=1e-3,
            checkpoint_seconds=0.0,
            log_every=1,
        )
        return TeachingConfig(data=memes_file, finetune=replace(finetune, **changes))

    return make


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., TeachingConfig]
) -> dict[str, Path]:
    """A finished teacher of each family."""
    folders = {family: tmp_path_factory.mktemp("teachers") / family for family in FAMILIES}
    for family, folder in folders.items():
        fine_tune_teacher(config_of(family), folder)
    return folders


def test_a_fine_tuning_whose_metric_does_not_rise_ends_early(
    config_of: Callable[..., TeachingConfig], tmp_path: Path
) -> None:
    notes: list[str] = []
    config = config_of("clip", epochs=12, patience=1, learning_rate=1e-8, fresh_rate=1.0)
    hooks = RunHooks(stages=StageHooks(on_note=notes.append))
    fine_tune_teacher(config, tmp_path / "early", hooks=hooks)
    assert any("ended after 3 of 12 epochs" in note for note in notes), notes


def stop_at(step: int) -> RunHooks:
    left = iter(range(step - 1, -1, -1))
    return RunHooks(training=Hooks(should_stop=lambda: next(left) == 0))


class Losses:
    """Keeps the loss of every step, which a finished folder does not hold."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.hooks = RunHooks(training=Hooks(on_step=self.add))

    def add(self, report: Any) -> None:
        self.values.append(sum(report.terms.values()))


@every_family
def test_a_family_fine_tunes_to_a_folder_of_its_own(taught: dict[str, Path], family: str) -> None:
    folder = taught[family]
    assert {path.name for path in folder.iterdir()} == FILES
    manifest = read_json(folder / "manifest.json")
    assert manifest["result"]["parameters"] > 0  # type: ignore[index]
    assert manifest["training"]["teacher"]["epochs"] >= 1  # type: ignore[index]
    assert set(manifest["result"]["test"]) == {view.value for view in View}  # type: ignore[index]
    assert str(folder.parent) not in (folder / "manifest.json").read_text()


@pytest.mark.slow
@every_family
def test_a_student_distils_from_it_and_exports(
    taught: dict[str, Path], memes_file: DataConfig, family: str, tmp_path: Path
) -> None:
    teacher = taught[family].name
    config = RunConfig(
        data=memes_file,
        teacher=TeacherConfig(path=taught[family]),
        distill=DistillConfig(epochs=1),
    )
    run = RunDirectory(tmp_path / teacher)
    metrics = run_distillation(config, run)
    assert metrics["teacher"]["parameters"] > 0  # type: ignore[index]
    loaded = load_classifier(run.teacher)
    data = data_of_run(read_run(run), loaded.preprocessor)
    cached = read_predictions(run.teacher_predictions)
    for view, logits in predict_views(loaded.model, data.splits["test"]).items():
        # Rows in other batches: other orders of summation in float32.
        np.testing.assert_allclose(cached.of_view("test", view), logits, atol=1e-5)
    reference = export_teacher_reference(run, data)
    assert reference is not None
    assert reference.manifest["source_digest"] == loaded.digest
    assert reference.folder == run.teacher_exports / "onnx-fp32"
    evaluated = evaluate_model(
        run.teacher, memes_file.spec, options=SourceOptions(), split="test", threads=1
    )
    stated = metrics["teacher"]["test"]  # type: ignore[index]
    views = evaluated["views"]
    assert {view: score["value"] for view, score in views.items()} == {  # type: ignore[attr-defined]
        view: score["value"] for view, score in stated.items()
    }
    (exported,) = export_student(run, ExportConfig((("onnx", "fp32"),), examples=50))
    assert (exported.folder / "model.onnx").is_file()


def trained(config: TeachingConfig, folder: Path) -> list[float]:
    losses = Losses()
    fine_tune_teacher(config, folder, hooks=losses.hooks)
    return losses.values


@every_family
def test_parts_and_recomputed_activations_reach_the_same_losses(
    config_of: Callable[..., TeachingConfig], family: str, tmp_path: Path
) -> None:
    whole = trained(config_of(family, dropout=0.0), tmp_path / "whole")
    assert len(whole) >= 4
    parts = trained(config_of(family, dropout=0.0, accumulate=3), tmp_path / "parts")
    # The same sums of float32 in another order: 6e-8 was measured, and AdamW enlarges what differs
    # in small gradients from step to step.
    assert parts == pytest.approx(whole, abs=1e-5)
    again = config_of(family, dropout=0.0, gradient_checkpointing=True)
    assert trained(again, tmp_path / "again") == whole


@every_family
def test_bfloat16_reaches_about_the_same_losses(
    config_of: Callable[..., TeachingConfig], family: str, tmp_path: Path
) -> None:
    whole = trained(config_of(family, dropout=0.0), tmp_path / "whole")
    lower = trained(config_of(family, dropout=0.0, precision="bf16"), tmp_path / "lower")
    # 8 bits of mantissa are a relative error of 0.4 % in every product, on losses of 0.7, averaged
    # over the terms of each sum: 6e-4 was measured.
    assert lower == pytest.approx(whole, abs=5e-3)
    assert lower != whole


def test_a_stopped_fine_tuning_resumes_to_the_same_bits(
    config_of: Callable[..., TeachingConfig], taught: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    with pytest.raises(StoppedError, match="a checkpoint is saved"):
        fine_tune_teacher(config_of(), folder, hooks=stop_at(2))
    assert {path.name for path in folder.iterdir()} == {
        "training.json",
        "history.jsonl",
        "checkpoints",
    }
    with pytest.raises(ArtifactError, match="not a complete model folder"):
        load_classifier(folder)
    with pytest.raises(StoppedError):
        fine_tune_teacher(config_of(), folder, resume=True, hooks=stop_at(1))
    fine_tune_teacher(config_of(), folder, resume=True)
    name = "model.safetensors"
    assert sha256_of_file(folder / name) == sha256_of_file(taught["clip"] / name)


def test_resuming_with_other_settings_or_nothing_is_refused(
    config_of: Callable[..., TeachingConfig], taught: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"finetune\.batch_size: 16 then, 8 now"):
        fine_tune_teacher(config_of(batch_size=8), taught["clip"], resume=True)
    with pytest.raises(ArtifactError, match="no fine-tuning to resume"):
        fine_tune_teacher(config_of(), tmp_path / "nowhere", resume=True)
    again = fine_tune_teacher(config_of(), taught["clip"], resume=True)
    assert again == read_json(taught["clip"] / "manifest.json")["result"]


def test_an_output_is_replaced_only_with_overwrite_and_only_a_teacher(
    config_of: Callable[..., TeachingConfig],
    taught: dict[str, Path],
    published: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(ArtifactError, match=r"already exists.*--overwrite"):
        fine_tune_teacher(config_of(), taught["clip"])
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ArtifactError, match="is not a teacher of"):
        fine_tune_teacher(config_of(), tmp_path, overwrite=True)
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"schema_version": 1, "kind": "model"}')  # a student's
    with pytest.raises(ArtifactError, match="is not a teacher of"):
        fine_tune_teacher(config_of(), folder, overwrite=True)
    shutil.rmtree(folder)
    with pytest.raises(StoppedError):
        fine_tune_teacher(config_of(), folder, hooks=stop_at(1))
    fine_tune_teacher(config_of(), folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_checkpoint_that_changes_meanwhile_is_noticed(
    config_of: Callable[..., TeachingConfig], published: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "clip"
    copy.mkdir()
    for file in published["clip"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config, folder = config_of(model=str(copy)), tmp_path / "teacher"
    with pytest.raises(StoppedError):
        fine_tune_teacher(config, folder, hooks=stop_at(1))
    stated = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(stated | {"initializer_factor": 2.0}))
    with pytest.raises(ArtifactError, match="the checkpoint has changed"):
        fine_tune_teacher(config, folder, resume=True)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["teacher", *map(str, arguments)])


def test_the_command_writes_a_teacher_and_prints_it_as_json(
    published: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    small = ("--data", memes_file.spec, "--epochs", 1, "--batch-size", 64)
    answer = invoke("--model", published["clip"], "--out", folder, *small, "--json")
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert told["teacher"] == str(folder)
    assert told["family"] == "CLIP"
    again = invoke("--resume", "--out", folder, "--json")
    assert json.loads(again.stdout) == told


def test_a_published_sets_further_metrics_are_stated_and_shown(
    published: dict[str, Path], write_memes: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.loads(line) for line in write_memes(folder, 60).read_text().splitlines()]
    records = [
        {"id": number, "img": row["image"], "label": number % 2, "text": row["text"]}
        for number, row in enumerate(rows)
    ]
    for name, cut in (("train", (0, 30)), ("dev_seen", (30, 45)), ("test_seen", (45, 60))):
        lines = "".join(json.dumps(record) + "\n" for record in records[slice(*cut)])
        (folder / f"{name}.jsonl").write_text(lines)
    out = tmp_path / "teacher"
    small = ("--data", f"hateful-memes:{folder}", "--epochs", 1, "--batch-size", 16)
    answer = invoke("--model", published["clip"], "--out", out, *small, "--freeze", "all")
    assert answer.exit_code == 0, answer.output
    assert "multimodal, auroc" in answer.stdout
    told = read_json(out / "manifest.json")["result"]["further"]  # type: ignore[index]
    assert set(told) == {"validation", "test"}
    assert set(told["test"]["auroc"]) == {view.value for view in View}
    shown = f"{told['test']['auroc']['text']['value']:.1%}"
    line = next(line for line in answer.stdout.splitlines() if "text, auroc" in line)
    assert shown in line.replace(" %", "%")


def test_the_commands_mistakes_have_different_errors(
    tmp_path: Path, published: dict[str, Path]
) -> None:
    out = ("--out", tmp_path / "teacher")
    assert invoke(*out).exit_code == 2
    assert "--model" in invoke(*out).output
    assert invoke(*out, "--model", published["clip"], "--epochs", 0).exit_code == 2
    for stated, message in (("no/where/at/all", "no such model folder"), ("a/b", "hf download")):
        answer = invoke(*out, "--model", stated)
        assert isinstance(answer.exception, MsdError)
        assert message in str(answer.exception)
    assert list(tmp_path.iterdir()) == []
