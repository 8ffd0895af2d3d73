import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    SiglipModel,
    ViltModel,
    VisualBertModel,
    ViTModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from msd_deploy.data.batch import Batch
from msd_deploy.data.preprocess import Preprocessor, read_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.folders import load_classifier, load_model, save_model
from msd_deploy.models.pretrained.families import Checkpoint, open_checkpoint
from msd_deploy.models.pretrained.location import checkpoint_folder
from msd_deploy.views import View
from tests.checkpoints import batch_of

Built = tuple[FamilyForClassification, Preprocessor]


def opened(folder: Path) -> Checkpoint:
    vision = str(folder.parent / "vision") if folder.name == "visual_bert" else None
    return open_checkpoint(str(folder), vision=vision)


def for_yes_or_no(checkpoint: Checkpoint, preprocessor: Preprocessor) -> FamilyForClassification:
    labels = ("no", "yes")
    return checkpoint.build(preprocessor, labels=labels, problem="single_label", dropout=0.0)


def build(folder: Path) -> Built:
    checkpoint = opened(folder)
    preprocessor = checkpoint.preprocessor(["a red circle on the left"])
    torch.manual_seed(0)
    model = for_yes_or_no(checkpoint, preprocessor)
    # What stands for an absent part starts as nothing: a test needs to see it.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval(), preprocessor


