"""FamilyForClassification: a teacher on a transformers model of CLIP, SigLIP, ViLT or VisualBERT.

Models are built from their configuration with the classes of transformers; code in a checkpoint is
never run.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from msd_deploy.data.batch import Batch
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.configs import FAMILIES, FamilyConfig
from msd_deploy.models.streams import Stream, ViltParts, VisualBertParts
from msd_deploy.models.towers import ClipParts, SiglipParts, Towers
from msd_deploy.models.vision import TransformersBackbone, recompute_activations
from msd_deploy.views import View


class FamilyForClassification(ViewClassifier):
    """A vision-and-language classifier on a pretrained model; see the module docstring."""

    config_class = FamilyConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    config: FamilyConfig

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__(config)
        self.encoder = _build_encoder(config)
        assert config.id2label is not None  # PreTrainedConfig fills it
        self.classifier = nn.Linear(self.encoder.width, len(config.id2label))
        self.set_channels(config.image_mean, config.image_std)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    @property
    def backbone(self) -> nn.Module:
        """The family's own model, into which a checkpoint is loaded."""
        return self.encoder.parts.model

    @property
    def vision(self) -> nn.Module | None:
        """The vision backbone of grid features; None if the family has its own vision encoder."""
        parts = self.encoder.parts
        return parts.vision.backbone if isinstance(parts, VisualBertParts) else None

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules of the vision encoder; empty for ViLT, whose stream takes patches of pixels."""
        return self.encoder.parts.vision_modules

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules of a text tower, or of ViLT's whole stream; see `ViewClassifier`."""
        return self.encoder.row_modules

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return embeddings or tokens, or for ViLT normalised pixels; see `ViewClassifier`."""
        return self.encoder.parts.encode_images(self.normalised(pixel_values))

    def encode_rows(self, batch: Batch) -> Tensor:
        """Return embeddings of texts, or for ViLT the stream's output of each view."""
        return self.encoder.encode_rows(
            batch, None if self.vision_modules else self.encoded_images(batch)
        )

    def checkpoint_activations(self) -> None:
        """Enable activation checkpointing; see `ViewClassifier`."""
        for module in (self.backbone, self.vision):
            recompute_activations(module)

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute features [batch, width] of each view; see `ViewClassifier`."""
        views = tuple(views)
        images = self.encoded_images(batch) if any(view.has_image for view in views) else None
        return self.encoder.features_by_view(batch, images, views)

    def fuse(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, image_present: Tensor
    ) -> Tensor:
        """Compute features [batch, width] of rows, each with its own image and text.

        The view of a row follows from values, not from shapes or branches, so that one exported
        graph computes all three. The content of an absent modality has no effect.

        Args:
            images: Result of `encode_images` for each row's image, also where it is absent.
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, length]; a single token where the text is absent.
            image_present: bool [batch].
        """
        return self.encoder.fuse(images, input_ids, attention_mask, image_present)


def _build_encoder(config: FamilyConfig) -> Towers | Stream:
    backbone = build_backbone(config.backbone)
    match config.family:
        case "clip":
            return Towers(config, ClipParts(backbone))
        case "siglip":
            return Towers(config, SiglipParts(backbone, padding=config.text_padding))
        case "vilt":
            return Stream(config, ViltParts(backbone), width=int(backbone.config.hidden_size))
        case "visual_bert" if config.vision is not None:
            height, width = config.image_size
            parts = VisualBertParts(
                backbone, TransformersBackbone(config.vision), image_size=(height, width)
            )
            return Stream(config, parts, width=int(backbone.config.hidden_size))
    raise ConfigError(
        f"unknown family {config.family!r}", fix=f"Use one of {', '.join(FAMILIES.values())}"
    )


def build_backbone(config: Mapping[str, object]) -> PreTrainedModel:
    """Build a transformers model with random weights from its configuration.

    Raises:
        ConfigError: transformers cannot build it.
    """
    settings: dict[str, Any] = dict(config)
    try:
        model = AutoModel.from_config(AutoConfig.for_model(**settings), trust_remote_code=False)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"transformers cannot build the model: {error}") from error
    assert isinstance(model, PreTrainedModel)
    return model


AutoConfig.register(FamilyConfig.model_type, FamilyConfig, exist_ok=True)
AutoModel.register(FamilyConfig, FamilyForClassification, exist_ok=True)
