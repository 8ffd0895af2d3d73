"""Two towers, one for pictures and one for texts, and the head that fuses what they say: CLIP."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedModel

from msd_deploy.data.batch import Batch
from msd_deploy.models.family_config import FamilyConfig
from msd_deploy.views import View


class Towers(nn.Module):
    """A checkpoint's two towers behind one head.

    Args:
        config: The family's.
        backbone: Its model.
    """

    def __init__(self, config: FamilyConfig, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.model = backbone
        self.encode_image = _clip_image
        self.encode_text = _clip_text
        self.width = int(backbone.config.projection_dim)
        self.head = FusionHead(self.width, dropout=config.dropout)

    def features_by_view(
        self, batch: Batch, pixels: Tensor | None, views: Iterable[View]
    ) -> dict[View, Tensor]:
        """Return features [batch, width] of each view.

        Args:
            batch: Its token ids, and which row shows which picture.
            pixels: Normalised float32 [images, 3, height, width]; None if no view has the image.
            views: Which views.
        """
        wanted = tuple(views)
        image = None if pixels is None else self.encode_image(self.model, pixels)
        image = None if image is None else image[batch.image_index]
        has_text = any(view.has_text for view in wanted)
        text = self.encode_text(self.model, batch) if has_text else None
        return {
            view: self.head(
                image if view.has_image else None,
                text if view.has_text else None,
                image_present=batch.image_present,
                text_present=text_is_present(batch),
            )
            for view in wanted
        }


class FusionHead(nn.Module):
    """Fuses an embedding of the picture and one of the text; learned vectors stand for absent ones.

    Their product is among its inputs, since what only both decide is not in their sum.

    Args:
        width: Of either embedding, and of the result.
        dropout: Probability, of the result.
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
        seen = _or_absent(image, image_present, self.absent_image)
        read = _or_absent(text, text_present, self.absent_text)
        joined = torch.cat([seen, read, seen * read], dim=-1)
        return cast(Tensor, self.dropout(functional.gelu(self.hidden(joined))))


def _or_absent(embedding: Tensor | None, present: Tensor, absent: Tensor) -> Tensor:
    """Return embeddings scaled to entries of about 1, and `absent` where there is nothing."""
    if embedding is None:
        return absent.expand(len(present), -1)
    scaled = functional.normalize(embedding, dim=-1) * embedding.shape[-1] ** 0.5
    return torch.where(present[:, None], scaled, absent.to(scaled.dtype))


def text_is_present(batch: Batch) -> Tensor:
    """Return which rows have a text, bool [batch]: an absent one is a single token."""
    return batch.attention_mask.sum(dim=1) > 1


def _clip_image(backbone: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Return CLIP's projected embedding of pictures, [images, width]."""
    assert isinstance(backbone, CLIPModel)
    pooled = backbone.vision_model(pixel_values=pixels).pooler_output
    return cast(Tensor, backbone.visual_projection(pooled))


def _clip_text(backbone: PreTrainedModel, batch: Batch) -> Tensor:
    """Return CLIP's projected embedding of texts, [batch, width]."""
    assert isinstance(backbone, CLIPModel)
    pooled = backbone.text_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask
    ).pooler_output
    return cast(Tensor, backbone.text_projection(pooled))
