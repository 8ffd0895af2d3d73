"""Sizes of students (tiny, small, mobile) and of the default teacher, and how they are built."""

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
DEFAULT_LEARNING_RATE: Mapping[StudentSize, float] = {"tiny": 4.5e-3, "small": 3e-3, "mobile": 3e-3}
"""Of a student's random weights; the narrow stream trains best at a higher one."""

# More image tokens are expensive and improved none of the measured tasks.
_MAX_TOKENS_PER_SIDE = 8
_MOBILE_VISION = "effnet-lite0"
_UNTRAINED_MOBILE: Mapping[str, Any] = {
    "vision": {"kind": "efficientnet_lite", "variant": "lite0"},
    "image_mean": EFFICIENTNET_MEAN,
    "image_std": EFFICIENTNET_STD,
}


@dataclass(frozen=True, slots=True)
class _Stream:
    """Shape of the stream, and channels of the last three layers of a convolutional stem."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    stem: tuple[int, int, int]


_TINY = _Stream(40, 2, 96, 2, (12, 24, 40))
_SMALL = _Stream(128, 3, 256, 4, (32, 64, 96))
_MOBILE = _Stream(128, 2, 256, 4, (32, 64, 128))
# A wide stem and a narrow stream: with a hidden size of 192, or an intermediate size of 1,536, the
# teacher of easy-vqa needed more than twice the epochs before it used the question.
_TEACHER = _Stream(128, 2, 768, 4, (96, 192, 384))
# As in BERT; students, with few steps at a high learning rate, train better with the default.
_TEACHER_INITIALIZER_RANGE = 0.02
_STREAMS: Mapping[StudentSize, _Stream] = {"tiny": _TINY, "small": _SMALL, "mobile": _MOBILE}


def build_student(
    config: StudentConfig, data: PreparedData, preprocessor: Preprocessor
) -> FusionForClassification:
    """Build a student; `mobile` loads ImageNet weights where their package is installed.

    Raises:
        ConfigError: The vision encoder is unknown or does not support the image size.
        ArtifactError: A pretrained part cannot be loaded.
    """
    stream = _STREAMS[config.size]
    vision = _vision_start(config)
    text = None if config.text is None else open_text(config.text)
    layers = _text_layers(config)
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
        vision.load_into(model.vision)
        model.mark_pretrained(model.vision)
    if text is not None:
        load = load_text_layers if layers else load_word_embeddings
        load(model, text, preprocessor.tokenizer)
    return model


def check_starts(config: StudentConfig) -> None:
    """Open the checkpoints that a student starts from, so that their faults are raised early.

    Raises:
        ConfigError: A package is missing, or the text encoder has fewer layers than requested.
        ArtifactError: A checkpoint cannot be loaded.
    """
    if (name := _vision_name(config)) is not None:
        open_vision(name)
    if config.text is not None:
        open_text(config.text).select_layers(_text_layers(config))


def _text_layers(config: StudentConfig) -> int:
    """Return how many layers of the text checkpoint are used."""
    usual = _STREAMS[config.size].num_hidden_layers
    return usual if config.text_layers is None else config.text_layers


def _vision_name(config: StudentConfig) -> str | None:
    """Return the name of a student's pretrained vision encoder; None for random weights."""
    if config.vision is not None or config.size != "mobile" or not config.pretrained:
        return config.vision
    return None if installed_path(VISION[_MOBILE_VISION]) is None else _MOBILE_VISION


def _vision_start(config: StudentConfig) -> PretrainedVision | None:
    """Open a student's pretrained vision encoder; None for random weights."""
    if (name := _vision_name(config)) is not None:
        return open_vision(name)
    if config.size == "mobile" and config.pretrained:
        logger.warning(
            "the mobile student's EfficientNet-Lite0 starts from random weights; install the"
            " ImageNet weights with `%s`",
            INSTALL,
        )
    return None


def build_teacher(data: PreparedData, preprocessor: Preprocessor) -> FusionForClassification:
    """Build an untrained teacher with a convolutional stem."""
    settings = _settings(_TEACHER, data, preprocessor)
    settings["initializer_range"] = _TEACHER_INITIALIZER_RANGE
    return FusionForClassification(FusionConfig(**settings))


def _stem_for(stream: _Stream, preprocessor: Preprocessor) -> dict[str, object]:
    """Return a stem deep enough for at most 8 tokens per side; layers are added at the front."""
    channels = list(stream.stem)
    while max(preprocessor.image.size) / 2 ** len(channels) > _MAX_TOKENS_PER_SIDE:
        channels.insert(0, max(8, channels[0] // 2))
    return {"kind": "conv_stem", "channels": channels}


def _settings(stream: _Stream, data: PreparedData, preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the settings of a FusionConfig without pretrained parts."""
    return {
        "vision": _stem_for(stream, preprocessor),
        "hidden_size": stream.hidden_size,
        "num_hidden_layers": stream.num_hidden_layers,
        "num_attention_heads": stream.num_attention_heads,
        "intermediate_size": stream.intermediate_size,
        **input_config(preprocessor),
        **task_config(data.info.labels, data.info.problem),
    }
