"""Single-stream teachers: ViLT, and VisualBERT with grid features.

Tokens of a withheld modality are dropped where a view has none, and masked in rows without an
image, with equal features up to rounding.
"""

from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViltModel, VisualBertModel

from msd_deploy.data.batch import Batch
from msd_deploy.models.configs import FamilyConfig
from msd_deploy.models.fusion import MASKED_SCORE
from msd_deploy.models.vision import TransformersBackbone, token_shape
from msd_deploy.views import View

_TEXT_TYPE, _IMAGE_TYPE = 0, 1
_VIEWS = tuple(View)


class StreamParts(Protocol):
    """The parts of a stream that differ between families."""

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_images` calls: a vision encoder, if there is one."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels [images, 3, h, w] with the vision encoder."""
        ...

    def embed_image(self, images: Tensor) -> Tensor:
        """Embed encoded images as tokens of the stream [images, tokens, width]."""
        ...

    def fuse(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None, present: Tensor
    ) -> Tensor:
        """Compute the pooled [CLS], [batch, width].

        Args:
            input_ids: int64 [batch, length], [CLS] first.
            attention_mask: int64 [batch, length].
            image: Tokens of each row's image, [batch, tokens, width]; None if no row has one.
            present: bool [batch], which rows have an image.
        """
        ...


class ViltParts(nn.Module):
    """ViLT, whose stream takes patches of pixels.

    The forward of transformers shuffles patches with torch's global generator and interpolates
    positions for images of different sizes; here all images have the configured size.

    Args:
        backbone: The checkpoint's model.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        assert isinstance(backbone, ViltModel)
        self.model = backbone

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Empty: patches are embedded in the stream."""
        return ()

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the pixels unchanged; see `StreamParts`."""
        return pixels

    def embed_image(self, images: Tensor) -> Tensor:
        """Embed patches with their positions; see `StreamParts`."""
        embeddings = self.model.embeddings
        patches = embeddings.patch_embeddings(images).flatten(2).transpose(1, 2)
        # Not len(): torch.export would specialize the batch to the traced size.
        start = embeddings.cls_token.expand(patches.shape[0], -1, -1)
        positioned = torch.cat([start, patches], dim=1) + embeddings.position_embeddings
        token_type = embeddings.token_type_embeddings.weight[_IMAGE_TYPE]
        return cast(Tensor, embeddings.dropout(positioned) + token_type)

    def fuse(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None, present: Tensor
    ) -> Tensor:
        """Compute the pooled [CLS]; see `StreamParts`."""
        embeddings = self.model.embeddings
        states = embeddings.text_embeddings(input_ids=input_ids)
        states = states + embeddings.token_type_embeddings.weight[_TEXT_TYPE]
        attended = attention_mask.to(states.dtype)
        if image is not None:
            states = torch.cat([states, image.to(states.dtype)], dim=1)
            attended = torch.cat([attended, tokens_of(present, image).to(attended.dtype)], dim=1)
        mask = ((1.0 - attended) * MASKED_SCORE)[:, None, None, :]
        states = self.model.encoder(states, attention_mask=mask)[0]
        assert self.model.pooler is not None  # AutoModel builds it
        return cast(Tensor, self.model.pooler(self.model.layernorm(states)))


class VisualBertParts(nn.Module):
    """VisualBERT on the last feature map of a vision backbone instead of detected objects.

    Args:
        backbone: The checkpoint's model.
        vision: The vision backbone.
        image_size: Height and width in pixels.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        vision: TransformersBackbone,
        *,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        assert isinstance(backbone, VisualBertModel)
        self.model = backbone
        self.vision = vision
        tokens, width = token_shape(vision, image_size)
        visual_width = int(backbone.config.visual_embedding_dim)
        self.projection = nn.Linear(width, visual_width)
        # VisualBERT has no positions of objects; without any, the grid would be a set of patches.
        self.places = nn.Parameter(torch.zeros(tokens, visual_width))

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """The vision backbone."""
        return (self.vision,)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Compute grid features [images, tokens, width of the backbone]; see `StreamParts`."""
        return cast(Tensor, self.vision(pixels))

    def embed_image(self, images: Tensor) -> Tensor:
        """Project grid features and add their positions; see `StreamParts`."""
        return cast(Tensor, self.projection(images) + self.places)

    def fuse(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None, present: Tensor
    ) -> Tensor:
        """Compute the pooled [CLS]; see `StreamParts`."""
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            visual_embeds=image,
            visual_attention_mask=None
            if image is None
            else tokens_of(present, image).to(attention_mask.dtype),
        )
        return cast(Tensor, output.pooler_output)


def tokens_of(present: Tensor, image: Tensor) -> Tensor:
    """Expand the mask of rows with an image [batch] to their image tokens [batch, tokens]."""
    return present[:, None].expand(-1, image.shape[1])


class Stream(nn.Module):
    """A checkpoint's single stream, computed per view.

    Args:
        config: Configuration of the teacher.
        parts: The parts of its family.
        width: Width of the pooled [CLS].
    """

    def __init__(
        self, config: FamilyConfig, parts: ViltParts | VisualBertParts, *, width: int
    ) -> None:
        super().__init__()
        self.parts = parts
        self.width = width
        self.dropout = nn.Dropout(config.dropout)

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_rows` calls; empty for VisualBERT, which has a new projection."""
        return () if self.parts.vision_modules else (self.parts,)

    def encode_rows(self, batch: Batch, images: Tensor | None) -> Tensor:
        """Compute the pooled [CLS] of each row and view, [batch, views, width]."""
        pooled = self._pooled_by_view(batch, images, _VIEWS)
        return torch.stack([pooled[view] for view in _VIEWS], dim=1)

    def features_by_view(
        self, batch: Batch, images: Tensor | None, views: Iterable[View]
    ) -> dict[View, Tensor]:
        """Compute features [batch, width] of each view; see `Towers.features_by_view`."""
        if (encoded := batch.encoded_rows) is not None:
            pooled = {view: encoded[:, _VIEWS.index(view)] for view in views}
        else:
            pooled = self._pooled_by_view(batch, images, views)
        return {view: self.dropout(values) for view, values in pooled.items()}

    def _pooled_by_view(
        self, batch: Batch, images: Tensor | None, views: Iterable[View]
    ) -> dict[View, Tensor]:
        image = None if images is None else self.parts.embed_image(images)
        return {view: self._pooled(batch, image, view) for view in views}

    def _pooled(self, batch: Batch, image: Tensor | None, view: View) -> Tensor:
        if view is View.TEXT or image is None:
            return self.parts.fuse(batch.input_ids, batch.attention_mask, None, batch.image_present)
        if view is View.IMAGE and bool(batch.image_present.all()):
            # Once per image, however many rows share it.
            start = batch.input_ids[:1, :1].expand(len(image), -1)
            present = torch.ones_like(start[:, 0], dtype=torch.bool)
            return self.parts.fuse(start, torch.ones_like(start), image, present)[batch.image_index]
        length = None if view.has_text else 1
        return self.parts.fuse(
            batch.input_ids[:, :length],
            batch.attention_mask[:, :length],
            image[batch.image_index],
            batch.image_present,
        )

    def fuse(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, image_present: Tensor
    ) -> Tensor:
        """Compute features [batch, width]; see `FamilyForClassification.fuse`."""
        image = self.parts.embed_image(images)
        pooled = self.parts.fuse(input_ids, attention_mask, image, image_present)
        return cast(Tensor, self.dropout(pooled))