def normalised(batch: Batch) -> torch.Tensor:
    """What the checkpoint's own processor makes of a batch's pixels."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return (batch.pixel_values / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


TEXTS = ["look the guests came", "a red circle"]
OTHERS = ["two blue squares at night", "left"]


def every_family(function: object) -> object:
    return pytest.mark.parametrize("family", ["clip", "siglip", "vilt", "visual_bert"])(function)


@every_family
def test_a_withheld_modality_cannot_change_the_logits(
    published: dict[str, Path], family: str
) -> None:
    model, preprocessor = build(published[family])
    with torch.inference_mode():
        first = model.logits_by_view(batch_of(preprocessor, TEXTS), tuple(View))
        repainted = model.logits_by_view(batch_of(preprocessor, TEXTS, seed=1), tuple(View))
        reworded = model.logits_by_view(batch_of(preprocessor, OTHERS), tuple(View))
    assert torch.equal(first[View.TEXT], repainted[View.TEXT])
    assert torch.equal(first[View.IMAGE], reworded[View.IMAGE])
    for other, withheld in ((repainted, View.TEXT), (reworded, View.IMAGE)):
        for view in set(View) - {withheld}:
            assert not torch.allclose(first[view], other[view], atol=1e-6)


@every_family
def test_a_row_without_a_modality_equals_that_view(published: dict[str, Path], family: str) -> None:
    model, preprocessor = build(published[family])
    full = batch_of(preprocessor, TEXTS)
    bare = batch_of(preprocessor, [TEXTS[0], ""])
    bare = replace(bare, image_present=torch.tensor([False, True]))
    with torch.inference_mode():
        single = model.logits_by_view(full, (View.TEXT, View.IMAGE))
        mixed = model.logits_by_view(bare, (View.MULTIMODAL,))[View.MULTIMODAL]
    # Masked tokens add exact zeros, in sums of another length: rounding of float32.
    assert torch.allclose(mixed[0], single[View.TEXT][0], atol=1e-5)
    assert torch.allclose(mixed[1], single[View.IMAGE][1], atol=1e-5)


@every_family
def test_logits_of_a_row_are_equal_in_any_batch(published: dict[str, Path], family: str) -> None:
    model, preprocessor = build(published[family])
    with torch.inference_mode():
        together = model.logits_by_view(batch_of(preprocessor, [TEXTS[1], TEXTS[0]]), tuple(View))
        alone = model.logits_by_view(batch_of(preprocessor, [TEXTS[1]]), tuple(View))
    for view in View:
        assert torch.allclose(together[view][:1], alone[view], atol=1e-5)  # rounding of float32


@every_family
def test_a_moved_teacher_folder_loads_with_equal_logits(
    published: dict[str, Path], family: str, tmp_path: Path
) -> None:
    model, preprocessor = build(published[family])
    folder = tmp_path / "teacher"
    save_model(folder, model, preprocessor, labels=("no", "yes"), problem="single_label", facts={})
    assert str(published[family]) not in (folder / "config.json").read_text()
    loaded = load_classifier(folder.rename(tmp_path / "elsewhere"))
    assert loaded.preprocessor.digest() == preprocessor.digest()
    batch = batch_of(preprocessor, TEXTS)
    with torch.inference_mode():
        before = model.logits_by_view(batch, tuple(View))
        after = loaded.model.logits_by_view(batch, tuple(View))
    for view in View:
        assert torch.equal(before[view], after[view])
    with pytest.raises(ArtifactError, match="teacher, not a fusion model"):
        load_model(tmp_path / "elsewhere")


def test_clips_embeddings_are_those_of_transformers(published: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(str(published["clip"]))
    preprocessor = checkpoint.preprocessor(TEXTS)
    model = for_yes_or_no(checkpoint, preprocessor).eval()
    whole = CLIPModel.from_pretrained(published["clip"]).eval()
    batch = batch_of(preprocessor, TEXTS)
    seen: list[torch.Tensor] = []
    model.encoder.head.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    with torch.inference_mode():
        model.features_by_view(batch, (View.MULTIMODAL,))
        expected = whole(
            pixel_values=normalised(batch),
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
        )
    for ours, theirs in zip(seen, (expected.image_embeds, expected.text_embeds), strict=True):
        direction = torch.nn.functional.normalize(ours, dim=-1)
        assert torch.allclose(direction, theirs, atol=1e-5)  # normalisation in another order


def test_siglips_embeddings_are_those_of_texts_filled_up_to_the_longest(
    published: dict[str, Path],
) -> None:
    checkpoint = open_checkpoint(str(published["siglip"]))
    preprocessor = checkpoint.preprocessor(TEXTS, max_length=40)
    model = for_yes_or_no(checkpoint, preprocessor).eval()
    whole = SiglipModel.from_pretrained(published["siglip"]).eval()
    batch = batch_of(preprocessor, TEXTS)
    seen: list[torch.Tensor] = []
    model.encoder.head.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    with torch.inference_mode():
        model.features_by_view(batch, (View.MULTIMODAL,))
        expected = whole(
            pixel_values=normalised(batch),
            input_ids=torch.from_numpy(preprocessor.tokens(TEXTS)[0].astype(np.int64)),
        )
    for ours, theirs in zip(seen, (expected.image_embeds, expected.text_embeds), strict=True):
        direction = torch.nn.functional.normalize(ours, dim=-1)
        assert torch.allclose(direction, theirs, atol=1e-5)  # normalisation in another order


def test_vilts_pooled_states_are_those_of_transformers(published: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(str(published["vilt"]))
    preprocessor = checkpoint.preprocessor(TEXTS)
    model = for_yes_or_no(checkpoint, preprocessor).eval()
    whole = ViltModel.from_pretrained(published["vilt"]).eval()
    batch = batch_of(preprocessor, TEXTS)
    with torch.inference_mode():
        ours = model.features_by_view(batch, (View.MULTIMODAL,))[View.MULTIMODAL]
        theirs = whole(
            pixel_values=normalised(batch),
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
        ).pooler_output
    # It shuffles the patches: float32 sums in another order.
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_visual_berts_pooled_states_are_those_of_transformers(published: dict[str, Path]) -> None:
    checkpoint = opened(published["visual_bert"])
    preprocessor = checkpoint.preprocessor(TEXTS)
    model = for_yes_or_no(checkpoint, preprocessor).eval()
    vision = ViTModel.from_pretrained(published["vision"]).eval()
    whole = VisualBertModel.from_pretrained(published["visual_bert"]).eval()
    batch = batch_of(preprocessor, TEXTS)
    with torch.inference_mode():
        ours = model.features_by_view(batch, (View.MULTIMODAL,))[View.MULTIMODAL]
        grid = vision(pixel_values=normalised(batch)).last_hidden_state
        theirs = whole(
            visual_embeds=model.encoder.parts.projection(grid),
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
        ).pooler_output
    assert torch.allclose(ours, theirs, atol=1e-5)  # normalisation in another order


def test_a_convolutional_backbone_gets_the_size_of_its_processor(
    published: dict[str, Path], tmp_path: Path
) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path)
    stated = {"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 40}}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(stated | {"do_center_crop": True, "image_mean": [0.5] * 3})
    )
    checkpoint = open_checkpoint(str(published["visual_bert"]), vision=str(tmp_path))
    preprocessor = checkpoint.preprocessor(TEXTS)
    assert preprocessor.image == ImageSpec((40, 40), "crop")
    model = for_yes_or_no(checkpoint, preprocessor).eval()
    with torch.inference_mode():
        logits = model.logits_by_view(batch_of(preprocessor, TEXTS), tuple(View))
    assert all(values.shape == (2, 2) for values in logits.values())


@every_family
def test_activations_are_computed_again_for_the_gradient(
    published: dict[str, Path], family: str
) -> None:
    model, preprocessor = build(published[family])
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    calls: list[object] = []
    for layer in layers:
        # The layer's own hooks stay outside of what is computed again.
        inside = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
        inside.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    model.checkpoint_activations()
    model.train()
    logits = model.logits_by_view(batch_of(preprocessor, TEXTS), (View.MULTIMODAL,))
    logits[View.MULTIMODAL].sum().backward()
    assert len(calls) == 2 * len(layers) > 0


def test_only_visual_bert_takes_a_vision_backbone(published: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"no vision encoder of its own.*--vision"):
        open_checkpoint(str(published["visual_bert"]))
    with pytest.raises(ConfigError, match=r"CLIP has a vision encoder of its own.*--vision"):
        open_checkpoint(str(published["clip"]), vision=str(published["vision"]))
    with pytest.raises(ArtifactError, match=r"is not a vision model \(visual_bert\)"):
        open_checkpoint(str(published["visual_bert"]), vision=str(published["visual_bert"]))


def test_preprocessing_is_the_checkpoints_own(published: dict[str, Path]) -> None:
    preprocessor = open_checkpoint(str(published["clip"])).preprocessor(TEXTS)
    whole = open_checkpoint(str(published["vilt"])).preprocessor(TEXTS)
    assert whole.image == ImageSpec((32, 32), "fit")
    assert whole.as_json()["schema_version"] == 1
    assert preprocessor.image == ImageSpec((32, 32), "crop")
    assert preprocessor.pad_token == "<|endoftext|>"
    assert preprocessor.absent_token == "<|startoftext|>"


def altered(folder: Path, target: Path, **changes: object) -> Path:
    """Copy a checkpoint with another config.json."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    stated = json.loads((folder / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(stated))
    return target


