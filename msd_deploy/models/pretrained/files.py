"""Files of published checkpoints: configuration, weights, image processor and tokenizer.

Weights are safetensors; tokenizers are JSON or plain vocabularies. Pickled weights and code are
never loaded: `trust_remote_code` is off.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from msd_deploy.artifacts.manifest import Json, is_number, read_json, sha256_of_file, sha256_of_json
from msd_deploy.data.preprocess import (
    CLS,
    PAD,
    TOKENIZER_NAME,
    fitting_length,
    highest_id,
    read_tokenizer,
    special_tokens_as_text,
)
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.classifier import check_finite
from msd_deploy.models.loading import CONFIG_NAME, check_config, load_weights, reason_of
from msd_deploy.quiet import quiet_transformers

# Vocabulary of WordPiece and of byte-pair tokenizers without a tokenizer.json.
_VOCABULARIES = ("vocab.txt", "vocab.json")
# Tokenizer classes that are published as a SentencePiece model, which is not downloaded.
_SENTENCEPIECE_CLASSES = ("SiglipTokenizer",)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_NUMBER = re.compile(r"\.[0-9]+\.")
# Parts that checkpoints of other tasks lack; a teacher may initialize them randomly.
_OPTIONAL_PARTS = ("pooler.",)
_PROCESSOR = "preprocessor_config.json"
_SWITCHES = ("do_rescale", "do_normalize", "do_center_crop")
_PIXEL_SCALE = 1 / 255
_HALF = (0.5, 0.5, 0.5)
# Side of an image; the largest published vision encoders take 1,536.
_MOST_PIXELS = 4096
# Default limit of the text length; BERT and VisualBERT support 512.
_MAX_TOKENS = 128

Channels = tuple[float, float, float]


def check_safetensors(folder: Path, name: str) -> None:
    """Check that a checkpoint has safetensors weights.

    Raises:
        ArtifactError: Its weights are pickled or missing.
    """
    if not any((folder / file).is_file() for file in _WEIGHTS):
        raise ArtifactError(
            "has no safetensors weights, and pickled ones are never loaded: they can run code",
            where=name,
            fix="Use a revision that has model.safetensors; or, if you trust the checkpoint,"
            " load it with transformers and save it with save_pretrained",
        )


def read_checkpoint_config(folder: Path, name: str) -> PreTrainedConfig:
    """Read a checkpoint's configuration, including its family's defaults.

    Raises:
        ArtifactError: It is missing, malformed, or of an unknown family.
    """
    check_config(folder / CONFIG_NAME)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a class of transformers raises for an odd value
        raise ArtifactError(
            f"has no valid config.json ({reason_of(error)})",
            where=name,
            fix="Use another checkpoint, or download it again",
        ) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def load_pretrained(folder: Path) -> PreTrainedModel:
    """Load a model; see `load_with_missing`.

    Raises:
        ArtifactError: See there.
    """
    return load_with_missing(folder)[0]


def load_with_missing(
    folder: Path, kind: type[_BaseAutoModelClass] = AutoModel
) -> tuple[PreTrainedModel, list[str]]:
    """Load a folder's transformers model in float32, from safetensors only.

    Args:
        folder: The folder.
        kind: The auto class of its task.

    Returns:
        The model, and the names of optional weights that the checkpoint lacks.

    Raises:
        ArtifactError: It cannot be loaded, lacks other weights, has more layers than its
            configuration, or holds NaN.
    """
    model, report = load_weights(kind, folder)
    missing = sorted(report["missing_keys"])
    required = [key for key in missing if not key.startswith(_OPTIONAL_PARTS)]
    if required:
        raise ArtifactError(
            f"checkpoint lacks {len(required)} of its model's weights ({', '.join(required[:3])})",
            where=folder,
            fix="Use a checkpoint of the whole model, not of one tower or of another head",
        )
    weights = model.state_dict()
    _check_layers(model, report["unexpected_keys"], folder)
    file, shards = _weights_files(folder)
    for name, tensor in weights.items():
        check_finite({name: tensor}, folder / str(shards.get(name, file)))
    return model, missing


def _check_layers(model: PreTrainedModel, unused: Iterable[str], folder: Path) -> None:
    """Check that no unused weight belongs to the model.

    It does where it is of a further layer, of a module that has no such weight otherwise, or of a
    part of a tower; heads for other tasks are beside the towers.
    """
    modules = dict(model.named_modules())
    towers = {
        name for name, module in model.named_children() if isinstance(module, PreTrainedModel)
    }
    prefix = f"{model.base_model_prefix}."  # a model with a head has it in its own names too
    names = [name.removeprefix(prefix) if model.base_model is model else name for name in unused]
    further = sorted(
        name
        for name in names
        if (_NUMBER.search(name) and _NUMBER.split(name)[0] in modules)
        or (
            name.endswith((".weight", ".bias"))
            and (name.rpartition(".")[0] in modules or name.partition(".")[0] in towers)
        )
    )
    if further:
        raise ArtifactError(
            f"has fewer layers than the weights, {len(further)} of which would be unused"
            f" ({', '.join(further[:3])})",
            where=folder / CONFIG_NAME,
            fix="Restore the number of layers in it, or download the checkpoint again",
        )


def _weights_files(folder: Path) -> tuple[str, Mapping[str, object]]:
    """Return the file of a checkpoint's weights, or its index and the file of each tensor."""
    single, index = _WEIGHTS
    if (folder / single).is_file():
        return single, {}
    shards = read_json(folder / index).get("weight_map")
    return index, shards if isinstance(shards, dict) else {}


