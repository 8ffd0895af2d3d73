"""Checkpoints of known families: read, checked, and made into a teacher with a fresh head.

A checkpoint is a transformers folder: config.json, safetensors, preprocessor_config.json and a
tokenizer (`checkpoint_files`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
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

_WITHOUT_EYES = "visual_bert"
_OUR_TYPES = ("msd_fusion", "msd_family")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint of a known family.

    Attributes:
        folder: Where it lies.
        kind: A key of FAMILIES.
        config: Its configuration, the family's defaults filled in.
        vision: Where the backbone lies whose grid features VisualBERT is shown; else None.
    """

    folder: Path
    kind: str
    config: PreTrainedConfig
    vision: Path | None = None

    @property
    def vision_folder(self) -> Path:
        """The folder of what sees, with its preprocessor_config.json."""
        return self.vision or self.folder

    @property
    def family(self) -> str:
        """The family's name."""
        return FAMILIES[self.kind]

    @property
    def has_vision_encoder(self) -> bool:
        """Whether something sees a picture before it meets the text: ViLT's one stream does not."""
        return self.kind != "vilt"

    def digest(self) -> str:
        """Return the SHA-256 of its configuration and weights."""
        return digest_of_checkpoints(self.folder, self.vision_folder)

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Return what makes its inputs: its picture size and its tokenizer.

        Where its own processor squeezes a picture, ours fits it whole; where that cuts the middle
        out, so does ours. Interpolation is always ours (docs/preprocessing.md).

        Args:
            texts: The training texts.
            tokenizer: A tokenizer.json, or a folder with one, instead of the checkpoint's own.
            max_length: Tokens of text; None: as many as the longest text has and the model reads.
            image_size: Side in pixels; only what it was trained with.

        Raises:
            ArtifactError: A file is missing or malformed.
            ConfigError: The tokenizer does not suit the model, max_length is beyond it, or
                image_size is not its own.
        """
        place = tokenizer or self.folder
        found = published_tokenizer(place)
        pad_token, absent_token = special_tokens(found, place)
        words, longest = self._text_limits()
        check_tokenizer(found, words, place)
        return build_preprocessor(
            found,
            self._image_spec(image_size),
            max_length=text_length(found, texts, stated=max_length, longest=longest),
            pad_token=pad_token,
            absent_token=absent_token,
        )

    def _text_limits(self) -> tuple[int, int]:
        """Return how many words it knows, and how many tokens of text it reads."""
        text = getattr(self.config, "text_config", self.config)
        return int(text.vocab_size), int(text.max_position_embeddings)

    def _image_spec(self, stated: int | None) -> ImageSpec:
        processor = read_processor(self.vision_folder)
        config = self.config
        if self.vision is not None:
            config = read_checkpoint_config(self.vision, str(self.vision))
        size = image_size_of(config, processor, self.vision_folder)
        if stated is not None and size != (stated, stated):
            raise ConfigError(
                f"the checkpoint was trained with {size[0]} x {size[1]} pixels, not {stated}",
                where="data.image_size",
                fix="Leave --image-size out",
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
        """Return a model with the checkpoint's weights and a fresh head, for a task.

        Raises:
            ArtifactError: The weights cannot be loaded, or are not all there.
        """
        backbone, fresh = load_with_missing(self.folder)
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
            but=map(model.backbone.get_parameter, fresh),
        )
        return model


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
    config = read_checkpoint_config(folder, stated)
    if getattr(config, "bypass_transformer", False):
        raise ArtifactError(
            "has bypass_transformer set: its pictures pass by all layers but the last, which no"
            " teacher here computes",
            where=stated,
            fix="Use a checkpoint without it",
        )
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
