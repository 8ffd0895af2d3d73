"""Files of checkpoints that others published: configuration, weights, processor, tokenizer.

Weights are safetensors and tokenizers JSON or plain vocabularies. Pickled weights and code beside
them are never looked at: `trust_remote_code` is off.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from msd_deploy.artifacts.manifest import Json, read_json, sha256_of_file, sha256_of_json
from msd_deploy.data.preprocess import CLS, PAD, TOKENIZER_NAME, fitting_length, read_tokenizer
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.folders import quiet_transformers

# Of tokenizers without a tokenizer.json: WordPiece, byte pairs.
_VOCABULARIES = ("vocab.txt", "vocab.json")
# Classes of tokenizers that are published as a SentencePiece model, which is not even downloaded.
_SENTENCEPIECE_CLASSES = ("SiglipTokenizer",)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Heads that a checkpoint of another task lacks and that a teacher may start anew.
_FRESH_PARTS = ("pooler.",)
_PIXEL_SCALE = 1 / 255
# Of a text whose length the user leaves open; BERT and VisualBERT could take 512.
_MOST_TOKENS = 128

Channels = tuple[float, float, float]


def check_safetensors(folder: Path, stated: str) -> None:
    """Refuse a checkpoint whose weights are pickled or missing.

    Raises:
        ArtifactError: It has no safetensors.
    """
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ArtifactError(
            "has no safetensors weights, and pickled ones are never read: they can run code",
            where=stated,
            fix="Take a revision that has model.safetensors, or convert it where you trust it:"
            " load it with transformers there and save_pretrained it",
        )


def read_checkpoint_config(folder: Path, stated: str) -> PreTrainedConfig:
    """Read a checkpoint's configuration, its family's defaults filled in.

    Raises:
        ArtifactError: It is missing, malformed, or of an unknown family.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"has no usable config.json ({reason})", where=stated) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def load_pretrained(folder: Path) -> PreTrainedModel:
    """Load a model without saying what of it is fresh; see `load_with_missing`.

    Raises:
        ArtifactError: As there.
    """
    return load_with_missing(folder)[0]


def load_with_missing(folder: Path) -> tuple[PreTrainedModel, list[str]]:
    """Load the family's own model of a folder in float32, from safetensors alone.

    Returns:
        The model; the names of its weights that the checkpoint lacks and that start from nothing.

    Raises:
        ArtifactError: It cannot be loaded, or lacks weights.
    """
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"checkpoint cannot be loaded ({reason})", where=folder) from error
    fresh = sorted(report["missing_keys"])
    missing = [key for key in fresh if not key.startswith(_FRESH_PARTS)]
    if missing:
        raise ArtifactError(
            f"checkpoint lacks {len(missing)} of its model's weights ({', '.join(missing[:3])})",
            where=folder,
            fix="Use a checkpoint of the whole model, not of one tower or of another head",
        )
    assert isinstance(model, PreTrainedModel)
    return model, fresh


def load_vision_model(folder: Path) -> PreTrainedModel:
    """Load the vision model of a folder; see `load_pretrained`.

    Raises:
        ArtifactError: As there, or it is no vision model.
    """
    model = load_pretrained(folder)
    if model.main_input_name != "pixel_values":
        raise ArtifactError(
            f"is no vision model ({model.config.model_type})",
            where=folder,
            fix="Name one that takes pixels, for example ResNet, ConvNeXt or ViT",
        )
    return model


def plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return a model's configuration without where it came from: its folder, its precision."""
    stated = model.config.to_dict()
    dropped = ("dtype", "torch_dtype", "architectures", "transformers_version")
    return {k: v for k, v in stated.items() if not k.startswith("_") and k not in dropped}


def read_processor(folder: Path) -> Json:
    """Return what a checkpoint's image processor states.

    Raises:
        ArtifactError: The folder has none: pixels would be normalised wrongly, in silence.
    """
    try:
        stated, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            "has no preprocessor_config.json, so its pixels' mean and deviation are unknown",
            where=folder,
            fix="Copy that of the checkpoint that it was made from",
        ) from error
    return dict(stated)


def image_size_of(config: PreTrainedConfig, processor: Json, folder: Path) -> tuple[int, int]:
    """Return height and width: the model's, or its processor's where any size will do.

    Raises:
        ArtifactError: Neither states it.
    """
    stated = getattr(getattr(config, "vision_config", config), "image_size", None)
    if stated is None:
        key = "crop_size" if processor.get("do_center_crop") else "size"
        stated = _side(processor.get(key), folder)
    height, width = (stated, stated) if isinstance(stated, int) else stated
    return height, width


def _side(stated: object, folder: Path) -> int:
    """Return the side in pixels that a processor states, in one of its ways."""
    if isinstance(stated, dict):
        stated = next((stated[key] for key in ("height", "shortest_edge") if key in stated), None)
    if not isinstance(stated, int) or stated < 1:
        raise ArtifactError("states no picture size in preprocessor_config.json", where=folder)
    return stated


