"""Published classifiers of one modality answer as transformers' own class does, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from msd_deploy.errors import ArtifactError, MsdError
from msd_deploy.models.pretrained.classifiers import open_published
from msd_deploy.views import View
from tests.checkpoints import (
    IMAGE_SETTINGS,
    SIDE,
    TEXTS,
    batch_of,
    write_image_classifier,
    write_text,
    write_text_classifier,
    write_vision,
)

LABELS = ("cat", "dog", "bird")
CROP = {"do_center_crop": True, "crop_size": {"height": 24, "width": 32}}


@pytest.mark.parametrize("kind", IMAGE_SETTINGS)
def test_images_have_the_logits_of_transformers(tmp_path: Path, kind: str) -> None:
    folder = write_image_classifier(tmp_path / kind, LABELS, kind)
    loaded = open_published(folder, View.IMAGE)
    batch = batch_of(loaded.preprocessor, TEXTS)
    reference = AutoModelForImageClassification.from_pretrained(folder).eval()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    with torch.inference_mode():
        expected = reference(pixel_values=(batch.pixel_values / 255 - mean) / std).logits
        found = loaded.model.logits_by_view(batch, (View.IMAGE,))[View.IMAGE]
    # Rounding: the mean is subtracted from pixels of 0..255 instead of 0..1.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert loaded.labels == LABELS
    assert loaded.preprocessor.image.size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "distilbert"])
def test_texts_have_the_logits_of_transformers(tmp_path: Path, kind: str) -> None:
    folder = write_text_classifier(tmp_path / kind, LABELS, kind)
    loaded = open_published(folder, View.TEXT)
    batch = batch_of(loaded.preprocessor, TEXTS)
    reference = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = [
            reference(input_ids=ids[mask == 1][None]).logits[0]  # each by itself, without padding
            for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
        ]
        found = loaded.model.logits_by_view(batch, (View.TEXT,))[View.TEXT]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert found.std(dim=0).min() > 0.01
    assert loaded.preprocessor.max_length == (39 if kind == "roberta" else 40)


@pytest.mark.parametrize(
    ("processor", "size", "mode"),
    [
        ({"size": {"height": 24, "width": 32}}, (24, 32), "fit"),
        ({"size": {"shortest_edge": 48}}, (48, 48), "fit"),
        ({"size": {"shortest_edge": 48}, "crop_pct": 0.875}, (48, 48), "crop"),
        ({"size": {"shortest_edge": 40}, **CROP}, (24, 32), "crop"),
        ({"size": 40}, (40, 40), "fit"),
    ],
)
def test_size_and_cut_are_those_of_the_processor(
    tmp_path: Path, processor: dict[str, Any], size: tuple[int, int], mode: str
) -> None:
    folder = write_image_classifier(tmp_path / "model", LABELS, "resnet", **processor)
    image = open_published(folder, View.IMAGE).preprocessor.image
    assert (image.size, image.mode) == (size, mode)


@pytest.mark.parametrize(
    ("processor", "step"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "include_top"),
        ({"feature_extractor_type": "MobileViTFeatureExtractor"}, "do_flip_channel_order"),
        ({"do_resize": False}, "do_resize false"),
        ({"do_unheard_of": True}, "do_unheard_of"),
    ],
)
def test_a_processor_that_changes_images_otherwise_is_refused(
    tmp_path: Path, processor: dict[str, Any], step: str
) -> None:
    folder = write_image_classifier(tmp_path / "model", LABELS, **processor)
    with pytest.raises(ArtifactError, match=f"image processor that is not supported .*{step}"):
        open_published(folder, View.IMAGE)


def test_an_image_size_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    folder = write_image_classifier(
        tmp_path / "model", LABELS, size={"height": 2 * SIDE, "width": SIDE}
    )
    with pytest.raises(ArtifactError, match="model cannot be run"):
        open_published(folder, View.IMAGE)


def test_class_names_are_needed_for_every_class(tmp_path: Path) -> None:
    folder = write_image_classifier(tmp_path / "model", LABELS)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "cat", "1": "dog", "3": "bird"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="no name of its own for each class"):
        open_published(folder, View.IMAGE)


def test_a_regression_is_refused(tmp_path: Path) -> None:
    for view, write in ((View.IMAGE, write_image_classifier), (View.TEXT, write_text_classifier)):
        folder = write(tmp_path / view.value, LABELS)
        config = json.loads((folder / "config.json").read_text())
        config |= {"id2label": {"0": "rating"}, "label2id": {"rating": 0}}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ArtifactError, match="has one class"):
            open_published(folder, view)


def of_texts(folder: Path) -> Path:
    return write_text_classifier(folder, LABELS)


def of_images(folder: Path) -> Path:
    return write_image_classifier(folder, LABELS)


@pytest.mark.parametrize(
    ("write", "view", "message"),
    [
        (of_texts, View.IMAGE, r"is not a classifier of images that is supported \(bert\)"),
        (of_images, View.TEXT, r"is not a classifier of texts that is supported \(vit\)"),
        (write_vision, View.IMAGE, r"lacks \d+ of its model's weights"),
        (write_text, View.TEXT, r"lacks \d+ of its model's weights"),
    ],
)
def test_what_is_no_classifier_of_the_modality_is_refused(
    tmp_path: Path, write: Callable[[Path], Path], view: View, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        open_published(write(tmp_path / "model"), view)


def test_layers_that_the_configuration_leaves_out_are_refused(tmp_path: Path) -> None:
    folder = write_text_classifier(tmp_path / "model", LABELS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ArtifactError, match="has fewer layers than the weights"):
        open_published(folder, View.TEXT)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_image_classifier(tmp_path / "model", LABELS)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="pickled ones are never loaded"):
        open_published(folder, View.IMAGE)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_missing_files_are_one_clear_error(tmp_path: Path, name: str) -> None:
    view = View.IMAGE if name.startswith("pre") else View.TEXT
    folder = (of_images if view is View.IMAGE else of_texts)(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(MsdError, match=name):
        open_published(folder, view)


@pytest.mark.parametrize(
    ("view", "file"),
    [
        (View.IMAGE, "preprocessor_config.json"),
        (View.TEXT, "tokenizer.json"),
        (View.TEXT, "config.json"),
    ],
)
def test_the_digest_covers_all_that_decides_the_logits(
    tmp_path: Path, view: View, file: str
) -> None:
    folder = (of_images if view is View.IMAGE else of_texts)(tmp_path / "model")
    before = open_published(folder, view).digest
    assert open_published(folder, view).digest == before
    changes: dict[str, tuple[str, str]] = {
        "preprocessor_config.json": ("0.4", "0.41"),
        "tokenizer.json": ('"guests"', '"guestz"'),
        "config.json": ('"cat"', '"cow"'),
    }
    text = (folder / file).read_text()
    assert changes[file][0] in text
    (folder / file).write_text(text.replace(*changes[file]))
    assert open_published(folder, view).digest != before
