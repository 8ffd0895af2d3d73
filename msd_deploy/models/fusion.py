"""FusionForClassification: a vision encoder and a BERT-style single stream over text and image.

The sequence is [CLS] text [SEP] image tokens. Tokens of a withheld modality are dropped from the
sequence where a whole batch lacks them, and masked otherwise, with equal logits up to rounding.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from msd_deploy.data.batch import Batch
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.vision import (
    TransformersBackbone,
    build_vision_encoder,
    recompute_activations,
    token_shape,
)
from msd_deploy.views import View

# Added to the attention scores of absent tokens. exp(-1e4) is 0 in float32 and float16; unlike
# float32's minimum, -1e4 is finite in float16 (apple/coremltools PR 2669: NaN otherwise).
MASKED_SCORE = -1e4
_TEXT_TYPE, _IMAGE_TYPE = 0, 1


class _Attention(nn.Module):
    """Multi-head attention from basic operators: exporters expand the fused one into more nodes."""

    def __init__(self, config: FusionConfig, *, of_first: bool) -> None:
        super().__init__()
        self.of_first = of_first
        self.heads = config.num_attention_heads
        width = config.hidden_size
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.width = width
        self.scale = (width // self.heads) ** -0.5

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Attend from queries to context [batch * tokens, width].

        Queries are of all tokens, or [batch, width] of the first one. The mask,
        [batch, 1, 1, tokens], is added to the scores.
        """
        key, value = self.key_value(context).chunk(2, dim=1)
        tokens = mask.shape[-1]
        key, value = self._by_head(key, tokens), self._by_head(value, tokens)
        query = self._by_head(self.query(queries), 1 if self.of_first else tokens)
        scores = (query * self.scale) @ key.transpose(2, 3) + mask
        attended = torch.softmax(scores, dim=-1) @ value
        return cast(Tensor, self.output(attended.transpose(1, 2).reshape(-1, self.width)))

    def _by_head(self, states: Tensor, tokens: int) -> Tensor:
        """Reshape [batch * tokens, width] to [batch, heads, tokens, width of a head]."""
        return states.view(-1, tokens, self.heads, self.width // self.heads).transpose(1, 2)


class FusionLayer(nn.Module):
    """A transformer layer, with norms before each sublayer, or after it as in BERT.

    With `is_last` only the first position ([CLS]) is computed, the only one that the classifier
    uses: the same logits for a fraction of the work.
    """

    def __init__(self, config: FusionConfig, *, is_last: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.is_last, self.norm_first = is_last, config.norm_first
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = _Attention(config, of_first=is_last)
        self.feed_forward_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Compute the next states [batch * tokens, width], or [batch, width] in the last layer."""
        context = self.attention_norm(states) if self.norm_first else states
        queries = self._first(context, mask) if self.is_last else context
        states = self._first(states, mask) if self.is_last else states
        states = states + self.dropout(self.attention(queries, context, mask))
        if not self.norm_first:
            states = self.attention_norm(states)
            fed = states + self.dropout(self.feed_forward(states))
            return cast(Tensor, self.feed_forward_norm(fed))
        fed = self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        return states + cast(Tensor, fed)

    def _first(self, states: Tensor, mask: Tensor) -> Tensor:
        """Select the states [batch, width] of the first token."""
        return states.view(-1, mask.shape[-1], states.shape[-1])[:, 0]


class FusionForClassification(ViewClassifier):
    """A vision-and-language classifier; see the module docstring."""

    config_class = FusionConfig
    base_model_prefix = "fusion"
    main_input_name = "pixel_values"
    config: FusionConfig

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        size = (config.image_size[0], config.image_size[1])
        self.vision = build_vision_encoder(config.vision)
        image_tokens, image_width = token_shape(self.vision, size)
        self.image_projection = nn.Linear(image_width, width)
        self.image_positions = nn.Embedding(image_tokens, width)
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.text_positions = nn.Embedding(config.max_text_length, width)
        self.token_types = nn.Embedding(2, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            FusionLayer(config, is_last=index == config.num_hidden_layers - 1)
            for index in range(config.num_hidden_layers)
        )
        # Norm of the classifier's input, or of the embeddings if norms come after sublayers.
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.recomputes = False
        assert config.id2label is not None  # PreTrainedConfig fills it
        self.classifier = nn.Linear(width, len(config.id2label))
        self.set_channels(config.image_mean, config.image_std)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    @property
    def text_modules(self) -> tuple[nn.Module, ...]:
        """Modules that a text checkpoint's layers are loaded into; see `load_text_layers`."""
        return (
            self.layers,
            self.norm,
            self.word_embeddings,
            self.text_positions,
            self.token_types,
        )

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """The vision encoder; see `ViewClassifier`."""
        return (self.vision,)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images as tokens [images, tokens, width]; see `ViewClassifier`."""
        return cast(Tensor, self.vision(self.normalised(pixel_values)))

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        """Embed images as tokens of the stream.

        Args:
            pixel_values: [images, 3, height, width], any dtype, values 0..255.

        Returns:
            float32 [images, image tokens, hidden_size].
        """
        return self.project_image(self.encode_images(pixel_values))

    def project_image(self, tokens: Tensor) -> Tensor:
        """Project encoded images into the stream and add position and type embeddings."""
        position = self.image_positions.weight + self.token_types.weight[_IMAGE_TYPE]
        return cast(Tensor, self.image_projection(tokens) + position)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Embed word pieces int [batch, length] as float32 [batch, length, hidden_size]."""
        positions = self.text_positions.weight[: input_ids.shape[1]]
        position = positions + self.token_types.weight[_TEXT_TYPE]
        return cast(Tensor, self.word_embeddings(input_ids) + position)

    def fuse(
        self,
        text: Tensor,
        attention_mask: Tensor,
        image: Tensor | None = None,
        image_present: Tensor | None = None,
    ) -> Tensor:
        """Fuse text and image tokens into the classifier's input.

        Args:
            text: float32 [batch, length, hidden_size].
            attention_mask: [batch, length], 1 for tokens.
            image: float32 [batch, image tokens, hidden_size]; None if no row has an image.
            image_present: [batch], 1 where a row has an image; None if all have one.

        Returns:
            Features, float32 [batch, hidden_size].
        """
        present = attention_mask.to(text.dtype)
        states = text
        if image is not None:
            image_mask = torch.ones(image.shape[1], dtype=text.dtype, device=text.device)
            if image_present is None:
                image_mask = image_mask.expand(len(image), -1)
            else:
                image_mask = image_mask * image_present.to(text.dtype)[:, None]
            present = torch.cat([present, image_mask], dim=1)
            states = torch.cat([text, image], dim=1)
        mask = ((1.0 - present) * MASKED_SCORE)[:, None, None, :]
        # Two dimensions: exporters then write a linear layer as one Gemm instead of MatMul and Add.
        norm_first = self.config.norm_first
        states = states if norm_first else self.norm(states)
        states = self.dropout(states).reshape(-1, states.shape[-1])
        for layer in self.layers:
            if self.recomputes and self.training:
                states = checkpoint(layer, states, mask, use_reentrant=False)
            else:
                states = layer(states, mask)
        return cast(Tensor, self.norm(states) if norm_first else states)

    def checkpoint_activations(self) -> None:
        """Enable activation checkpointing of the stream and of a transformers vision backbone.

        A convolutional encoder keeps its activations, since recomputing them would update its
        BatchNorm statistics twice.
        """
        self.recomputes = True
        if isinstance(self.vision, TransformersBackbone):
            recompute_activations(self.vision.backbone)

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_present: Tensor | None = None,
        image_index: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify rows of an image, a text or both.

        Args:
            pixel_values: uint8 or float [images, 3, height, width], 0..255.
            input_ids: int [batch, length].
            attention_mask: [batch, length]; [CLS] alone where the text is absent.
            image_present: [batch]; None if every row has an image.
            image_index: int [batch], the image of each row; None if row i has image i.
            labels: int64 [batch], or float [batch, classes] for a multi-label problem.

        Returns:
            `logits` [batch, classes], and `loss` (mean, nats) if labels are given.
        """
        image = self.embed_image(pixel_values)
        if image_index is not None:
            image = image[image_index]
        features = self.fuse(self.embed_text(input_ids), attention_mask, image, image_present)
        logits = self.classifier(features)
        loss = None if labels is None else _label_loss(logits, labels)
        return SequenceClassifierOutput(loss=cast(torch.FloatTensor | None, loss), logits=logits)

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute the classifier's input [batch, hidden_size] of each view.

        Each image is encoded once, and its image view computed once for all rows that share it.
        """
        views = list(views)
        text = self.embed_text(batch.input_ids)
        needs_image = any(view.has_image for view in views)
        image = self.project_image(self.encoded_images(batch)) if needs_image else None
        return {view: self._features_of_view(batch, view, text, image) for view in views}

    def _features_of_view(
        self, batch: Batch, view: View, text: Tensor, image: Tensor | None
    ) -> Tensor:
        if view is View.TEXT or image is None:
            return self.fuse(text, batch.attention_mask)
        if view is View.IMAGE and bool(batch.image_present.all()):
            start = text[:1, :1].expand(len(image), -1, -1)
            ones = torch.ones_like(batch.attention_mask[:1, :1]).expand(len(image), -1)
            return self.fuse(start, ones, image)[batch.image_index]
        length = None if view.has_text else 1
        return self.fuse(
            text[:, :length],
            batch.attention_mask[:, :length],
            image[batch.image_index],
            None if bool(batch.image_present.all()) else batch.image_present,
        )


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return functional.binary_cross_entropy_with_logits(logits, labels)
    return functional.cross_entropy(logits, labels)


AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
AutoModel.register(FusionConfig, FusionForClassification, exist_ok=True)
AutoModelForSequenceClassification.register(FusionConfig, FusionForClassification, exist_ok=True)