def test_an_unknown_family_is_rejected_and_the_known_ones_named(
    published: dict[str, Path], tmp_path: Path
) -> None:
    other = altered(published["clip"], tmp_path / "other", model_type="flava")
    with pytest.raises(ArtifactError, match=r"unknown family \('flava'\)\. Use one of CLIP"):
        open_checkpoint(str(other))


def test_code_beside_a_checkpoint_is_never_run(published: dict[str, Path], tmp_path: Path) -> None:
    code = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.T", None]}
    other = altered(published["clip"], tmp_path / "other", auto_map=code)
    ran = tmp_path / "ran"
    (other / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: ...\n")
    build(other)
    assert not ran.exists()
    foreign = altered(other, tmp_path / "foreign", model_type="own")
    with pytest.raises(ArtifactError, match="unknown family"):
        open_checkpoint(str(foreign))
    assert not ran.exists()


def test_a_checkpoint_of_pickles_is_rejected(published: dict[str, Path], tmp_path: Path) -> None:
    other = altered(published["clip"], tmp_path / "other")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"no safetensors weights, and pickled ones are never"):
        open_checkpoint(str(other))


def test_errors_of_a_wrong_path_and_an_unreachable_hub_name_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        open_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactError, match=r"Use effnet-lite0 or .* or effnet-lite4, or run"):
        checkpoint_folder("effnet-lite9")
    with pytest.raises(ArtifactError, match=r"hf download openai/clip-of-nobody` on a machine"):
        open_checkpoint("openai/clip-of-nobody")


def test_a_checkpoint_without_its_processor_or_tokenizer_is_rejected(
    published: dict[str, Path], tmp_path: Path
) -> None:
    other = altered(published["clip"], tmp_path / "other")
    (other / "preprocessor_config.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no preprocessor_config\.json"):
        open_checkpoint(str(other)).preprocessor(TEXTS)
    (other / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"has neither a tokenizer\.json.*--tokenizer"):
        open_checkpoint(str(other)).preprocessor(TEXTS)


def test_an_older_vocabulary_becomes_a_tokenizer(
    published: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(str(published["clip"]))
    other = altered(published["clip"], tmp_path / "other")
    older = read_tokenizer(other)
    older.model.save(str(other))  # vocab.json and merges.txt
    (other / "tokenizer.json").unlink()
    made = open_checkpoint(str(other)).preprocessor(TEXTS)
    assert made.absent_token == checkpoint.preprocessor(TEXTS).absent_token
    assert made.tokens(["x"])[1].sum() >= 3


def test_a_sentencepiece_tokenizer_is_rejected_with_how_to_convert_it(
    published: dict[str, Path], tmp_path: Path
) -> None:
    other = altered(published["siglip"], tmp_path / "other")
    (other / "tokenizer.json").unlink()
    (other / "spiece.model").write_bytes(b"pieces")
    message = r"only a SentencePiece tokenizer.*Convert it to tokenizer\.json.*--tokenizer"
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(str(other)).preprocessor(TEXTS)
    # From the hub, the model itself is not downloaded.
    (other / "spiece.model").unlink()
    (other / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(str(other)).preprocessor(TEXTS)
    named = open_checkpoint(str(other)).preprocessor(
        TEXTS, tokenizer=published["siglip"] / "tokenizer.json"
    )
    assert named.tokens(["x"])[1].sum() >= 2


def test_a_visual_bert_that_bypasses_its_layers_is_rejected(
    published: dict[str, Path], tmp_path: Path
) -> None:
    other = altered(published["visual_bert"], tmp_path / "other", bypass_transformer=True)
    with pytest.raises(ArtifactError, match="sets bypass_transformer"):
        open_checkpoint(str(other), vision=str(published["vision"]))


def test_a_checkpoint_of_one_tower_is_rejected(published: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "tower"
    altered(published["clip"], other)
    tower = CLIPModel.from_pretrained(published["clip"]).vision_model
    from safetensors.torch import save_file

    weights = {f"vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"checkpoint lacks \d+ of its model's weights"):
        build(other)


def test_more_text_than_the_model_supports_is_rejected(published: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(str(published["clip"]))
    with pytest.raises(
        ConfigError, match=r"supports at most 40 tokens, not 41\. Use --max-length 40"
    ):
        checkpoint.preprocessor(TEXTS, max_length=41)
    assert checkpoint.preprocessor(["word " * 99]).max_length == 40
