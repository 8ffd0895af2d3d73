"""Pretrained text encoders of BERT's architecture, for the stream of a fusion model.

BERT, ELECTRA and RoBERTa share one architecture (Devlin et al. 2019): word, position and type
embeddings, a norm, and post-norm layers. VisualBERT (Li et al. 2019) is initialized from BERT in
the same way, with image tokens in the sequence of words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.data.preprocess import highest_id
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.pretrained.files import (
    check_safetensors,
    check_tokenizer,
    digest_of_checkpoints,
    load_pretrained,
    published_tokenizer,
    special_tokens,
)
from msd_deploy.models.pretrained.location import INSTALL, TEXT, checkpoint_folder, installed_path

TEXT_KINDS = {"bert": "BERT", "electra": "ELECTRA", "roberta": "RoBERTa", "xlm-roberta": "XLM-R"}
"""Name of each kind, by the model_type of its checkpoints."""
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta")

# Parameters of a FusionLayer, and their names in a layer of BERT.
_LAYER_NAMES = {
    "attention.query": "attention.self.query",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.0": "intermediate.dense",
    "feed_forward.2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


@dataclass(frozen=True, slots=True)
class PretrainedText:
    """A pretrained text encoder.

    Attributes:
        tokenizer: Its tokenizer.
        pad_token: The padding token.
        absent_token: The only token of an absent text.
        words: Word embeddings, float32 [vocabulary, width].
        positions: Position embeddings, float32 [maximum length, width].
        types: Token type embeddings, float32 [1 or 2, width].
        norm: Weight and bias of the embeddings' norm.
        layers: Weights of each layer, by the names of a `FusionLayer`.
        heads: Number of attention heads per layer.
        intermediate_size: Width of the feed-forward layers.
        layer_norm_eps: Epsilon of every LayerNorm.
        digest: SHA-256 of the checkpoint.
    """

    tokenizer: Tokenizer
    pad_token: str
    absent_token: str
    words: Tensor
    positions: Tensor
    types: Tensor
    norm: tuple[Tensor, Tensor]
    layers: tuple[Mapping[str, Tensor], ...]
    heads: int
    intermediate_size: int
    layer_norm_eps: float
    digest: str

    @property
    def width(self) -> int:
        """Width of its embeddings and layers."""
        return self.words.shape[1]

    def embeddings_of(self, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
        """Return embeddings for the tokens of another tokenizer, matched by their text.

        Returns:
            float32 [ids, width], 0 for unknown tokens; and bool [ids], which are known.
        """
        words = torch.zeros(highest_id(tokenizer) + 1, self.width)
        known = torch.zeros(len(words), dtype=torch.bool)
        for token, number in tokenizer.get_vocab().items():
            old = self.tokenizer.token_to_id(token)
            if old is not None:
                words[number], known[number] = self.words[old], True
        return words, known

    def select_layers(self, count: int) -> tuple[Mapping[str, Tensor], ...]:
        """Select evenly spaced layers, including the last, for example every second one.

        Raises:
            ConfigError: The encoder has fewer.
        """
        if count > len(self.layers):
            raise ConfigError(
                f"the text checkpoint has {len(self.layers)} layers, not {count}",
                fix=f"Use --text-layers {len(self.layers)} or fewer",
            )
        step = len(self.layers) / max(1, count)
        return tuple(self.layers[round(step * (index + 1)) - 1] for index in range(count))


def open_text(name: str) -> PretrainedText:
    """Load a pretrained text encoder.

    Args:
        name: minilm-l6 (of an installed package), a transformers folder, or a name on the hub.

    Raises:
        ConfigError: The package is not installed.
        ArtifactError: It cannot be loaded, or its architecture is not BERT's.
    """
    folder, model = load_text_model(name)
    _check_architecture(model, name)
    tokenizer, tokens = tokenizer_of(model, folder)
    return _pretrained_text(model, tokenizer, tokens, digest_of_checkpoints(folder))


def load_text_model(name: str) -> tuple[Path, PreTrainedModel]:
    """Load the model of a pretrained text encoder; see `open_text`.

    Returns:
        Its folder and the model.

    Raises:
        ConfigError: See `open_text`.
        ArtifactError: See `open_text`.
    """
    folder = installed_path(TEXT[name]) if name in TEXT else checkpoint_folder(name)
    if folder is None:
        raise ConfigError("the package is not installed", where=name, fix=f"Run `{INSTALL}`")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in list(TEXT_KINDS):
        raise ArtifactError(
            f"is a checkpoint of an unknown kind ({kind!r})",
            where=name,
            fix=f"Use one of {', '.join(TEXT_KINDS.values())}",
        )
    check_safetensors(folder, name)
    return folder, load_pretrained(folder)


def tokenizer_of(model: PreTrainedModel, folder: Path) -> tuple[Tokenizer, tuple[str, str]]:
    """Return a model's tokenizer, its padding token and the token of an absent text.

    Raises:
        ArtifactError: There is none, or the model counts positions from another padding token.
        ConfigError: It has tokens without an embedding.
    """
    tokenizer = published_tokenizer(folder)
    pad_token, absent_token = special_tokens(tokenizer, folder)
    config = model.config
    check_tokenizer(tokenizer, int(config.vocab_size), folder)
    padding = tokenizer.token_to_id(pad_token)
    if config.model_type in _POSITIONS_AFTER_PADDING and config.pad_token_id != padding:
        raise ArtifactError(
            f"pad_token_id is {config.pad_token_id}, but the tokenizer's {pad_token} is"
            f" {padding}: positions are counted from it",
            where=folder / "config.json",
            fix="Use the configuration and tokenizer that the checkpoint was published with",
        )
    return tokenizer, (pad_token, absent_token)


def positions_of(model: PreTrainedModel) -> int:
    """Return how many tokens a text model has positions for."""
    config = model.config
    is_after = config.model_type in _POSITIONS_AFTER_PADDING
    return int(config.max_position_embeddings) - (int(config.pad_token_id) + 1 if is_after else 0)


def _check_architecture(model: PreTrainedModel, name: str) -> None:
    """Check that a FusionLayer can compute the model's layers."""
    config = model.config
    embedding_width = getattr(config, "embedding_size", config.hidden_size)
    differences = {
        f"activation {config.hidden_act!r}": config.hidden_act != "gelu",
        "embeddings narrower than its layers": embedding_width != config.hidden_size,
        "relative positions": getattr(config, "position_embedding_type", None)
        not in (None, "absolute"),
        "causal attention of a decoder": bool(getattr(config, "is_decoder", False)),
    }
    present = [name for name, is_present in differences.items() if is_present]
    if present:
        raise ArtifactError(
            f"differs from BERT's architecture ({', '.join(present)})",
            where=name,
            fix="Use another checkpoint, for example BERT, TinyBERT or MiniLM",
        )


