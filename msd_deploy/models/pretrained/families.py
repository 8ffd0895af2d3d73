"""Checkpoints of CLIP, SigLIP, ViLT and VisualBERT, and teachers with a new head on them.

A checkpoint is a transformers folder: config.json, safetensors, preprocessor_config.json and a
tokenizer; see `files`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import FAMILIES, FamilyConfig
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
_OUR_TYPES = ("msd_fusion", "msd_family")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint of a known family.

    Attributes:
        folder: Folder of the checkpoint.
        kind: A key of FAMILIES.
        config: Its configuration, including the family's defaults.
        vision: Folder of the vision backbone for VisualBERT; else None.
    """

    folder: Path
    kind: str
    config: PreTrainedConfig
    vision: Path | None = None

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
    ) -> FamilyForClassification:
        """Build a model with the checkpoint's weights and a new head for a task.

        Raises:
            ArtifactError: The weights cannot be loaded or are incomplete.
        """
        backbone, missing = load_with_missing(self.folder)
        vision = None if self.vision is None else load_vision_model(self.vision)
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
            **task_config(labels, problem),
        )
        model = FamilyForClassification(config)
        model.backbone.load_state_dict(backbone.state_dict())
        if vision is not None and model.vision is not None:
            model.vision.load_state_dict(vision.state_dict())
        model.mark_pretrained(
            *(part for part in (model.backbone, model.vision) if part is not None),
            exclude=map(model.backbone.get_parameter, missing),
        )
        return model


def open_checkpoint(name: str, *, vision: str | None = None) -> Checkpoint:
    """Find a checkpoint and check that a teacher can be initialized from it.

    Args:
        name: A folder, or a name on the hub.
        vision: Folder or hub name of a vision backbone, required for VisualBERT only.

    Raises:
        ArtifactError: It does not exist, is of an unknown family, or has no safetensors weights.
        ConfigError: A vision backbone is missing, or not supported by the family.
    """
    folder = checkpoint_folder(name)
    kind = read_json(folder / "config.json").get("model_type")
    if kind in _OUR_TYPES:
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
    return Checkpoint(folder, kind, config, _open_vision(kind, vision))


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
