"""`msd teacher --adapt`: teachers of every family, adapted to single views."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepare import prepare
from msd_deploy.data.source import DatasetInfo
from msd_deploy.distillation.distances import kl_distance
from msd_deploy.errors import ArtifactError, ConfigError, DataError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.models.folders import LoadedModel, load_classifier, save_model
from msd_deploy.models.predict import predict_views
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.teachers import teacher_for
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.adaptation import model_to_adapt
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.fine_tuning_inputs import open_start
from msd_deploy.run.record import read_source
from msd_deploy.views import View

FAMILIES = ("clip", "siglip", "vilt", "visual_bert", "fusion")
every_family = pytest.mark.parametrize("family", FAMILIES)
WEIGHTS = "model.safetensors"


def teaching(data: DataConfig, **settings: Any) -> TeachingConfig:
    small = {"epochs": 3, "batch_size": 16, "checkpoint_seconds": 0.0}
    return TeachingConfig(data=data, finetune=FineTuneConfig(**{**small, **settings}))


@pytest.fixture(scope="module")
def taught(
    tmp_path_factory: pytest.TempPathFactory, published: dict[str, Path], memes_file: DataConfig
) -> dict[str, Path]:
    """A teacher of each family, whose predictions of pairs differ from example to example."""
    folders = {family: tmp_path_factory.mktemp("teachers") / family for family in FAMILIES}
    for family, folder in folders.items():
        name = "text" if family == "fusion" else family
        starts = {"text" if family == "fusion" else "model": str(published[name])}
        if family in ("visual_bert", "fusion"):
            starts["vision"] = str(published["vision"])
        config = teaching(memes_file, epochs=1, modality_dropout=0.0, **starts)
        fine_tune_teacher(config, folder)
        enlarge_weights(folder, memes_file)
    return folders


def enlarge_weights(folder: Path, data: DataConfig) -> None:
    """Enlarge a teacher's tiny initial weights, for logits of mean 0 and deviation 2."""
    loaded = load_classifier(folder)
    split = prepare(read_source(RunConfig(data=data)), loaded.preprocessor).splits["train"]
    classifier = loaded.model.classifier
    with torch.no_grad():
        for weights in loaded.model.parameters():
            if weights.dim() > 1 and weights.std() < 0.4:
                weights.mul_(0.4 / weights.std())
        logits = torch.from_numpy(predict_views(loaded.model, split)[View.MULTIMODAL])
        scale = 2 / logits.std(dim=0)
        classifier.weight.mul_(scale[:, None])
        classifier.bias.sub_(logits.mean(dim=0)).mul_(scale)
    manifest = read_json(folder / "manifest.json")
    save_model(
        folder,
        loaded.model,
        loaded.preprocessor,
        labels=loaded.labels,
        problem=loaded.problem,
        facts={"result": manifest["result"]},
    )


def distance(teacher: Path, other: Path, data: DataConfig) -> float:
    """Return the sum of the single views' distances to the teacher's predictions of pairs."""
    first, second = load_classifier(teacher), load_classifier(other)
    split = prepare(read_source(RunConfig(data=data)), first.preprocessor).splits["train"]
    targets = torch.from_numpy(predict_views(first.model, split)[View.MULTIMODAL])
    logits = predict_views(second.model, split)
    return sum(
        float(
            kl_distance(
                torch.from_numpy(logits[view]), targets, temperature=1.0, multi_label=False
            ).mean()
        )
        for view in (View.IMAGE, View.TEXT)
    )


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "fusion"])
def test_single_views_come_closer_to_the_predictions_of_both(
    taught: dict[str, Path], memes_file: DataConfig, family: str, tmp_path: Path
) -> None:
    """The tiny fusion's predictions hardly differ between examples, whatever its weights."""
    folder, origin = tmp_path / "adapted", taught[family]
    config = teaching(memes_file, epochs=4, adapt=str(origin), learning_rate=2e-4)
    fine_tune_teacher(config, folder)
    assert distance(origin, folder, memes_file) < 0.8 * distance(origin, origin, memes_file)


