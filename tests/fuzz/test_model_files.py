"""Files of a model folder: each is read as it stands, or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from msd_deploy.data.preprocess import build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.folders import save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.pretrained.fusion import input_config
from msd_export.opened_model import OpenedModel, open_model
from tests.checkpoints import words
from tests.fuzz.folders import is_sound, read_changed, strict_json
from tests.fuzz.json_mutations import changed_keys, mutated_json

# An example loads a model twice.
few = settings(max_examples=25)

Logits = np.ndarray[Any, np.dtype[np.float32]]

SIZE = (16, 16)
LABELS = ("benign", "hateful")
PHOTO = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
TEXTS = ("look the guests", "a [SEP] zebra \N{GRINNING FACE}" + " word" * 40)
# A model of other values is another model: its logits may be others.
OF_THE_MODEL = {
    *("num_attention_heads", "layer_norm_eps", "norm_first", "hidden_act", "eos_token_id"),
    "pad_token_id",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an untrained student of 16 pixels."""
    folder = tmp_path_factory.mktemp("sound") / "student"
    torch.manual_seed(0)
    preprocessor = build_preprocessor(words(), ImageSpec(SIZE), max_length=16)
    config = FusionConfig(
        vision={"kind": "conv_stem", "channels": [8, 12]},
        hidden_size=16,
        intermediate_size=32,
        **input_config(preprocessor),
        **task_config(LABELS, "single_label"),
    )
    model = FusionForClassification(config).eval()
    save_model(folder, model, preprocessor, labels=LABELS, problem="single_label", facts={})
    return folder


@pytest.fixture(scope="module")
def opened(sound: Path) -> OpenedModel:
    return open_model(sound)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "student"))


def logits_of(model: OpenedModel) -> Logits:
    """Return the logits of the image alone, of the texts alone and of both, [5, classes]."""
    given: list[dict[str, Any]] = [{"image": PHOTO}, *({"text": text} for text in TEXTS)]
    given += [{"image": PHOTO, "text": text} for text in TEXTS]
    return np.stack([model.predict(**example).logits for example in given])


def predict(folder: Path) -> tuple[OpenedModel, Logits]:
    model = open_model(folder)
    return model, logits_of(model)