def normalisation(processor: Json) -> tuple[Channels, Channels]:
    """Return mean and standard deviation per RGB channel, in units of 0..255."""
    factor = processor.get("rescale_factor", _PIXEL_SCALE)
    scale = 1 / float(str(factor)) if processor.get("do_rescale", True) else 1.0
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (scale, scale, scale)
    return _channels(processor.get("image_mean"), scale), _channels(
        processor.get("image_std"), scale
    )


def _channels(stated: object, scale: float) -> Channels:
    values = stated if isinstance(stated, (list, tuple)) and len(stated) == 3 else [0.5] * 3
    red, green, blue = (float(value) * scale for value in values)
    return red, green, blue


def published_tokenizer(place: Path) -> Tokenizer:
    """Read the tokenizer.json of a place, or have transformers make one of older files.

    Raises:
        ArtifactError: There is neither.
    """
    if place.is_file() or (place / TOKENIZER_NAME).is_file():
        return read_tokenizer(place)
    missing = _no_tokenizer(place)
    # Without a vocabulary transformers would make an empty tokenizer, and say nothing.
    if not any((place / name).is_file() for name in _VOCABULARIES):
        raise missing
    try:
        with quiet_transformers():
            made = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        return Tokenizer.from_str(made.backend_tokenizer.to_str())
    # What is missing decides who complains: a file, a package, an attribute.
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise missing from error


def _no_tokenizer(place: Path) -> ArtifactError:
    """Return what to say of a folder without a tokenizer that can be read."""
    if any(place.glob("*.model")) or _stated(place, "tokenizer_class") in _SENTENCEPIECE_CLASSES:
        return ArtifactError(
            f"has its tokenizer as a SentencePiece model alone, without a {TOKENIZER_NAME}",
            where=place,
            fix=f"Make a {TOKENIZER_NAME} of it once (docs/teachers.md, SentencePiece), and name it"
            " with --tokenizer",
        )
    return ArtifactError(
        f"has no {TOKENIZER_NAME}, nor a vocabulary that one can be made of",
        where=place,
        fix=f"Name a {TOKENIZER_NAME} with --tokenizer",
    )


def special_tokens(tokenizer: Tokenizer, place: Path) -> tuple[str, str]:
    """Return the tokens of padding and of an absent text: the first that every text gets.

    Raises:
        ConfigError: It adds no special token to a text.
    """
    added = tokenizer.encode("").ids
    if not added:
        raise ConfigError(
            "tokenizer adds no token that marks a text's start or end",
            where=place,
            fix="Use the tokenizer.json that the checkpoint was published with",
        )
    absent = tokenizer.id_to_token(added[0])
    for token in (_stated(place, "pad_token"), PAD, "<pad>", tokenizer.id_to_token(added[-1])):
        if token is not None and tokenizer.token_to_id(token) is not None:
            return token, absent or CLS
    raise AssertionError  # the last one is the tokenizer's own


def _stated(place: Path, key: str) -> str | None:
    """Return the token, or another text, that tokenizer_config.json states, if it does."""
    path = (place if place.is_dir() else place.parent) / "tokenizer_config.json"
    if not path.is_file():
        return None
    token = read_json(path).get(key)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def digest_of_checkpoints(*folders: Path) -> str:
    """Return the SHA-256 of the configuration and weights of checkpoints."""
    return sha256_of_json(
        [
            {file.name: sha256_of_file(file) for file in sorted(folder.glob(pattern))}
            for folder in folders
            for pattern in ("config.json", "preprocessor_config.json", "*.safetensors")
        ]
    )


def check_tokenizer(tokenizer: Tokenizer, words: int, place: Path) -> None:
    """Check that a model has an embedding of every token.

    Raises:
        ConfigError: It has not.
    """
    if tokenizer.get_vocab_size() > words:
        raise ConfigError(
            f"tokenizer has {tokenizer.get_vocab_size()} tokens, the checkpoint knows {words}",
            where=place,
            fix="Use the tokenizer that it was trained with",
        )


def text_length(
    tokenizer: Tokenizer, texts: Iterable[str], *, stated: int | None, longest: int
) -> int:
    """Return the tokens of a text: as stated, or as many as the longest of some texts has.

    Args:
        tokenizer: See `fitting_length`.
        texts: The training texts.
        stated: What a user asks for.
        longest: Most that the model reads.

    Raises:
        ConfigError: The model cannot read texts of so many tokens.
    """
    if stated is not None and stated > longest:
        raise ConfigError(
            f"the checkpoint reads at most {longest} tokens, not {stated}",
            where="data.max_length",
        )
    return stated or fitting_length(tokenizer, texts, most=min(longest, _MOST_TOKENS))