@every_family
def test_an_adapted_teacher_is_a_teacher_of_its_family(
    taught: dict[str, Path], memes_file: DataConfig, family: str, tmp_path: Path
) -> None:
    folder, before = tmp_path / "adapted", load_classifier(taught[family])
    result: Any = fine_tune_teacher(
        teaching(memes_file, epochs=1, adapt=str(before.folder)), folder
    )
    manifest: Any = read_json(folder / "manifest.json")
    after = load_classifier(folder)
    assert type(after.model) is type(before.model)
    assert after.preprocessor.digest() == before.preprocessor.digest()
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in before.folder.iterdir()
    }
    assert result["family"] == read_json(before.folder / "manifest.json")["result"]["family"]  # type: ignore[index]
    assert manifest["adapted_from"]["digest"] == before.digest
    assert list(manifest["training"]) == ["adaptation"]
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


@every_family
def test_weights_of_a_checkpoint_have_the_lower_learning_rate(
    taught: dict[str, Path], family: str
) -> None:
    start = open_start(FineTuneConfig(adapt=str(taught[family])))
    loaded = load_classifier(taught[family])
    model = start.build(
        loaded.preprocessor, labels=loaded.labels, problem=loaded.problem, dropout=0.0
    )
    fresh = {name for name, _ in model.named_parameters()} - model.pretrained
    assert {"classifier.weight", "classifier.bias"} <= fresh
    assert len(model.pretrained) > len(fresh)
    assert not any(name in fresh for name, _ in model.named_parameters() if "layers.0" in name)


