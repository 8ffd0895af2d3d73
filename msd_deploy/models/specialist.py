"""SpecialistForClassification: a teacher of one modality, an encoder and a linear layer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from msd_deploy.data.batch import Batch
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.configs import SpecialistConfig
from msd_deploy.models.families import build_backbone
from msd_deploy.models.towers import has_text
from msd_deploy.models.vision import (
    TransformersBackbone,
    build_vision_encoder,
    recompute_activations,
    token_shape,
)
from msd_deploy.views import View


class SpecialistForClassification(ViewClassifier):
    """A classifier of images or of texts, which has no encoder of the other modality.

    Features of an image are the mean of its encoder's tokens, features of a text the last state of
    its first token. Both modalities together have the features of the one. Where that is absent,
    in the view or in the example, features are 0 and logits the bias of the last layer.

    Args:
        config: Its configuration.

    Raises:
        ConfigError: The encoder cannot be built, or the view is not a single one.
    """

    config_class = SpecialistConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    config: SpecialistConfig

    def __init__(self, config: SpecialistConfig) -> None:
        super().__init__(config)
        self.encoder: nn.Module
        match config.view:
            case "image":
                vision = build_vision_encoder(config.encoder)
                _, width = token_shape(vision, (config.image_size[0], config.image_size[1]))
                self.encoder = vision
            case "text":
                text = build_backbone(config.encoder)
                if hasattr(text, "pooler"):  # the first token is used without it
                    text.register_module("pooler", None)
                self.encoder, width = text, int(text.config.hidden_size)
            case other:
                raise ConfigError(f"must be image or text, not {other!r}", where="view")
        self.view = View(config.view)
        self.dropout = nn.Dropout(config.dropout)
        assert config.id2label is not None  # PreTrainedConfig fills it
        self.classifier = nn.Linear(width, len(config.id2label))
        self.set_channels(config.image_mean, config.image_std)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """The encoder of images; see `ViewClassifier`."""
        return (self.encoder,) if self.view is View.IMAGE else ()

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """The encoder of texts; see `ViewClassifier`."""
        return (self.encoder,) if self.view is View.TEXT else ()

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images as [images, width]; see `ViewClassifier`. Of texts alone, as they are."""
        if self.view is View.TEXT:
            return pixel_values
        tokens: Tensor = self.encoder(self.normalised(pixel_values))
        return tokens.mean(dim=1)

    def encode_rows(self, batch: Batch) -> Tensor:
        """Encode texts as [batch, width]; see `ViewClassifier`."""
        return self._encode_text(batch.input_ids, batch.attention_mask)

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        first: Tensor = output.last_hidden_state[:, 0]
        return first

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute features [batch, width] of each view; see the class."""
        views = tuple(views)
        seen = {view for view in views if view in (View.MULTIMODAL, self.view)}
        features = absent = torch.zeros(
            len(batch), self.classifier.in_features, device=batch.input_ids.device
        )
        if seen and self.view is View.IMAGE:
            encoded = self.encoded_images(batch)[batch.image_index]
            features = self._features(encoded, batch.image_present)
        elif seen:
            rows = batch.encoded_rows
            rows = self.encode_rows(batch) if rows is None else rows
            features = self._features(rows, has_text(batch.attention_mask))
        return {view: features if view in seen else absent for view in views}

    def fuse(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, image_present: Tensor
    ) -> Tensor:
        """Compute features [batch, width] of rows; see `FamilyForClassification.fuse`."""
        if self.view is View.IMAGE:
            return self._features(images, image_present)
        encoded = self._encode_text(input_ids, attention_mask)
        return self._features(encoded, has_text(attention_mask))

    def _features(self, encoded: Tensor, present: Tensor) -> Tensor:
        features: Tensor = self.dropout(encoded * present[:, None])
        return features

    def checkpoint_activations(self) -> None:
        """Enable activation checkpointing; a convolutional encoder keeps its activations."""
        is_backbone = isinstance(self.encoder, TransformersBackbone)
        recompute_activations(self.encoder.backbone if is_backbone else self.encoder)
