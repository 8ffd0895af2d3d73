"""Checkpoints that others published: read, checked, and made into a teacher with a fresh head.

A checkpoint is a transformers folder: config.json, safetensors, preprocessor_config.json and a
tokenizer. Pickled weights and code beside them are never looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from msd_deploy.artifacts import Json, read_json
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.preprocess import (
    CLS,
    PAD,
    TOKENIZER_NAME,
    Preprocessor,
    build_preprocessor,
    fitting_length,
    read_tokenizer,
)
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.family_config import FAMILIES, FamilyConfig
from msd_deploy.models.folders import quiet_transformers
from msd_deploy.models.hub import checkpoint_folder
from msd_deploy.problem import Problem, transformers_problem

_WITHOUT_EYES = "visual_bert"
_OUR_TYPES = ("msd_fusion", "msd_family")
# Of tokenizers without a tokenizer.json: WordPiece, byte pairs.
_VOCABULARIES = ("vocab.txt", "vocab.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Heads that a checkpoint of another task lacks and that a teacher may start anew.
_FRESH_PARTS = ("pooler.",)
# Of a text whose length the user leaves open; VisualBERT could take 512.
_MOST_TOKENS = 128
_PIXEL_SCALE = 1 / 255

_Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint of a known family.

    Attributes:
        folder: Where it lies.
        family: A key of FAMILIES.
        config: Its configuration, the family's defaults filled in.
        vision: Where the backbone lies whose grid features VisualBERT is shown; else None.
    """

    folder: Path
    family: str
    config: PreTrainedConfig
    vision: Path | None = None

    @property
    def eyes(self) -> Path:
        """The folder of what sees, with its preprocessor_config.json."""
        return self.vision or self.folder


def open_checkpoint(stated: str, *, vision: str | None = None) -> Checkpoint:
    """Find a checkpoint and check that a teacher can start from it.

    Args:
        stated: A folder, or a name on the hub.
        vision: The same of a vision backbone, which VisualBERT needs and no other family takes.

    Raises:
        ArtifactError: It is not there, is of an unknown family, or has no safetensors weights.
        ConfigError: A vision backbone is missing, or there is one too many.
    """
    folder = checkpoint_folder(stated)
    kind = read_json(folder / "config.json").get("model_type")
    if kind in _OUR_TYPES:
        raise ArtifactError(
            "is a model of msd, not a checkpoint to start from",
            where=stated,
            fix="A teacher is used as it is with `msd distill --teacher`",
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ArtifactError(
            f"is a checkpoint of an unknown family ({kind!r})",
            where=stated,
            fix=f"Use one of {', '.join(FAMILIES.values())}",
        )
    check_safetensors(folder, stated)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"has no usable config.json ({error})", where=stated) from error
    return Checkpoint(folder, kind, config, _open_vision(kind, vision))


def _open_vision(kind: str, stated: str | None) -> Path | None:
    """Find the vision backbone that a family needs."""
    if (kind == _WITHOUT_EYES) == (stated is not None):
        folder = None if stated is None else checkpoint_folder(stated)
        if folder is not None:
            check_safetensors(folder, str(stated))
        return folder
    if stated is None:
        raise ConfigError(
            f"{FAMILIES[kind]} has no vision encoder of its own",
            where="finetune.vision",
            fix="Name one, for example --vision microsoft/resnet-50",
        )
    raise ConfigError(
        f"{FAMILIES[kind]} has a vision encoder of its own",
        where="finetune.vision",
        fix="Leave --vision out",
    )


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


def checkpoint_preprocessor(
    checkpoint: Checkpoint,
    texts: Iterable[str],
    *,
    tokenizer: Path | None = None,
    max_length: int | None = None,
) -> Preprocessor:
    """Return what makes a checkpoint's inputs: its picture size and its tokenizer.

    Where its own processor squeezes a picture, ours fits it whole; where that cuts the middle out,
    so does ours. Interpolation is always ours (docs/preprocessing.md).

    Args:
        checkpoint: The checkpoint.
        texts: The training texts.
        tokenizer: A tokenizer.json, or a folder with one, instead of the checkpoint's own.
        max_length: Tokens of text; None: as many as the longest text has and the model can read.

    Raises:
        ArtifactError: A file is missing or malformed.
        ConfigError: The tokenizer does not suit the model, or max_length is beyond it.
    """
    found = _read_tokenizer(tokenizer or checkpoint.folder)
    pad_token, absent_token = _special_tokens(found, tokenizer or checkpoint.folder)
    words, longest = _text_limits(checkpoint)
    if found.get_vocab_size() > words:
        raise ConfigError(
            f"tokenizer has {found.get_vocab_size()} tokens, the checkpoint knows {words}",
            where=tokenizer or checkpoint.folder,
            fix="Use the tokenizer that it was trained with",
        )
    if max_length is not None and max_length > longest:
        raise ConfigError(
            f"the checkpoint reads at most {longest} tokens, not {max_length}",
            where="data.max_length",
        )
    most = min(longest, _MOST_TOKENS)
    return build_preprocessor(
        found,
        _image_spec(checkpoint),
        max_length=max_length or fitting_length(found, texts, most=most),
        pad_token=pad_token,
        absent_token=absent_token,
    )


