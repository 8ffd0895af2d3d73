"""Checkpoints of CLIP, SigLIP, ViLT and VisualBERT, and teachers with a new head on them.

A checkpoint is a transformers folder: config.json, safetensors, preprocessor_config.json and a
tokenizer; see `files`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedModel

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import FAMILIES, OUR_TYPES, FamilyConfig, Head
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.pretrained.files import (
    check_safetensors,
    check_tokenizer,
    digest_of_checkpoints,
    image_size_of,
    load_vision_model,
    load_with_missing,
    normalisation,
    plain_config,
    published_tokenizer,
    read_checkpoint_config,
    read_processor,
    special_tokens,
    text_length,
)
from msd_deploy.models.pretrained.location import checkpoint_folder
from msd_deploy.problem import Problem

_WITHOUT_VISION = "visual_bert"
# An eos_token_id of CLIP that stands for the highest id of a text (transformers' CLIPTextModel).
_HIGHEST = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint of a known family.

    Attributes:
        folder: Folder of the checkpoint.
        kind: A key of FAMILIES.
        config: Its configuration, including the family's defaults.
        backbone: Its model, with its weights.
        missing: Names of optional weights that it lacks.
        vision: Folder of the vision backbone for VisualBERT; else None.
        vision_model: That backbone's model; else None.
    """

    folder: Path
    kind: str
    config: PreTrainedConfig
    backbone: PreTrainedModel
    missing: list[str]
    vision: Path | None = None
    vision_model: PreTrainedModel | None = None

    @property
    def vision_folder(self) -> Path:
        """Folder of the vision encoder and its preprocessor_config.json."""
        return self.vision or self.folder

    @property
    def family(self) -> str:
        """Name of the family."""
        return FAMILIES[self.kind]

    @property
    def has_vision_encoder(self) -> bool:
        """Whether it has a separate vision encoder, as all families but ViLT have."""
        return self.kind != "vilt"

    def digest(self) -> str:
        """Compute the SHA-256 of its configuration and weights."""
        return digest_of_checkpoints(self.folder, self.vision_folder)

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Build its preprocessor, with its image size and tokenizer.

        Center cropping is kept; a processor that distorts images to its size is replaced by fitting
        with padding. Interpolation is always ours (docs/preprocessing.md).

        Args:
            texts: The training texts.
            tokenizer: A tokenizer.json, or a folder with one, instead of the checkpoint's own.
            max_length: Maximum number of text tokens; None for that of the longest text, within the
                model's limit.
            image_size: Side in pixels; only the checkpoint's own is valid.

        Raises:
            ArtifactError: A file is missing or malformed.
            ConfigError: The tokenizer does not match the model, max_length is above its limit, or
                image_size is not its own.
        """
        source = tokenizer or self.folder
        loaded = published_tokenizer(source)
        pad_token, absent_token = special_tokens(loaded, source)
        text = getattr(self.config, "text_config", self.config)
        check_tokenizer(loaded, int(text.vocab_size), source)
        if self.kind == "clip":
            _check_pooling(loaded, text.eos_token_id, source)
        limit = int(text.max_position_embeddings)
        return build_preprocessor(
            loaded,
            self._image_spec(image_size),
            max_length=text_length(loaded, texts, requested=max_length, limit=limit),
            pad_token=pad_token,
            absent_token=absent_token,
        )

    def _image_spec(self, requested: int | None) -> ImageSpec:
        processor = read_processor(self.vision_folder)
        config = self.config
        if self.vision is not None:
            config = read_checkpoint_config(self.vision, str(self.vision))
        size = image_size_of(config, processor, self.vision_folder)
        if requested is not None and size != (requested, requested):
            raise ConfigError(
                f"the checkpoint was trained with {size[0]} x {size[1]} pixels, not {requested}",
                where="data.image_size",
                fix="Run without --image-size",
            )
        return ImageSpec(size, "crop" if processor.get("do_center_crop") else "fit")

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float,
        head: Head = "fusion",
    ) -> FamilyForClassification:
        """Build a model with the checkpoint's weights and a new head for a task."""
        backbone, vision = self.backbone, self.vision_model
        mean, std = normalisation(read_processor(self.vision_folder))
        config = FamilyConfig(
            family=self.kind,
            backbone=plain_config(backbone),
            vision=None if vision is None else plain_config(vision),
            image_size=preprocessor.image.size,
            image_mean=mean,
            image_std=std,
            text_padding=preprocessor.pad_id,
            dropout=dropout,
            head=head,
            **task_config(labels, problem),
        )
        model = FamilyForClassification(config)
        model.backbone.load_state_dict(backbone.state_dict())
        if vision is not None and model.vision is not None:
            model.vision.load_state_dict(vision.state_dict())
        model.mark_pretrained(
            *(part for part in (model.backbone, model.vision) if part is not None),
            exclude=map(model.backbone.get_parameter, self.missing),
        )
        return model