def _pretrained_text(
    model: PreTrainedModel, tokenizer: Tokenizer, tokens: tuple[str, str], digest: str
) -> PretrainedText:
    config, state = model.config, model.state_dict()
    positions = state["embeddings.position_embeddings.weight"]
    if config.model_type in _POSITIONS_AFTER_PADDING:
        # Their positions start after the id of the padding token.
        positions = positions[int(config.pad_token_id) + 1 :]
    return PretrainedText(
        tokenizer=tokenizer,
        pad_token=tokens[0],
        absent_token=tokens[1],
        words=state["embeddings.word_embeddings.weight"],
        positions=positions,
        types=state["embeddings.token_type_embeddings.weight"],
        norm=(state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"]),
        layers=tuple(
            _layer(state, f"encoder.layer.{index}.") for index in range(config.num_hidden_layers)
        ),
        heads=int(config.num_attention_heads),
        intermediate_size=int(config.intermediate_size),
        layer_norm_eps=float(config.layer_norm_eps),
        digest=digest,
    )


def _layer(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        for ours, theirs in _LAYER_NAMES.items():
            weights[f"{ours}.{part}"] = state[f"{prefix}{theirs}.{part}"]
        halves = [state[f"{prefix}attention.self.{name}.{part}"] for name in ("key", "value")]
        weights[f"attention.key_value.{part}"] = torch.cat(halves)
    return weights