def load_vision_model(folder: Path) -> PreTrainedModel:
    """Load the vision model of a folder; see `load_pretrained`.

    Raises:
        ArtifactError: See there; or it is not a vision model.
    """
    model = load_pretrained(folder)
    if model.main_input_name != "pixel_values":
        raise ArtifactError(
            f"is not a vision model ({model.config.model_type})",
            where=folder,
            fix="Use one whose input is pixels, for example ResNet, ConvNeXt or ViT",
        )
    return model


def plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return a model's configuration without its origin, such as its path and precision."""
    config = model.config.to_dict()
    dropped = ("dtype", "torch_dtype", "architectures", "transformers_version")
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in dropped}


def read_processor(folder: Path) -> Json:
    """Read the configuration of a checkpoint's image processor.

    Raises:
        ArtifactError: The folder has none, so that pixels would be normalised incorrectly; or a
            value of it is not what it stands for.
    """
    path = folder / _PROCESSOR
    try:
        if path.is_file():
            read_json(path)  # which is stricter
        config, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"has no {_PROCESSOR}, so its pixels' mean and deviation are unknown",
            where=folder,
            fix="Copy the file from the checkpoint that it was derived from",
        ) from error
    processor = dict(config)
    are_valid = {
        **{key: isinstance(processor.get(key, True), bool) for key in _SWITCHES},
        "rescale_factor": _is_scale(processor.get("rescale_factor", _PIXEL_SCALE)),
        "image_mean": _are_channels(processor.get("image_mean"), _is_shift),
        "image_std": _are_channels(processor.get("image_std"), _is_scale),
    }
    for key, is_valid in are_valid.items():
        if not is_valid:
            raise _invalid(key, processor[key], path)
    return processor


def _is_scale(value: object) -> bool:
    """Return whether pixels that are divided by a value stay finite in float32."""
    return is_number(value) and 1e-6 <= value <= 1e6


def _is_shift(value: object) -> bool:
    return is_number(value) and abs(value) <= 1e6


def _are_channels(values: object, is_valid: Callable[[object], bool]) -> bool:
    """Return whether a value is a number for each of red, green and blue; None: the default."""
    if isinstance(values, (list, tuple)):
        return len(values) == len(_HALF) and all(map(is_valid, values))
    return values is None


def _invalid(key: str, value: object, path: Path) -> ArtifactError:
    return ArtifactError(
        f"has no valid {key} ({value!r})",
        where=path,
        fix="Copy the file from the checkpoint that it was derived from",
    )


def image_size_of(config: PreTrainedConfig, processor: Json, folder: Path) -> tuple[int, int]:
    """Return height and width of the model, or of its processor if the model takes any size.

    Raises:
        ArtifactError: Neither defines it.
    """
    size: Any = getattr(getattr(config, "vision_config", config), "image_size", None)
    path = folder / CONFIG_NAME
    if size is None:
        path = folder / _PROCESSOR
        size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
        if isinstance(size, dict):
            square = size.get("height", size.get("shortest_edge"))
            size = [square, size.get("width", square)]
    sides = size if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MOST_PIXELS for side in sides):
        raise _invalid("image size", size, path)
    height, width = sides
    return height, width


