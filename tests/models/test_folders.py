import json
from pathlib import Path

import pytest
import torch

from msd_deploy.artifacts.manifest import write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import load_model, save_model
from msd_deploy.models.teachers import load_teacher
from tests.checkpoints import LFS_POINTER


def test_a_model_folder_loads_alone_elsewhere(own_run: RunDirectory, tmp_path: Path) -> None:
    first = load_model(own_run.student)
    moved = own_run.student.rename(tmp_path / "elsewhere")
    second = load_model(moved)
    assert second.digest == first.digest
    assert second.labels == ("benign", "hateful")
    assert second.preprocessor.digest() == first.preprocessor.digest()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


def test_the_student_folder_holds_no_teacher(finished_run: RunDirectory) -> None:
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (finished_run.student, finished_run.teacher)
    ]
    assert sizes[0] * 10 < sizes[1]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "labels.json", "tokenizer.json"]
)
def test_an_altered_file_is_rejected_by_name(own_run: RunDirectory, name: str) -> None:
    path = own_run.student / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=f"{name}: was altered"):
        load_model(own_run.student)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "labels.json", "tokenizer.json", "manifest.json"],
)
def test_a_git_lfs_pointer_is_named(own_run: RunDirectory, name: str) -> None:
    (own_run.student / name).write_text(LFS_POINTER)
    with pytest.raises(
        ArtifactError, match=rf"{name}: is a Git LFS pointer.*`git lfs pull` in {own_run.student}"
    ):
        load_model(own_run.student)


def test_a_missing_and_an_added_file_are_rejected(own_run: RunDirectory) -> None:
    added = own_run.student / "pytorch_model.bin"
    added.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin: was added"):
        load_model(own_run.student)
    added.unlink()
    (own_run.student / "labels.json").unlink()
    with pytest.raises(ArtifactError, match=r"labels\.json: is missing"):
        load_model(own_run.student)


def test_a_folder_without_manifest_does_not_exist(own_run: RunDirectory) -> None:
    (own_run.student / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"not a complete model folder"):
        load_model(own_run.student)


def test_a_newer_schema_is_rejected_by_number(own_run: RunDirectory) -> None:
    path = own_run.student / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 7}))
    with pytest.raises(ArtifactError, match=r"schema_version 7, this msd-deploy .* reads up to 1"):
        load_model(own_run.student)


def test_a_teacher_of_other_classes_is_rejected(finished_run: RunDirectory) -> None:
    with pytest.raises(ArtifactError, match=r"teacher alone .*; the data alone has cat, dog"):
        load_teacher(finished_run.teacher, labels=("cat", "dog"), problem="single_label")
    with pytest.raises(ArtifactError, match="single_label teacher, but the data is multi_label"):
        load_teacher(finished_run.teacher, labels=("benign", "hateful"), problem="multi_label")


def test_classes_in_another_order_are_matched_by_name(finished_run: RunDirectory) -> None:
    teacher = load_teacher(
        finished_run.teacher, labels=("hateful", "benign"), problem="single_label"
    )
    assert teacher.class_order.tolist() == [1, 0]


def test_a_tokenizer_with_more_tokens_than_the_model_is_rejected(own_run: RunDirectory) -> None:
    path = own_run.student / "tokenizer.json"
    stated = json.loads(path.read_text())
    vocabulary = stated["model"]["vocab"]
    count = len(vocabulary)
    vocabulary["##further"] = count
    path.write_text(json.dumps(stated))
    write_manifest(own_run.student, "model", {})
    with pytest.raises(
        ArtifactError, match=rf"tokenizer\.json: has token ids up to {count}, the model embeddings"
    ):
        load_model(own_run.student)


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_nan_in_a_model_is_named_by_file_and_tensor(own_run: RunDirectory, part: str) -> None:
    loaded = load_model(own_run.root / part)
    with torch.no_grad():
        loaded.model.classifier.weight[0, 0] = float("nan")
    folder = own_run.root / "damaged"
    save_model(
        folder,
        loaded.model,
        loaded.preprocessor,
        labels=loaded.labels,
        problem=loaded.problem,
        facts={},
    )
    with pytest.raises(ArtifactError, match=r"model\.safetensors: the weights classifier\.weight"):
        load_teacher(folder, labels=loaded.labels, problem=loaded.problem)


def test_a_file_that_a_manifest_lists_without_a_digest_is_missing(own_run: RunDirectory) -> None:
    path = own_run.student / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["absent.json"] = None
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        ArtifactError, match=r"absent\.json: is missing since the model was written"
    ):
        load_model(own_run.student)
