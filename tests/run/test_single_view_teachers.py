"""`msd teacher --view`: a teacher of one modality, which is a specialist of `msd distill`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepare import prepare
from msd_deploy.data.source import SourceOptions
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.errors import ArtifactError, ConfigError, DataError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.models.folders import load_classifier, load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.models.teachers import open_specialist, open_teacher
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.record import read_source
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.evaluate import evaluate_model
from msd_export.pipeline import export_model

SINGLE = (View.IMAGE, View.TEXT)
START = {View.IMAGE: "vision", View.TEXT: "text"}
OTHER = {View.IMAGE: View.TEXT, View.TEXT: View.IMAGE}
WEIGHTS = "model.safetensors"
every_view = pytest.mark.parametrize("view", SINGLE)


def teaching(data: DataConfig, view: View, start: Path | str, **settings: Any) -> TeachingConfig:
    small = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0.0, "learning_rate": 1e-3}
    settings = {**small, "view": view.value, START[view]: str(start), **settings}
    return TeachingConfig(data=data, finetune=FineTuneConfig(**settings))


@pytest.fixture(scope="module")
def starts(published: dict[str, Path]) -> dict[View, Path]:
    return {view: published[START[view]] for view in SINGLE}


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, starts: dict[View, Path], memes_file: DataConfig
) -> dict[View, Path]:
    """A teacher of each modality; read it, never write into it."""
    folders = {view: tmp_path_factory.mktemp("teachers") / view for view in SINGLE}
    for view, folder in folders.items():
        fine_tune_teacher(teaching(memes_file, view, starts[view]), folder)
    return folders


@every_view
def test_metrics_and_configuration_are_of_the_one_view(
    taught: dict[View, Path], view: View
) -> None:
    manifest: Any = read_json(taught[view] / "manifest.json")
    for split in ("validation", "test"):
        assert list(manifest["result"][split]) == [view]
    assert set(manifest["result"]["single_views"]) <= {view}
    assert manifest["teaching"]["finetune"]["view"] == view
    assert read_json(taught[view] / "config.json")["view"] == view


@every_view
def test_it_has_no_encoder_of_the_other_modality(
    taught: dict[View, Path], starts: dict[View, Path], view: View
) -> None:
    model = load_classifier(taught[view]).model
    assert isinstance(model, SpecialistForClassification)
    of_start = (starts[view] / WEIGHTS).stat().st_size
    head = 4 * sum(parameter.numel() for parameter in model.classifier.parameters())
    assert (taught[view] / WEIGHTS).stat().st_size < of_start + head + 2000


@every_view
def test_its_answer_to_both_is_that_to_its_modality(
    taught: dict[View, Path], memes_file: DataConfig, view: View
) -> None:
    loaded = load_classifier(taught[view])
    data = prepare(read_source(RunConfig(data=memes_file)), loaded.preprocessor)
    logits = predict_views(loaded.model, data.splits["train"])
    assert logits[view].std(axis=0).min() > 0
    np.testing.assert_array_equal(logits[View.MULTIMODAL], logits[view])
    bias = loaded.model.classifier.bias.detach().numpy()
    np.testing.assert_array_equal(
        logits[OTHER[view]], np.broadcast_to(bias, logits[OTHER[view]].shape)
    )


def test_it_gives_the_targets_of_its_view_in_a_run(
    taught: dict[View, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    teacher = TeacherConfig(epochs=1, image_path=taught[View.IMAGE], text_path=taught[View.TEXT])
    run_distillation(
        RunConfig(data=memes_file, teacher=teacher, distill=DistillConfig(epochs=1)), run
    )
    targets = read_predictions(run.teacher_predictions).by_view("train")
    for view in SINGLE:
        loaded = open_specialist(taught[view], view)
        data = prepare(read_source(RunConfig(data=memes_file)), loaded.preprocessor)
        own = predict_views(loaded.model, data.splits["train"], views=(view,))[view]
        np.testing.assert_array_equal(targets[view], own)


@every_view
def test_it_is_no_teacher_of_anything_else(
    taught: dict[View, Path], memes_file: DataConfig, view: View, tmp_path: Path
) -> None:
    message = f"is a teacher of the {view} alone"
    for use in (
        lambda: open_teacher(taught[view]),
        lambda: open_specialist(taught[view], OTHER[view]),
        lambda: fine_tune_teacher(
            TeachingConfig(data=memes_file, finetune=FineTuneConfig(adapt=str(taught[view]))),
            tmp_path / "adapted",
        ),
        lambda: export_model(
            taught[view],
            memes_file.spec,
            ExportConfig((("onnx", "fp32"),)),
            options=SourceOptions(),
            out=tmp_path / "exports",
        ),
    ):
        with pytest.raises(ArtifactError, match=message):
            use()
    with pytest.raises(ArtifactError, match="is a single-view teacher, not a fusion model"):
        load_model(taught[view])


@every_view
def test_examples_without_its_modality_are_not_trained_on(
    starts: dict[View, Path], write_memes: Callable[..., Path], view: View, tmp_path: Path
) -> None:
    digests = []
    for label in ("benign", "hateful"):

        def change(index: int, line: dict[str, str], label: str = label) -> None:
            if index % 3 == 0:
                del line[view]
                line["label"] = label

        folder = tmp_path / label
        folder.mkdir()
        data = DataConfig(spec=str(write_memes(folder, 60, change, others=20)))
        fine_tune_teacher(
            teaching(data, view, starts[view], keep="last", patience=0), folder / "teacher"
        )
        digests.append(sha256_of_file(folder / "teacher" / WEIGHTS))
    assert digests[0] == digests[1]


@every_view
def test_data_without_its_modality_is_refused(
    starts: dict[View, Path], write_memes: Callable[..., Path], view: View, tmp_path: Path
) -> None:
    def leave_out(index: int, line: dict[str, str]) -> None:
        del line[view]

    data = DataConfig(spec=str(write_memes(tmp_path, 40, leave_out, others=20)))
    with pytest.raises(DataError, match=f"no labelled training example has {view} input"):
        fine_tune_teacher(teaching(data, view, starts[view]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@every_view
@pytest.mark.parametrize("settings", [{"freeze": "all"}, {"gradient_checkpointing": True}])
def test_a_stopped_training_resumes_to_the_same_bits(
    starts: dict[View, Path],
    memes_file: DataConfig,
    view: View,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    config = teaching(memes_file, view, starts[view], **settings)
    fine_tune_teacher(config, tmp_path / "whole")
    left = iter(range(5, -1, -1))
    stop = RunHooks(training=Hooks(should_stop=lambda: next(left) == 0))
    with pytest.raises(StoppedError, match="teacher training stopped at step 6"):
        fine_tune_teacher(config, tmp_path / "again", hooks=stop)
    fine_tune_teacher(config, tmp_path / "again", resume=True)
    whole, again = (sha256_of_file(tmp_path / name / WEIGHTS) for name in ("whole", "again"))
    assert whole == again


@every_view
def test_a_frozen_encoder_keeps_its_weights(
    starts: dict[View, Path], memes_file: DataConfig, view: View, tmp_path: Path
) -> None:
    config = teaching(memes_file, view, starts[view], freeze="all", epochs=1)
    fine_tune_teacher(config, tmp_path / "one")
    other = replace(config, finetune=replace(config.finetune, learning_rate=1e-2))
    fine_tune_teacher(other, tmp_path / "two")
    one, two = (load_classifier(tmp_path / name).model.state_dict() for name in ("one", "two"))
    changed = {name for name in one if not one[name].equal(two[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "image"}, "requires an encoder of the image"),
        ({"view": "text", "vision": "v"}, r"finetune\.vision: has no effect with --view text"),
        ({"view": "image", "vision": "v", "text": "t"}, r"finetune\.text: has no effect"),
        ({"view": "image", "model": "m"}, r"finetune\.model: has no effect"),
        ({"view": "text", "text": "t", "text_layers": 2}, r"finetune\.text_layers: has no effect"),
        ({"view": "image", "vision": "v", "modality_dropout": 0.5}, "modality_dropout"),
        ({"view": "text", "text": "t", "freeze": "vision"}, r"finetune\.freeze: has no effect"),
        ({"adapt": "teacher", "view": "image"}, r"finetune\.view: has no effect with --adapt"),
    ],
)
def test_settings_that_contradict_a_view_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        FineTuneConfig(**settings)


@every_view
def test_examples_can_be_augmented(
    starts: dict[View, Path], memes_file: DataConfig, view: View, tmp_path: Path
) -> None:
    config = teaching(memes_file, view, starts[view], epochs=1)
    digests = set()
    for preset in ("none", "strong"):
        augmented = replace(config, augment=AugmentConfig(preset=preset))
        fine_tune_teacher(augmented, tmp_path / preset)
        digests.add(sha256_of_file(tmp_path / preset / WEIGHTS))
    assert len(digests) == 2


def test_labels_are_not_mixed_where_no_image_is_seen() -> None:
    text = FineTuneConfig(view="text", text="minilm-l6")
    with pytest.raises(ConfigError, match=r"augment\.mixup: is not available with --view text"):
        TeachingConfig(finetune=text, augment=AugmentConfig(mixup=0.5))


@pytest.mark.parametrize(("view", "key"), [(View.IMAGE, "max_length"), (View.TEXT, "image_size")])
def test_inputs_of_the_other_modality_are_refused(
    starts: dict[View, Path], memes_file: DataConfig, view: View, key: str, tmp_path: Path
) -> None:
    config = teaching(replace(memes_file, **{key: 32}), view, starts[view])
    with pytest.raises(ConfigError, match=rf"data\.{key}: is not available"):
        fine_tune_teacher(config, tmp_path / "out")


def test_the_commands_show_its_view_and_the_next_command(
    starts: dict[View, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = ["--view", "image", "--vision", starts[View.IMAGE], "--data", memes_file.spec]
    answer = CliRunner().invoke(
        app, ["teacher", *map(str, options), "--epochs", "1", "--out", str(out)]
    )
    assert answer.exit_code == 0, answer.output
    assert "image teacher" in answer.stdout
    assert "multimodal" not in answer.stdout
    assert "texts" not in answer.stderr  # what of them is cut is of no concern
    assert "msd distill --image-teacher" in answer.stderr
    shown = CliRunner().invoke(app, ["evaluate", str(out), "--data", memes_file.spec, "--json"])
    assert shown.exit_code == 0, shown.output
    views = json.loads(shown.stdout)["views"]
    assert views["image"] == views["multimodal"]


def test_its_evaluation_has_no_note_on_views_that_it_is_no_teacher_of(
    taught: dict[View, Path],
    finished_run: RunDirectory,
    memes_file: DataConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("msd_export.evaluate.unsound_views", lambda *_, **__: ["view is unsound"])
    noted = {}
    for model in (taught[View.IMAGE], finished_run.teacher):
        notes: list[str] = []
        hooks = StageHooks(on_note=notes.append)
        options = SourceOptions()
        evaluate_model(
            model, memes_file.spec, options=options, split="test", threads=1, hooks=hooks
        )
        noted[model] = [note for note in notes if "unsound" in note]
    assert list(map(len, noted.values())) == [0, 1]
