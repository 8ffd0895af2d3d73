"""Tiny random checkpoints of each family, written as their publishers write them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    ViltConfig,
    ViltModel,
    VisualBertConfig,
    VisualBertModel,
    ViTConfig,
    ViTModel,
)

from msd_deploy.data.batch import Batch
from msd_deploy.data.preprocess import Preprocessor, train_tokenizer

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
"""What a clone without git-lfs has in place of a file."""
TEXTS = ["look the guests came", "a red circle on the left", "two blue squares at night"]
SIDE = 32


def batch_of(preprocessor: Preprocessor, texts: list[str], *, seed: int = 0) -> Batch:
    height, width = preprocessor.image.size
    pixels = np.random.default_rng(seed).integers(0, 256, (len(texts), 3, height, width))
    ids, mask = preprocessor.tokens(texts)
    length = int(mask.sum(axis=1).max())
    rows = len(texts)
    return Batch(
        torch.from_numpy(pixels.astype(np.uint8)),
        torch.arange(rows),
        torch.ones(rows, dtype=torch.bool),
        torch.from_numpy(ids[:, :length].astype(np.int64)),
        torch.from_numpy(mask[:, :length].astype(np.int64)),
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows),
    )


def write_checkpoint(
    folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, pad_token: str, **processor: Any
) -> Path:
    """Write a folder as it lies on the hub."""
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad_token}))
    stated = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


def byte_pairs(texts: Sequence[str] = TEXTS, *, vocabulary_size: int = 280) -> Tokenizer:
    """CLIP's kind: byte pairs, <|startoftext|> text <|endoftext|>, padded with the latter."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[start, end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing((end, 1), (start, 0))
    return tokenizer


def write_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        "vocab_size": 300,
        "max_position_embeddings": 40,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = CLIPConfig(
        text_config=tower | text,
        vision_config=tower | {"image_size": SIDE, "patch_size": 8},
        projection_dim=24,
    )
    return write_checkpoint(
        folder, CLIPModel(config), byte_pairs(), "<|endoftext|>", do_center_crop=True
    )


def words() -> Tokenizer:
    """BERT's kind: word pieces, [CLS] text [SEP]."""
    return train_tokenizer(TEXTS, vocabulary_size=100)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def write_vilt(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ViltConfig(
        **SMALL, vocab_size=120, max_position_embeddings=40, image_size=SIDE, patch_size=8
    )
    return write_checkpoint(folder, ViltModel(config), words(), "[PAD]")


def unigrams() -> Tokenizer:
    """SigLIP's kind: unigrams, text </s>, padded with </s>; nothing marks a text's start."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def write_siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=SMALL | {"vocab_size": 80, "max_position_embeddings": 40},
        vision_config=SMALL | {"image_size": SIDE, "patch_size": 8},
    )
    return write_checkpoint(folder, SiglipModel(config), unigrams(), "</s>")


def write_visual_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    config = VisualBertConfig(
        **SMALL,
        vocab_size=120,
        max_position_embeddings=40,
        visual_embedding_dim=20,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return write_checkpoint(folder, VisualBertModel(config), words(), "[PAD]")


def write_vision(folder: Path) -> Path:
    """A backbone for VisualBERT, with no BatchNorm, whose statistics are a batch's."""
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SMALL, image_size=SIDE, patch_size=16))
    return write_checkpoint(folder, model, words(), "[PAD]")


def write_text(folder: Path, kind: str = "bert") -> Path:
    """A text encoder of BERT's type, with three layers."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0} if "roberta" in kind else {}
    config = AutoConfig.for_model(
        kind,
        **SMALL | {"num_hidden_layers": 3, "embedding_size": 16, "vocab_size": 120},
        max_position_embeddings=41 if "roberta" in kind else 40,
        type_vocab_size=1 if "roberta" in kind else 2,
        **special,
    )
    model = AutoModel.from_config(config)
    for parameter in model.parameters():  # norms and biases start as nothing: a test needs them
        torch.nn.init.normal_(parameter, std=0.3)
    return write_checkpoint(folder, model, words(), "[PAD]")


IMAGE_SETTINGS: dict[str, dict[str, Any]] = {
    "vit": {**SMALL, "image_size": SIDE, "patch_size": 16},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
    "convnext": {"hidden_sizes": [8, 8, 8, 12], "depths": [1, 1, 1, 1]},
    "mobilenet_v2": {"depth_multiplier": 0.1, "image_size": SIDE},
}
"""Settings of a tiny image classifier of each kind."""


def write_image_classifier(
    folder: Path,
    labels: Sequence[str],
    kind: str = "vit",
    *,
    settings: Mapping[str, Any] | None = None,
    **processor: Any,
) -> Path:
    """An image classifier whose logits differ between images."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels))}
    config = AutoConfig.for_model(kind, **IMAGE_SETTINGS[kind] | names | dict(settings or {}))
    return _write_classifier(
        folder,
        AutoModelForImageClassification.from_config(config),
        **{"size": {"height": SIDE, "width": SIDE}, **processor},
    )


def write_text_classifier(
    folder: Path, labels: Sequence[str], kind: str = "bert", *, problem_type: str | None = None
) -> Path:
    """A text classifier whose logits differ between texts."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **SMALL | {"vocab_size": 120, "max_position_embeddings": 40},
        id2label=dict(enumerate(labels)),
        problem_type=problem_type,
        **({"pad_token_id": 0} if "roberta" in kind else {}),
    )
    return _write_classifier(folder, AutoModelForSequenceClassification.from_config(config))


def _write_classifier(folder: Path, model: PreTrainedModel, **processor: Any) -> Path:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return write_checkpoint(folder, model, words(), "[PAD]", **processor)


WRITERS = {
    "text": write_text,
    "clip": write_clip,
    "siglip": write_siglip,
    "vilt": write_vilt,
    "visual_bert": write_visual_bert,
    "vision": write_vision,
}
