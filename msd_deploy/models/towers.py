"""Two-tower teachers: CLIP and SigLIP, with a head that fuses both embeddings."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedModel, SiglipModel

from msd_deploy.data.batch import Batch
from msd_deploy.models.configs import FamilyConfig
from msd_deploy.views import View


class ClipParts(nn.Module):
    """CLIP's towers with their projections.

    Args:
        backbone: The checkpoint's model.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        assert isinstance(backbone, CLIPModel)
        self.model = backbone
        config: Any = backbone.config
        self.width = int(config.projection_dim)

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_images` calls."""
        return (self.model.vision_model, self.model.visual_projection)

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_text` calls."""
        return (self.model.text_model, self.model.text_projection)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embed normalised pixels [images, 3, h, w] as [images, width]."""
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return cast(Tensor, self.model.visual_projection(pooled))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed token ids [batch, length] as [batch, width]."""
        pooled = self.model.text_model(
            input_ids=input_ids, attention_mask=attention_mask
        ).pooler_output
        return cast(Tensor, self.model.text_projection(pooled))


class SiglipParts(nn.Module):
    """SigLIP's towers.

    SigLIP was trained on texts padded to the maximum length, without a mask, and pools the last
    token, even if it is padding. Texts are padded likewise here, since embeddings would otherwise
    depend on the other texts of a batch.

    Args:
        backbone: The checkpoint's model.
        padding: Id of the padding token.
    """

    def __init__(self, backbone: PreTrainedModel, *, padding: int) -> None:
        super().__init__()
        assert isinstance(backbone, SiglipModel)
        self.model = backbone
        self.padding = padding
        config: Any = backbone.config  # its parts are typed as dictionaries
        self.length = int(config.text_config.max_position_embeddings)
        self.width = int(config.vision_config.hidden_size)

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_images` calls."""
        return (self.model.vision_model,)

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_text` calls."""
        return (self.model.text_model,)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embed pixels as [images, width]; see `ClipParts`."""
        output = self.model.vision_model(pixel_values=pixels)
        if output.pooler_output is None:  # configured without its pooling head
            return cast(Tensor, output.last_hidden_state.mean(dim=1))
        return cast(Tensor, output.pooler_output)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts as [batch, width]; see `ClipParts`."""
        filled = input_ids.masked_fill(attention_mask == 0, self.padding)
        missing = self.length - input_ids.shape[1]
        padded = functional.pad(filled, (0, missing), value=self.padding)
        return cast(Tensor, self.model.text_model(input_ids=padded).pooler_output)


class Towers(nn.Module):
    """A checkpoint's two towers and a fusion head.

    Args:
        config: Configuration of the teacher.
        parts: The towers.
    """

    def __init__(self, config: FamilyConfig, parts: ClipParts | SiglipParts) -> None:
        super().__init__()
        self.parts = parts
        self.width = parts.width
        self.head = (
            CosineHead()
            if config.head == "cosine"
            else FusionHead(self.width, dropout=config.dropout)
        )

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_rows` calls."""
        return self.parts.row_modules

    def encode_rows(self, batch: Batch, images: Tensor | None) -> Tensor:
        """Embed the texts as [batch, width], whatever the images."""
        return self.parts.encode_text(batch.input_ids, batch.attention_mask)

    def features_by_view(
        self, batch: Batch, images: Tensor | None, views: Iterable[View]
    ) -> dict[View, Tensor]:
        """Compute features [batch, width] of each view.

        Args:
            batch: Token ids, and the image of each row.
            images: Result of `parts.encode_images`; None if no view has the image.
            views: The views.
        """
        views = tuple(views)
        image = text = None
        if images is not None:
            image = images[batch.image_index]
        if any(view.has_text for view in views):
            encoded = batch.encoded_rows
            text = self.encode_rows(batch, images) if encoded is None else encoded
        return {
            view: self.head(
                image if view.has_image else None,
                text if view.has_text else None,
                image_present=batch.image_present,
                text_present=has_text(batch.attention_mask),
            )
            for view in views
        }

    def fuse(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, image_present: Tensor
    ) -> Tensor:
        """Compute features [batch, width]; see `FamilyForClassification.fuse`."""
        features = self.head(
            images,
            self.parts.encode_text(input_ids, attention_mask),
            image_present=image_present,
            text_present=has_text(attention_mask),
        )
        return cast(Tensor, features)


class FusionHead(nn.Module):
    """Fuses an image and a text embedding; learned vectors replace absent ones.

    Its inputs include their product, for interactions that a sum cannot express.

    Args:
        width: Width of either embedding and of the result.
        dropout: Dropout probability of the result.
    """

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.absent_image = nn.Parameter(torch.zeros(width))
        self.absent_text = nn.Parameter(torch.zeros(width))
        self.hidden = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        image: Tensor | None,
        text: Tensor | None,
        *,
        image_present: Tensor,
        text_present: Tensor,
    ) -> Tensor:
        """Fuse embeddings [batch, width]; None, or a row that is not present, is absent."""
        image = _or_absent(image, image_present, self.absent_image)
        text = _or_absent(text, text_present, self.absent_text)
        joined = torch.cat([image, text, image * text], dim=-1)
        return cast(Tensor, self.dropout(functional.gelu(self.hidden(joined))))


class CosineHead(nn.Module):
    """Averages the normalized embeddings of image and text that are present; it has no weights.

    With normalized classes as the classifier's weights, the logits are cosines, and those of an
    image with a text are the mean of the logits of either.
    """

    def forward(
        self,
        image: Tensor | None,
        text: Tensor | None,
        *,
        image_present: Tensor,
        text_present: Tensor,
    ) -> Tensor:
        """Average embeddings [batch, width]; see `FusionHead`. Nothing present: zeros."""
        given = [(image, image_present), (text, text_present)]
        parts = [(embedding, there) for embedding, there in given if embedding is not None]
        shares = [there[:, None].to(embedding.dtype) for embedding, there in parts]
        total = sum(
            functional.normalize(embedding, dim=-1) * share
            for (embedding, _), share in zip(parts, shares, strict=True)
        )
        return cast(Tensor, total / sum(shares).clamp(min=1))  # type: ignore[union-attr]


def _or_absent(embedding: Tensor | None, present: Tensor, absent: Tensor) -> Tensor:
    """Scale embeddings to entries of about 1, and replace those not present by `absent`."""
    if embedding is None:
        return absent.expand(len(present), -1)
    scaled = functional.normalize(embedding, dim=-1) * embedding.shape[-1] ** 0.5
    return torch.where(present[:, None], scaled, absent.to(scaled.dtype))


def has_text(attention_mask: Tensor) -> Tensor:
    """Return which rows have a text, bool [batch]: an absent text is a single token."""
    return attention_mask.sum(dim=1) > 1
