"""FusionForClassification with pretrained text and vision encoders.

With layers of the text checkpoint, the stream has its width and norms, and before any training its
features of a text alone are the checkpoint's [CLS]. With its word embeddings only, the stream keeps
its own width: the embeddings are projected onto their principal axes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from msd_deploy.artifacts.manifest import sha256_of_json
from msd_deploy.data.preprocess import (
    Preprocessor,
    build_preprocessor,
    check_ids,
    highest_id,
    read_tokenizer,
    special_tokens_as_text,
)
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained.files import text_length
from msd_deploy.models.pretrained.text import PretrainedText, open_text
from msd_deploy.models.pretrained.vision import PretrainedVision, open_vision
from msd_deploy.problem import Problem

_INITIALIZER_RANGE = 0.02


@dataclass(frozen=True, slots=True)
class PretrainedFusion:
    """Pretrained parts of a fusion teacher.

    Attributes:
        vision: The vision encoder.
        text: The text encoder.
        layers: Number of the text encoder's layers that are used.
        is_cut: Whether its vocabulary is cut to the task's.
    """

    vision: PretrainedVision
    text: PretrainedText
    layers: int
    is_cut: bool = False

    @property
    def family(self) -> str:
        """Name of the family."""
        return "fusion"

    @property
    def has_vision_encoder(self) -> bool:
        """Always true."""
        return True

    def digest(self) -> str:
        """Compute the SHA-256 of both checkpoints."""
        return sha256_of_json([self.vision.digest, self.text.digest])

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Build its preprocessor.

        Args:
            texts: The training texts.
            tokenizer: A tokenizer.json instead of the checkpoint's own; tokens are matched by text.
            max_length: Maximum number of text tokens; None for that of the longest text, within the
                model's limit.
            image_size: Side in pixels; None for that of the pretrained vision encoder.

        Raises:
            ConfigError: max_length is above the limit, the vocabulary cannot be cut, or the ids of
                the given tokenizer have gaps.
        """
        texts = list(texts)
        size = self.vision.image_size if image_size is None else (image_size, image_size)
        spec = ImageSpec(size, "crop" if self.vision.is_cut else "fit")
        if tokenizer is not None:
            tokens = (self.text.pad_token, self.text.absent_token)
            given = read_tokenizer(tokenizer, tokens)
            check_ids(given, tokenizer)
            loaded = special_tokens_as_text(given)
        elif self.is_cut:
            loaded = cut_vocabulary(self.text.tokenizer, texts).tokenizer
        else:
            loaded = Tokenizer.from_str(self.text.tokenizer.to_str())
        limit = len(self.text.positions)
        return build_preprocessor(
            loaded,
            spec,
            max_length=text_length(loaded, texts, requested=max_length, limit=limit),
            pad_token=self.text.pad_token,
            absent_token=self.text.absent_token,
        )

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float,
    ) -> FusionForClassification:
        """Build a model with both checkpoints' weights and a new head for a task."""
        model = FusionForClassification(
            FusionConfig(
                vision=dict(self.vision.config),
                image_mean=self.vision.image_mean,
                image_std=self.vision.image_std,
                dropout=dropout,
                **input_config(preprocessor),
                **stream_config(self.text, self.layers),
                **task_config(labels, problem),
            )
        )
        self.vision.load_into(model.vision)
        load_text_layers(model, self.text, preprocessor.tokenizer)
        model.mark_pretrained(model.vision)
        return model


def open_fusion(
    *, vision: str, text: str, layers: int | None = None, is_cut: bool = False
) -> PretrainedFusion:
    """Open both checkpoints of a fusion teacher.

    Args:
        vision: See `open_vision`.
        text: See `open_text`.
        layers: Number of the text encoder's layers to use; None for all.
        is_cut: Whether its vocabulary is cut to the task's.

    Raises:
        ConfigError: The text encoder has fewer layers, or a package is missing.
        ArtifactError: A checkpoint cannot be loaded.
    """
    encoder = open_text(text)
    count = len(encoder.layers) if layers is None else layers
    encoder.select_layers(count)
    return PretrainedFusion(open_vision(vision), encoder, count, is_cut)


def input_config(preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the entries of a FusionConfig that describe its inputs."""
    return {
        "image_size": preprocessor.image.size,
        "vocab_size": highest_id(preprocessor.tokenizer) + 1,
        "max_text_length": preprocessor.max_length,
    }


def stream_config(text: PretrainedText, layers: int) -> dict[str, Any]:
    """Return the entries of a FusionConfig for a stream of a text checkpoint's layers."""
    return {
        "hidden_size": text.width,
        "num_hidden_layers": layers,
        "num_attention_heads": text.heads,
        "intermediate_size": text.intermediate_size,
        "initializer_range": _INITIALIZER_RANGE,
        "norm_first": False,
        "layer_norm_eps": text.layer_norm_eps,
    }


@torch.no_grad()
def load_text_layers(
    model: FusionForClassification, text: PretrainedText, tokenizer: Tokenizer
) -> None:
    """Load a text checkpoint's embeddings and layers into a stream of `stream_config`.

    Tokens unknown to the checkpoint keep their random embedding. The type embedding of image tokens
    is that of a second sentence, as in VisualBERT.
    """
    words, known = text.embeddings_of(tokenizer)
    model.word_embeddings.weight[known] = words[known]
    model.text_positions.weight.copy_(text.positions[: model.config.max_text_length])
    model.token_types.weight.copy_(text.types[[0, len(text.types) - 1]])
    for ours, theirs in zip((model.norm.weight, model.norm.bias), text.norm, strict=True):
        ours.copy_(theirs)
    layers = text.select_layers(len(model.layers))
    for layer, weights in zip(model.layers, layers, strict=True):
        layer.load_state_dict(dict(weights))
    model.mark_pretrained(*model.text_modules)


@torch.no_grad()
def load_word_embeddings(
    model: FusionForClassification, text: PretrainedText, tokenizer: Tokenizer
) -> None:
    """Load a text checkpoint's word embeddings into a stream of another width.

    They are centred, projected onto their first principal axes (singular value decomposition), and
    scaled to the standard deviation of random embeddings. Neighbours stay neighbours.
    """
    words, known = text.embeddings_of(tokenizer)
    weight: Tensor = model.word_embeddings.weight
    centred = words[known] - words[known].mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[: weight.shape[1]]
    projected = nn.functional.pad(centred @ axes.T, (0, weight.shape[1] - len(axes)))
    weight[known] = projected * (model.config.initializer_range / projected.std())
    model.mark_pretrained(model.word_embeddings)