def open_checkpoint(name: str, *, vision: str | None = None) -> Checkpoint:
    """Load a checkpoint and check that a teacher can be initialized from it.

    Args:
        name: A folder, or a name on the hub.
        vision: Folder or hub name of a vision backbone, required for VisualBERT only.

    Raises:
        ArtifactError: It does not exist, is of an unknown family, has no safetensors weights, or
            its weights cannot be loaded, are incomplete or hold NaN.
        ConfigError: A vision backbone is missing, or not supported by the family.
    """
    folder = checkpoint_folder(name)
    kind = read_json(folder / "config.json").get("model_type")
    if kind in OUR_TYPES:
        raise ArtifactError(
            "is a model trained by msd, not a pretrained checkpoint",
            where=name,
            fix="Use it as a teacher with `msd distill --teacher`",
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ArtifactError(
            f"is a checkpoint of an unknown family ({kind!r})",
            where=name,
            fix=f"Use one of {', '.join(FAMILIES.values())}",
        )
    check_safetensors(folder, name)
    config = read_checkpoint_config(folder, name)
    if getattr(config, "bypass_transformer", False):
        raise ArtifactError(
            "sets bypass_transformer, which is not supported: images would skip all layers but the"
            " last",
            where=name,
            fix="Use a checkpoint without it",
        )
    if kind == "siglip":
        _check_widths(config, folder)
    vision_folder = _open_vision(kind, vision)
    backbone, missing = load_with_missing(folder)
    vision_model = None if vision_folder is None else load_vision_model(vision_folder)
    return Checkpoint(folder, kind, config, backbone, missing, vision_folder, vision_model)


def _check_widths(config: Any, folder: Path) -> None:
    """Check that SigLIP's towers have embeddings of one width."""
    text, vision = config.text_config.projection_size, config.vision_config.hidden_size
    if text != vision:
        raise ArtifactError(
            f"text_config.projection_size is {text}, but vision_config.hidden_size is {vision}",
            where=folder / "config.json",
            fix="Use a checkpoint whose towers have embeddings of the same width",
        )


def _check_pooling(tokenizer: Tokenizer, end: object, source: Path) -> None:
    """Check that CLIP's text tower pools at the end of each text.

    It pools at the first eos_token_id, or, where that is 2 as in the first published
    configurations, at the highest id. At another position, it would not read the whole text.

    Raises:
        ConfigError: The tokenizer ends texts with another token.
    """
    *before, last = tokenizer.encode("").ids
    expected = max(tokenizer.get_vocab().values()) if end == _HIGHEST else end
    if last != expected or expected in before:
        name = "the highest id" if end == _HIGHEST else "eos_token_id"
        raise ConfigError(
            f"tokenizer ends each text with id {last}, but the text tower pools at {name},"
            f" {expected} (text_config.eos_token_id of the checkpoint is {end})",
            where=source,
            fix="Use the tokenizer that the checkpoint was trained with, or correct eos_token_id",
        )


def _open_vision(kind: str, name: str | None) -> Path | None:
    """Find the vision backbone of a family that needs one."""
    if (kind == _WITHOUT_VISION) == (name is not None):
        folder = None if name is None else checkpoint_folder(name)
        if folder is not None:
            check_safetensors(folder, str(name))
        return folder
    if name is None:
        raise ConfigError(
            f"{FAMILIES[kind]} has no vision encoder of its own",
            where="finetune.vision",
            fix="Add one, for example --vision microsoft/resnet-50",
        )
    raise ConfigError(
        f"{FAMILIES[kind]} has a vision encoder of its own",
        where="finetune.vision",
        fix="Run without --vision",
    )
