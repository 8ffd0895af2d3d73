"""Faults of a checkpoint are found when it is opened, before any data is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from msd_deploy.errors import ArtifactError, ConfigError, MsdError
from msd_deploy.models.classifier import check_finite
from msd_deploy.models.pretrained.families import Checkpoint, open_checkpoint
from msd_deploy.models.pretrained.text import open_text
from msd_deploy.models.pretrained.vision import open_vision
from tests.checkpoints import LFS_POINTER, write_text


@pytest.fixture
def copy(published: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(published["clip"].parent, tmp_path / "hub")
    return tmp_path / "hub"


def open_kind(hub: Path, kind: str) -> object:
    folder = str(hub / kind)
    if kind == "text":
        return open_text(folder)
    if kind == "vision":
        return open_vision(folder)
    return open_checkpoint(folder, vision=str(hub / "vision") if kind == "visual_bert" else None)


def every_kind(function: object) -> object:
    kinds = ["clip", "siglip", "vilt", "visual_bert", "text", "vision"]
    return pytest.mark.parametrize("kind", kinds)(function)


def set_config(folder: Path, **changes: object) -> None:
    stated = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        part = stated
        *path, last = key.split("__")
        for name in path:
            part = part[name]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(stated))


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nan_and_infinity_are_named_by_file_and_tensor(copy: Path, kind: str, value: float) -> None:
    file = copy / kind / "model.safetensors"
    weights = load_file(file)
    name = [name for name, tensor in weights.items() if tensor.ndim == 2][-1]
    weights[name][0, 0] = value
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="hold NaN or infinity") as caught:
        open_kind(copy, kind)
    assert name in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_shard_that_holds_nan_is_named(copy: Path) -> None:
    single = copy / "clip" / "model.safetensors"
    weights = load_file(single)
    single.unlink()
    broken = "visual_projection.weight"
    weights[broken][0, 0] = float("nan")
    halves = {"a.safetensors": [broken], "b.safetensors": [n for n in weights if n != broken]}
    for file, names in halves.items():
        part = {name: weights[name] for name in names}
        save_file(part, copy / "clip" / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    path = copy / "clip" / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, **index}))
    with pytest.raises(ArtifactError, match=rf"a\.safetensors.*{broken}"):
        open_kind(copy, "clip")


@every_kind
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_git_lfs_pointer_is_named(copy: Path, kind: str, file: str) -> None:
    (copy / kind / file).write_text(LFS_POINTER)
    with pytest.raises(ArtifactError, match=rf"{file}: is a Git LFS pointer.*`git lfs pull`"):
        open_kind(copy, kind)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("clip", "text_config__num_hidden_layers"),
        ("siglip", "vision_config__num_hidden_layers"),
        ("vilt", "num_hidden_layers"),
        ("visual_bert", "num_hidden_layers"),
        ("text", "num_hidden_layers"),
        ("vision", "num_hidden_layers"),
    ],
)
def test_fewer_layers_in_the_configuration_than_in_the_weights_are_rejected(
    copy: Path, kind: str, key: str
) -> None:
    set_config(copy / kind, **{key: 1})
    with pytest.raises(ArtifactError, match=r"config\.json: has fewer layers than the weights"):
        open_kind(copy, kind)


def test_a_configuration_without_the_pooling_head_of_the_weights_is_rejected(copy: Path) -> None:
    set_config(copy / "siglip", vision_config__vision_use_head=False)
    with pytest.raises(ArtifactError, match=r"config\.json: has fewer layers .*vision_model\.head"):
        open_kind(copy, "siglip")


def test_siglip_towers_of_different_widths_are_rejected(copy: Path) -> None:
    set_config(copy / "siglip", text_config__projection_size=24)
    with pytest.raises(ArtifactError, match=r"projection_size is 24, but .*hidden_size is 16"):
        open_kind(copy, "siglip")


@pytest.mark.parametrize(("end", "expected"), [(7, "7"), (0, "0"), (None, "None"), (2, "2")])
def test_clip_is_rejected_where_its_tower_does_not_pool_at_the_end_of_a_text(
    copy: Path, end: int | None, expected: str
) -> None:
    set_config(copy / "clip", text_config__eos_token_id=end)
    checkpoint = open_kind(copy, "clip")
    assert isinstance(checkpoint, Checkpoint)
    with pytest.raises(ConfigError, match=rf"with id 1, but.*eos_token_id.* is {expected}\)"):
        checkpoint.preprocessor(["a text"])


def test_a_token_id_beyond_the_embeddings_is_rejected(copy: Path) -> None:
    path = copy / "clip" / "tokenizer.json"
    stated = json.loads(path.read_text())
    piece = next(p for p, number in stated["model"]["vocab"].items() if number > 5)
    stated["model"]["vocab"][piece] = 5000  # as many tokens as before
    path.write_text(json.dumps(stated))
    assert Tokenizer.from_file(str(path)).get_vocab_size() <= 300
    checkpoint = open_kind(copy, "clip")
    assert isinstance(checkpoint, Checkpoint)
    with pytest.raises(ConfigError, match="tokenizer has 5001 tokens, the checkpoint 300"):
        checkpoint.preprocessor(["a text"])


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_positions_that_count_from_another_padding_token_are_rejected(
    tmp_path: Path, kind: str
) -> None:
    write_text(tmp_path / "text", kind)
    set_config(tmp_path / "text", pad_token_id=1)
    with pytest.raises(MsdError, match=r"pad_token_id is 1, but the tokenizer's \[PAD\] is 0"):
        open_text(str(tmp_path / "text"))


def test_finite_weights_of_any_type_pass() -> None:
    weights = {"half": torch.zeros(2, dtype=torch.float16), "count": torch.tensor(3)}
    check_finite(weights, Path("model.safetensors"))
