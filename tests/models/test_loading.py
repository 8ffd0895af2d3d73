"""A model's files are checked before anything that they name is built or run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from msd_deploy.artifacts.manifest import MANIFEST_NAME, write_manifest
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import MsdError
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.folders import load_classifier, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.loading import check_config
from msd_deploy.models.pretrained.families import open_checkpoint


@pytest.fixture
def folder(
    tmp_path: Path,
    tiny_model: FusionForClassification,
    memes: tuple[object, Preprocessor],
) -> Path:
    labels = ("benign", "hateful")
    folder = tmp_path / "model"
    save_model(folder, tiny_model, memes[1], labels=labels, problem="single_label", facts={})
    return folder


@pytest.fixture
def clip(published: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(published["clip"], tmp_path / "clip"))


def change_json(path: Path, **changes: object) -> None:
    content: dict[str, Any] = json.loads(path.read_text())
    for key, value in changes.items():
        part = content
        *outer, last = key.split("__")
        for name in outer:
            part = part[name]
        part[last] = value
    path.write_text(json.dumps(content))


def load_changed(folder: Path, name: str, **changes: object) -> None:
    """Load a model folder with a changed file and the digests of what it is then."""
    change_json(folder / name, **changes)
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder, "model", {})
    load_classifier(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "no code or file that a configuration"),
        ({"_attn_implementation": "someone/kernel"}, "only eager and sdpa are supported"),
        ({"attn_implementation": {"text_config": "someone/kernel"}}, "only eager and sdpa"),
        ({"text_config__transformers_weights": "../other.bin"}, "no code or file"),
        ({"text_config__vocab_size": 10**12}, "no number above 1,048,576"),
        ({"num_labels": 10**9}, "no number above 1,048,576"),
        ({"text_config__num_hidden_layers": 10**6}, "a larger model than the weights"),
        ({"text_config__intermediate_size": 10**6}, "a larger model than the weights"),
        ({"vision_config__image_size": 10**5}, "a larger model than the weights"),
        ({"text_config__num_hidden_layers": 0}, "fewer layers than the weights, 32 of which"),
        ({"text_config__num_attention_heads": True}, "it must be a number"),
        ({"text_config__num_attention_heads": -2}, "it must be a positive number"),
        ({"vision_config__layer_norm_eps": -1e-5}, "it must be a positive number"),
        ({"text_config__intermediate_size": 31}, r"as \[31.*, and the weights have \[32"),
        ({"text_config__initializer_range": 0.0}, "it must be a number above 0, 100 at most"),
        ({"text_config__vocab_size": "300"}, "'vocab_size': .*expected int, got str"),
        ({"vision_config": None}, ""),
        ({"text_config__hidden_act": "no"}, ""),
    ],
)
def test_a_checkpoint_whose_configuration_is_not_that_of_its_weights_is_refused(
    clip: Path, changes: dict[str, object], message: str
) -> None:
    change_json(clip / "config.json", **changes)
    with pytest.raises(MsdError, match=message) as caught:
        open_checkpoint(str(clip))
    assert str(clip) in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0.5, 0, 0.5]}, "no valid image_std"),
        ({"image_mean": ["a", 1, 1]}, "no valid image_mean"),
        ({"image_mean": [0.5, 0.5]}, "no valid image_mean"),
        ({"rescale_factor": 0}, "no valid rescale_factor"),
        ({"rescale_factor": 1e-300}, "no valid rescale_factor"),
        ({"image_mean": [0, 0, 1e300]}, "no valid image_mean"),
        ({"do_rescale": "false"}, "no valid do_rescale"),
    ],
)
def test_a_normalization_that_is_none_is_refused(
    clip: Path, changes: dict[str, object], message: str
) -> None:
    change_json(clip / "preprocessor_config.json", **changes)
    with pytest.raises(MsdError, match=rf"preprocessor_config\.json: has {message}"):
        open_checkpoint(str(clip)).preprocessor(["a text"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"num_hidden_layers": 1}, r"does not match the weights \(layers\.1\."),
        ("config.json", {"num_hidden_layers": 3}, r"does not match the weights \(layers\.2\."),
        ("config.json", {"image_size": [40, 48]}, "and the weights have"),
        ("config.json", {"image_size": [47, 48]}, r"images of \(48, 48\) pixels, and the model"),
        ("config.json", {"norm_first": "false"}, "norm_first: must be true or false"),
        ("config.json", {"num_attention_heads": 5}, "model cannot be run"),
        ("config.json", {"num_attention_heads": 0}, "it must be a positive number"),
        ("config.json", {"hidden_size": "16"}, "model cannot be loaded"),
        ("config.json", {"vision__channels": [8, 12, 10**9]}, "no number above"),
        ("preprocess.json", {"image__size": [40, 48]}, r"images of \(40, 48\) pixels, and the"),
        ("preprocess.json", {"text__max_length": 17}, "texts of 17 tokens, and the model 16"),
        ("labels.json", {"labels": ["benign", "benign"]}, "has the label 'benign' twice"),
        ("labels.json", {"labels": ["benign", "\ud800"]}, "has no list of labels"),
        ("labels.json", {"labels": []}, "has no list of labels"),
        ("labels.json", {"decision": "probability >= 0.5"}, "which is 'argmax' for single_label"),
        ("tokenizer.json", {"model__vocab__zebra": 300}, "has token ids up to 300"),
        ("tokenizer.json", {"model__unk_token": "[GONE]"}, "is not a tokenizer"),
        (
            "tokenizer.json",
            {"post_processor__sep": ["[SEP]", 10**6]},
            "has token ids up to 1000000",
        ),
    ],
)
def test_files_of_a_model_folder_that_contradict_each_other_are_refused(
    folder: Path, name: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(MsdError, match=message) as caught:
        load_changed(folder, name, **changes)
    assert str(folder) in str(caught.value)
    assert caught.value.fix


def test_a_tokenizer_on_which_the_library_panics_is_refused_in_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    template = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
    single = [{"SpecialToken": {"id": "[GONE]", "type_id": 0}}]
    with pytest.raises(MsdError, match=r"tokenizer\.json: is not a tokenizer"):
        load_changed(folder, "tokenizer.json", post_processor={**template, "single": single})
    assert capfd.readouterr().err == ""


def test_weights_that_give_no_number_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], 3e38)
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], 1e38)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(MsdError, match="model answers with NaN or infinity"):
        load_changed(folder, "labels.json", note="")


def test_unknown_keys_and_another_order_change_nothing(folder: Path) -> None:
    before = load_classifier(folder)
    load_changed(folder, "labels.json", note="of a later version")
    load_changed(folder, "preprocess.json", text__note=[1, {"a": None}])
    after = load_classifier(folder)
    assert after.labels == before.labels
    assert after.preprocessor.digest() == before.preprocessor.digest()


def test_a_configuration_of_our_own_names_the_key_that_is_wrong() -> None:
    with pytest.raises(MsdError, match="norm_first: must be true or false, not 1"):
        FusionConfig(norm_first=1)  # type: ignore[arg-type]


def test_numbers_in_lists_are_checked_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_attention_heads": [1, 2, 5, 8], "layer_norm_eps": None}))
    check_config(path)
    path.write_text(json.dumps({"num_attention_heads": [1, 2, -5, 8]}))
    with pytest.raises(MsdError, match="has num_attention_heads -5: it must be a positive number"):
        check_config(path)
