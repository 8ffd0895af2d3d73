"""Sizes: what `tiny`, `small`, `mobile` and `teacher` mean, and how one is built for a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msd_deploy.config import StudentConfig, StudentSize
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.fusion_config import FusionConfig
from msd_deploy.models.pretrained import load_backbone, load_efficientnet_lite0
from msd_deploy.models.vision import TransformersBackbone
from msd_deploy.problem import transformers_problem

DEFAULT_IMAGE_SIZE: Mapping[StudentSize, int] = {"tiny": 48, "small": 64, "mobile": 128}

# More tokens than this of a picture cost much and were not needed on any task measured.
_MOST_TOKENS_PER_SIDE = 8
_NORMALISE_EFFICIENTNET = {"image_mean": (127.0,) * 3, "image_std": (128.0,) * 3}


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
    """
    stream = _STREAMS[config.size]
    if config.vision is not None:
        return _student_on_backbone(config.vision, stream, data, preprocessor)
    if config.size == "mobile":
        vision: dict[str, object] = {"kind": "efficientnet_lite", "variant": "lite0"}
        model = FusionForClassification(
            _fusion_config(stream, vision, data, preprocessor, **_NORMALISE_EFFICIENTNET)
        )
        if config.pretrained:
            load_efficientnet_lite0(model.vision)
        return model
    return FusionForClassification(
        _fusion_config(stream, _stem_for(stream, preprocessor), data, preprocessor)
    )


def build_teacher(data: PreparedData, preprocessor: Preprocessor) -> FusionForClassification:
    """Build an untrained teacher with a convolutional stem, for the given task."""
    return FusionForClassification(
        _fusion_config(
            _TEACHER,
            _stem_for(_TEACHER, preprocessor),
            data,
            preprocessor,
            initializer_range=_TEACHER_INITIALIZER_RANGE,
        )
    )


def _student_on_backbone(
    name: str, stream: _Stream, data: PreparedData, preprocessor: Preprocessor
) -> FusionForClassification:
    backbone, normalisation = load_backbone(name)
    vision: dict[str, object] = {"kind": "transformers", "config": backbone.config.to_dict()}
    model = FusionForClassification(
        _fusion_config(stream, vision, data, preprocessor, **normalisation)
    )
    assert isinstance(model.vision, TransformersBackbone)
    model.vision.backbone.load_state_dict(backbone.state_dict())
    return model


def _stem_for(stream: _Stream, preprocessor: Preprocessor) -> dict[str, object]:
    """Return a stem deep enough that a side has at most 8 tokens; added layers come first."""
    channels = list(stream.stem)
    while max(preprocessor.image.size) / 2 ** len(channels) > _MOST_TOKENS_PER_SIDE:
        channels.insert(0, max(8, channels[0] // 2))
    return {"kind": "conv_stem", "channels": channels}


def _fusion_config(
    stream: _Stream,
    vision: dict[str, object],
    data: PreparedData,
    preprocessor: Preprocessor,
    **extra: Any,
) -> FusionConfig:
    return FusionConfig(
        vision=vision,
        image_size=preprocessor.image.size,
        vocab_size=preprocessor.tokenizer.get_vocab_size(),
        max_text_length=preprocessor.max_length,
        hidden_size=stream.hidden_size,
        num_hidden_layers=stream.num_hidden_layers,
        num_attention_heads=stream.num_attention_heads,
        intermediate_size=stream.intermediate_size,
        id2label=dict(enumerate(data.labels)),
        label2id={label: index for index, label in enumerate(data.labels)},
        problem_type=transformers_problem(data.problem),
        **extra,
    )