def build_from_checkpoint(
    checkpoint: Checkpoint,
    preprocessor: Preprocessor,
    *,
    labels: tuple[str, ...],
    problem: Problem,
    dropout: float,
) -> FamilyForClassification:
    """Return a model with the checkpoint's weights and a fresh head, for a task.

    Raises:
        ArtifactError: The weights cannot be loaded, or are not all there.
    """
    backbone = load_pretrained(checkpoint.folder)
    vision = None if checkpoint.vision is None else _load_vision(checkpoint.vision)
    mean, std = normalisation(read_processor(checkpoint.eyes))
    config = FamilyConfig(
        family=checkpoint.family,
        backbone=plain_config(backbone),
        vision=None if vision is None else plain_config(vision),
        image_size=preprocessor.image.size,
        image_mean=mean,
        image_std=std,
        text_padding=preprocessor.pad_id,
        dropout=dropout,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=transformers_problem(problem),
    )
    model = FamilyForClassification(config)
    model.backbone.load_state_dict(backbone.state_dict())
    if vision is not None and model.vision is not None:
        model.vision.load_state_dict(vision.state_dict())
    return model


def _load_vision(folder: Path) -> PreTrainedModel:
    model = load_pretrained(folder)
    if model.main_input_name != "pixel_values":
        raise ArtifactError(
            f"is no vision model ({model.config.model_type})",
            where=folder,
            fix="Name one that takes pixels, for example ResNet, ConvNeXt or ViT",
        )
    return model


def load_pretrained(folder: Path) -> PreTrainedModel:
    """Load the family's own model of a folder in float32, from safetensors alone.

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
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_FRESH_PARTS))
    if missing:
        raise ArtifactError(
            f"checkpoint lacks {len(missing)} of its model's weights ({', '.join(missing[:3])})",
            where=folder,
            fix="Use a checkpoint of the whole model, not of one tower or of another head",
        )
    assert isinstance(model, PreTrainedModel)
    return model


def plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """Return a model's configuration without where it came from: its folder, its precision."""
    stated = model.config.to_dict()
    dropped = ("dtype", "torch_dtype", "architectures", "transformers_version")
    return {k: v for k, v in stated.items() if not k.startswith("_") and k not in dropped}


def _text_limits(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return how many words a checkpoint knows, and how many tokens of text it can read."""
    text = getattr(checkpoint.config, "text_config", checkpoint.config)
    return int(text.vocab_size), int(text.max_position_embeddings)


def _image_spec(checkpoint: Checkpoint) -> ImageSpec:
    """Return the picture size: the model's, or its processor's where any size will do."""
    config = checkpoint.config
    if checkpoint.vision is not None:
        config = AutoConfig.from_pretrained(checkpoint.vision, trust_remote_code=False)
    processor = read_processor(checkpoint.eyes)
    is_cut = bool(processor.get("do_center_crop"))
    stated = getattr(getattr(config, "vision_config", config), "image_size", None)
    if stated is None:
        stated = _side(processor.get("crop_size" if is_cut else "size"), checkpoint.eyes)
    height, width = (stated, stated) if isinstance(stated, int) else stated
    return ImageSpec((height, width), "crop" if is_cut else "fit")


def _side(stated: object, folder: Path) -> int:
    """Return the side in pixels that a processor states, in one of its ways."""
    if isinstance(stated, dict):
        stated = next((stated[key] for key in ("height", "shortest_edge") if key in stated), None)
    if not isinstance(stated, int) or stated < 1:
        raise ArtifactError("states no picture size in preprocessor_config.json", where=folder)
    return stated


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


def normalisation(processor: Json) -> tuple[_Channels, _Channels]:
    """Return mean and standard deviation per RGB channel, in units of 0..255."""
    factor = processor.get("rescale_factor", _PIXEL_SCALE)
    scale = 1 / float(str(factor)) if processor.get("do_rescale", True) else 1.0
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (scale, scale, scale)
    return _channels(processor.get("image_mean"), scale), _channels(
        processor.get("image_std"), scale
    )


def _channels(stated: object, scale: float) -> _Channels:
    values = stated if isinstance(stated, (list, tuple)) and len(stated) == 3 else [0.5] * 3
    red, green, blue = (float(value) * scale for value in values)
    return red, green, blue


def _read_tokenizer(place: Path) -> Tokenizer:
    """Read the tokenizer.json of a place, or have transformers make one of older files."""
    if place.is_file() or (place / TOKENIZER_NAME).is_file():
        return read_tokenizer(place)
    missing = ArtifactError(
        f"has no {TOKENIZER_NAME}, nor a vocabulary that one can be made of",
        where=place,
        fix="Name a tokenizer.json with --tokenizer",
    )
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


def _special_tokens(tokenizer: Tokenizer, place: Path) -> tuple[str, str]:
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
    stated = _stated_padding(place)
    for token in (stated, PAD, "<pad>", tokenizer.id_to_token(added[-1])):
        if token is not None and tokenizer.token_to_id(token) is not None:
            return token, absent or CLS
    raise AssertionError  # the last one is the tokenizer's own


def _stated_padding(place: Path) -> str | None:
    """Return the padding token that tokenizer_config.json names, if it does."""
    path = (place if place.is_dir() else place.parent) / "tokenizer_config.json"
    if not path.is_file():
        return None
    token = read_json(path).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