def normalisation(processor: Json) -> tuple[Channels, Channels]:
    """Return mean and standard deviation per RGB channel, in units of 0..255."""
    factor = cast(float, processor.get("rescale_factor", _PIXEL_SCALE))
    scale = 1 / factor if processor.get("do_rescale", True) else 1.0
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (scale, scale, scale)
    return _channels(processor.get("image_mean"), scale), _channels(
        processor.get("image_std"), scale
    )


def _channels(values: object, scale: float) -> Channels:
    red, green, blue = (value * scale for value in cast(Channels, values or _HALF))
    return red, green, blue


def published_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json or a folder with one, or convert older files with transformers.

    Raises:
        ArtifactError: There is neither.
    """
    if path.is_file() or (path / TOKENIZER_NAME).is_file():
        return special_tokens_as_text(read_tokenizer(path))
    missing = _missing_tokenizer(path)
    # Without a vocabulary transformers would silently build an empty tokenizer.
    if not any((path / name).is_file() for name in _VOCABULARIES):
        raise missing
    try:
        with quiet_transformers():
            converted = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        return special_tokens_as_text(Tokenizer.from_str(converted.backend_tokenizer.to_str()))
    # The type depends on what is missing: a file, a package or an attribute.
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise missing from error


def _missing_tokenizer(path: Path) -> ArtifactError:
    """Return the error of a folder without a readable tokenizer."""
    kind = _tokenizer_setting(path, "tokenizer_class")
    if any(path.glob("*.model")) or kind in _SENTENCEPIECE_CLASSES:
        return ArtifactError(
            f"has only a SentencePiece tokenizer, without a {TOKENIZER_NAME}",
            where=path,
            fix=f"Convert it to {TOKENIZER_NAME} once (docs/teachers.md, SentencePiece), and"
            " pass it with --tokenizer",
        )
    return ArtifactError(
        f"has neither a {TOKENIZER_NAME} nor a vocabulary to build one from",
        where=path,
        fix=f"Pass a {TOKENIZER_NAME} with --tokenizer",
    )


def special_tokens(tokenizer: Tokenizer, path: Path) -> tuple[str, str]:
    """Return the padding token, and the token of an absent text: the first one added to any text.

    Raises:
        ConfigError: The tokenizer adds no special token to a text.
    """
    added = tokenizer.encode("").ids
    if not added:
        raise ConfigError(
            "tokenizer adds no token at the start or end of a text",
            where=path,
            fix="Use the tokenizer.json that the checkpoint was published with",
        )
    absent = tokenizer.id_to_token(added[0])
    configured, last = _tokenizer_setting(path, "pad_token"), tokenizer.id_to_token(added[-1])
    for token in (configured, PAD, "<pad>", last):
        if token is not None and tokenizer.token_to_id(token) is not None:
            return token, absent or CLS
    raise AssertionError  # the last one is in the vocabulary


def _tokenizer_setting(folder: Path, key: str) -> str | None:
    """Return a token, or another text, of tokenizer_config.json if it has the key."""
    path = (folder if folder.is_dir() else folder.parent) / "tokenizer_config.json"
    if not path.is_file():
        return None
    token = read_json(path).get(key)
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def digest_of_checkpoints(*folders: Path) -> str:
    """Compute the SHA-256 of the configuration and weights of checkpoints."""
    return sha256_of_json(
        [
            {file.name: sha256_of_file(file) for file in sorted(folder.glob(pattern))}
            for folder in folders
            for pattern in ("config.json", "preprocessor_config.json", "*.safetensors")
        ]
    )


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int, path: Path) -> None:
    """Check that a model has an embedding of every token.

    Raises:
        ConfigError: Tokens without an embedding.
    """
    count = highest_id(tokenizer) + 1
    if count > vocab_size:
        raise ConfigError(
            f"tokenizer has {count} tokens, the checkpoint {vocab_size}",
            where=path,
            fix="Use the tokenizer that it was trained with",
        )


def text_length(
    tokenizer: Tokenizer, texts: Iterable[str], *, requested: int | None, limit: int
) -> int:
    """Return the text length in tokens: as requested, or that of the longest text.

    Args:
        tokenizer: See `fitting_length`.
        texts: The training texts.
        requested: Length requested by the user.
        limit: Maximum of the model.

    Raises:
        ConfigError: The requested length is above the model's limit.
    """
    if requested is not None and requested > limit:
        raise ConfigError(
            f"the checkpoint supports at most {limit} tokens, not {requested}",
            where="data.max_length",
            fix=f"Use --max-length {limit} or less",
        )
    return requested or fitting_length(tokenizer, texts, most=min(limit, _MAX_TOKENS))