def test_in_a_run_a_step_moves_weights_of_a_checkpoint_a_tenth_as_far(
    taught: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    """A first step of Adam moves each weight with a gradient by the learning rate."""
    teacher = TeacherConfig(path=taught["clip"], adapt_epochs=1, adapt_rate=1e-3, batch_size=1000)
    run = RunDirectory(tmp_path / "run")
    run_distillation(
        RunConfig(data=memes_file, teacher=teacher, distill=DistillConfig(epochs=1)), run
    )
    before, after = (
        dict(load_classifier(folder).model.named_parameters())
        for folder in (run.teacher, run.adapted_teacher)
    )
    moved = {name: float((after[name] - before[name]).abs().max().detach()) for name in before}
    fresh = [name for name in moved if name.startswith(("classifier.", "encoder.head."))]
    assert max(moved[name] for name in fresh) == pytest.approx(1e-3, rel=0.05)
    pretrained = moved.keys() - fresh
    assert max(moved[name] for name in pretrained) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("labels", list(itertools.permutations("abc")))
def test_classes_are_put_into_the_order_of_the_data(
    published: dict[str, Path], labels: tuple[str, ...], tmp_path: Path
) -> None:
    start = open_checkpoint(str(published["clip"]))
    preprocessor, own = start.preprocessor(["a text"]), ("a", "b", "c")
    model = start.build(preprocessor, labels=own, problem="single_label", dropout=0.0)
    features = torch.randn(5, model.classifier.in_features)
    before = model.classifier(features)
    loaded = LoadedModel(model, preprocessor, own, "single_label", "digest", tmp_path)
    teacher = teacher_for(loaded, labels=labels, problem="single_label")
    adapted = model_to_adapt(teacher, DatasetInfo(labels, "single_label"))
    assert adapted.config.id2label == dict(enumerate(labels))
    for index, label in enumerate(labels):
        assert torch.equal(adapted.classifier(features)[:, index], before[:, own.index(label)])


def test_labels_of_training_examples_are_not_used(
    taught: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    digests = []
    for share in (1.0, 0.1):
        data = replace(memes_file, labelled_share=share)
        folder = tmp_path / str(share)
        fine_tune_teacher(teaching(data, adapt=str(taught["clip"])), folder)
        digests.append(sha256_of_file(folder / WEIGHTS))
    assert digests[0] == digests[1]


def test_a_stopped_adaptation_resumes_to_the_same_bits(
    taught: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    config = teaching(memes_file, adapt=str(taught["visual_bert"]), freeze="vision")
    fine_tune_teacher(config, tmp_path / "whole")
    left = iter(range(5, -1, -1))
    stop = RunHooks(training=Hooks(should_stop=lambda: next(left) == 0))
    with pytest.raises(StoppedError, match="adaptation training stopped at step 6"):
        fine_tune_teacher(config, tmp_path / "again", hooks=stop)
    other = replace(config, finetune=replace(config.finetune, learning_rate=1e-3))
    with pytest.raises(ArtifactError, match=r"finetune\.learning_rate: 5e-05 then, 0\.001 now"):
        fine_tune_teacher(other, tmp_path / "again", resume=True)
    fine_tune_teacher(config, tmp_path / "again", resume=True)
    whole, again = (sha256_of_file(tmp_path / name / WEIGHTS) for name in ("whole", "again"))
    assert whole == again


def test_a_teacher_of_another_task_is_refused_before_images_are_read(
    taught: dict[str, Path], write_memes: Callable[..., Path], tmp_path: Path
) -> None:
    def rename(index: int, line: dict[str, str]) -> None:
        line["label"] = line["label"].replace("hateful", "rude")

    def list_labels(index: int, line: dict[str, Any]) -> None:
        line["labels"] = [line.pop("label")]

    for number, (change, message) in enumerate(
        ((rename, "classes of teacher and data differ"), (list_labels, "single_label teacher"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = DataConfig(spec=str(write_memes(folder, 60, change)))
        with pytest.raises(ArtifactError, match=message):
            fine_tune_teacher(teaching(data, adapt=str(taught["clip"])), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_teacher_is_refused(
    published: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="not a complete model folder"):
        fine_tune_teacher(teaching(memes_file, adapt=str(published["clip"])), tmp_path / "out")


def test_examples_of_one_modality_cannot_adapt_a_teacher(
    taught: dict[str, Path], write_memes: Callable[..., Path], tmp_path: Path
) -> None:
    def split_up(index: int, line: dict[str, str]) -> None:
        del line["image" if index % 2 else "text"]

    data = DataConfig(spec=str(write_memes(tmp_path, 60, split_up)))
    with pytest.raises(DataError, match="no training example has both an image and a text"):
        fine_tune_teacher(teaching(data, adapt=str(taught["clip"])), tmp_path / "out")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "other"},
        {"vision": "effnet-lite0", "text": "minilm-l6"},
        {"modality_dropout": 0.5},
        {"dropout": 0.0},
    ],
)
def test_settings_without_effect_on_an_adaptation_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has no effect with --adapt"):
        FineTuneConfig(adapt="teacher", **settings)


@pytest.mark.parametrize("key", ["max_length", "image_size"])
def test_inputs_are_fixed_by_the_teacher(
    taught: dict[str, Path], memes_file: DataConfig, key: str, tmp_path: Path
) -> None:
    config = teaching(replace(memes_file, **{key: 32}), adapt=str(taught["clip"]))
    with pytest.raises(ConfigError, match=rf"data\.{key}: is fixed by the teacher of --adapt"):
        fine_tune_teacher(config, tmp_path / "out")


def test_mixed_images_have_no_targets() -> None:
    with pytest.raises(ConfigError, match="the teacher has not predicted mixed images"):
        TeachingConfig(finetune=FineTuneConfig(adapt="teacher"), augment=AugmentConfig(mixup=0.5))


def test_the_command_shows_both_teachers(
    taught: dict[str, Path], memes_file: DataConfig, tmp_path: Path
) -> None:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["teacher", *map(str, arguments)])

    small = ("--data", memes_file.spec, "--epochs", 1, "--batch-size", 64)
    adapted = ("--adapt", taught["clip"], "--out", tmp_path / "adapted", *small)
    answer = invoke(*adapted)
    assert answer.exit_code == 0, answer.output
    assert "test before" in answer.stdout
    again = invoke("--resume", "--out", tmp_path / "adapted", "--json")
    shown = json.loads(again.stdout)
    assert set(shown["adapted_from"]) >= {"digest", "validation", "test"}