def contents_of(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


@few
@given(data=st.data())
def test_labels_are_those_of_the_file(
    data: st.DataObject, folder: Path, opened: OpenedModel
) -> None:
    content = contents_of(folder, "labels.json")
    values = st.sampled_from(["single_label", "multi_label", "soft_label", "argmax", "benign"])
    raw = data.draw(mutated_json(content, values))
    found = read_changed(folder / "labels.json", raw, lambda: predict(folder))
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        model, logits = found
        assert list(model.labels) == said["labels"]
        assert len(set(model.labels)) == 2
        assert model.problem == said["problem"]
        assert np.array_equal(logits, logits_of(opened))


@few
@given(data=st.data())
def test_preprocessing_is_that_of_the_file(
    data: st.DataObject, folder: Path, opened: OpenedModel
) -> None:
    content = contents_of(folder, "preprocess.json")
    values = st.sampled_from(["fit", "crop", "[SEP]", "[PAD]", "BGR", [16, 16], [16, 15], 16, 8])
    raw = data.draw(mutated_json(content, values))
    found = read_changed(folder / "preprocess.json", raw, lambda: predict(folder))
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        image, text = said["image"], said["text"]
        assert image["size"] == content["image"]["size"]
        assert image["resize"] == content["image"]["resize"]
        assert text.get("pad_token", "[PAD]") == "[PAD]"
        assert text.get("absent_token", "[CLS]") == "[CLS]"
        assert type(text["max_length"]) is int
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        spec = ImageSpec(SIZE, image["mode"])
        preprocessor = build_preprocessor(tokenizer, spec, max_length=text["max_length"])
        assert np.array_equal(found[1], logits_of(replace(opened, preprocessor=preprocessor)))


@few
@given(data=st.data())
def test_texts_are_tokenized_as_the_file_says(
    data: st.DataObject, folder: Path, opened: OpenedModel
) -> None:
    content = contents_of(folder, "tokenizer.json")
    raw = data.draw(mutated_json(content, tokenizer_values))
    found = read_changed(folder / "tokenizer.json", raw, lambda: predict(folder))
    assert found or not is_sound(raw, content)
    if found:
        tokenizer = Tokenizer.from_str(raw.decode())
        preprocessor = replace(opened.preprocessor, tokenizer=tokenizer)
        tokenizer.no_padding()
        tokenizer.enable_truncation(preprocessor.max_length)
        tokenizer.encode_special_tokens = True
        ids, mask = found[0].preprocessor.tokens(TEXTS)
        for text, row, kept in zip(TEXTS, ids, mask, strict=True):
            expected = tokenizer.encode(text).ids
            assert row[kept == 1].tolist() == expected
            assert len(set(row[kept == 0])) < 2
        assert np.array_equal(found[1], logits_of(replace(opened, preprocessor=preprocessor)))


tokenizer_values = st.sampled_from(
    [
        *("WordPiece", "BPE", "Unigram", "WordLevel", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "zebra"),
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        {"type": "Replace", "pattern": {"String": ""}, "content": "a"},
        {"type": "Prepend", "prepend": "a" * 10_000},
        {"type": "Sequence", "normalizers": []},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "ByteLevel"},
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {"type": "BertProcessing", "sep": ["[SEP]", 10**6], "cls": ["[CLS]", 2]},
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5},
        {
            **{"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None},
            **{"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        },
    ]
)


@few
@given(data=st.data())
def test_a_manifest_changes_nothing_or_is_refused(
    data: st.DataObject, folder: Path, opened: OpenedModel
) -> None:
    content = contents_of(folder, "manifest.json")
    values = st.sampled_from(["model", "export", "0" * 64, *content["files"].values()])
    raw = data.draw(mutated_json(content, values))
    path = folder / "manifest.json"
    found = read_changed(path, raw, lambda: predict(folder), is_signed=False)
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        assert (said["kind"], said["files"]) == ("model", content["files"])
        assert np.array_equal(found[1], logits_of(opened))


@pytest.fixture(scope="module")
def teachers(
    published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of an untrained teacher of two families."""
    parent, hub = tmp_path_factory.mktemp("teachers"), published["clip"].parent
    torch.manual_seed(0)
    for kind, vision in (("clip", None), ("visual_bert", str(hub / "vision"))):
        start = open_checkpoint(str(hub / kind), vision=vision)
        preprocessor = start.preprocessor(TEXTS)
        model = start.build(preprocessor, labels=LABELS, problem="single_label", dropout=0.0)
        save_model(
            parent / kind, model, preprocessor, labels=LABELS, problem="single_label", facts={}
        )
    return {kind: parent / kind for kind in ("clip", "visual_bert")}


@few
@given(data=st.data())
def test_a_configuration_is_the_weights_own_or_refused(
    data: st.DataObject, sound: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    folders = {"student": sound, **teachers}
    kind = data.draw(st.sampled_from([*["student"] * 3, *teachers]))
    folder = tmp_path / kind
    if not folder.exists():
        shutil.copytree(folders[kind], folder)
    content = contents_of(folder, "config.json")
    raw = data.draw(mutated_json(content, config_values))
    found = read_changed(folder / "config.json", raw, lambda: predict(folder))
    assert found or not is_sound(raw, content)
    if found:
        model, logits = found
        assert model.labels == LABELS
        assert np.isfinite(logits).all()
        keys = set(changed_keys(strict_json(raw), content))
        assert keys & OF_THE_MODEL or np.array_equal(logits, predict(folder)[1]), keys


config_values = st.sampled_from(
    [
        *("siglip", "vit", "quick_gelu", 80, {"model_type": "llama"}, {"model_type": "vit"}),
        *("msd_fusion", "msd_family", "clip", "float16", "int8", "conv_stem", "efficientnet_lite"),
        *("lite0", "user/kernel", "flash_attention_2", "eager", [16, 16], [10**6, 10**6], [1, 1]),
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"AutoModel": "modeling.Model"},
        {"kind": "efficientnet_lite", "variant": "lite0"},
        {"kind": "conv_stem", "channels": [10**9] * 3},
        {"kind": "transformers", "config": {"model_type": "vit", "image_size": 10**6}},
        {"kind": "transformers", "config": {"model_type": "vit", "num_hidden_layers": 10**6}},
    ]
)
