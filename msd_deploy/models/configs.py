"""FusionConfig and FamilyConfig, the configurations that transformers saves in config.json."""

import re
from collections.abc import Iterable
from typing import Any, Literal

import transformers
from transformers import PreTrainedConfig

from msd_deploy.errors import ConfigError

# Keys that PreTrainedConfig accepts without having an attribute of that name.
_KNOWN_TO_TRANSFORMERS = {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "quantization_config",
    "tie_last_hidden_states",
    "tie_word_embeddings",
}


class FusionConfig(PreTrainedConfig):
    """Configuration of a FusionForClassification.

    Args:
        vision: The vision encoder; see `build_vision_encoder`.
        image_size: Height and width in pixels.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
        vocab_size: Number of word pieces.
        max_text_length: Maximum number of text tokens.
        hidden_size: Width of the stream.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Number of attention heads per layer.
        intermediate_size: Width of the feed-forward layers.
        dropout: Dropout probability, on embeddings and after each sublayer.
        initializer_range: Standard deviation of randomly initialized embeddings.
        norm_first: Whether norms come before each sublayer and at the end; else after each sublayer
            and after the embeddings, as in BERT, for a stream of pretrained layers.
        layer_norm_eps: Epsilon of every LayerNorm.
        kwargs: Entries of every transformers configuration, for example `num_labels`.

    Raises:
        ConfigError: A key is unknown to this class and to transformers, or norm_first is not a
            bool; names the key.
    """

    model_type = "msd_fusion"

    def __init__(
        self,
        vision: dict[str, object] | None = None,
        image_size: tuple[int, int] = (48, 48),
        image_mean: tuple[float, float, float] = (127.5, 127.5, 127.5),
        image_std: tuple[float, float, float] = (127.5, 127.5, 127.5),
        vocab_size: int = 1000,
        max_text_length: int = 32,
        hidden_size: int = 48,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 96,
        dropout: float = 0.0,
        initializer_range: float = 0.15,
        norm_first: bool = True,
        layer_norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        if not _is_of_newer_transformers(kwargs.get("transformers_version")):
            _refuse_unknown(kwargs)
        if not isinstance(norm_first, bool):
            raise ConfigError(
                f"must be true or false, not {norm_first!r}",
                where="norm_first",
                fix="Correct it in the FusionConfig",
            )
        self.vision = vision or {"kind": "conv_stem", "channels": [16, 32, 48]}
        self.image_size = list(image_size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.vocab_size = vocab_size
        self.max_text_length = max_text_length
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.initializer_range = initializer_range
        self.norm_first = norm_first
        self.layer_norm_eps = layer_norm_eps
        super().__init__(**kwargs)


def _is_of_newer_transformers(version: object) -> bool:
    """Return whether a config.json may have keys that are unknown to the installed transformers."""
    return _release(str(version)) > _release(transformers.__version__)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def _refuse_unknown(keys: Iterable[str]) -> None:
    """Reject keys that transformers would silently keep as unused attributes."""
    for key in keys:
        is_known = hasattr(PreTrainedConfig, key) or key in _KNOWN_TO_TRANSFORMERS
        if not is_known and not key.startswith("_"):
            raise ConfigError(
                "unknown key of a FusionConfig",
                where=key,
                fix="Correct its spelling, or remove it",
            )


Head = Literal["fusion", "cosine"]

FAMILIES = {"clip": "CLIP", "vilt": "ViLT", "siglip": "SigLIP", "visual_bert": "VisualBERT"}
"""Name of each family, by the model_type of its checkpoints."""


class FamilyConfig(PreTrainedConfig):
    """Configuration of a FamilyForClassification.

    Args:
        family: A key of FAMILIES.
        backbone: Configuration of the family's own model, from its checkpoint.
        vision: Configuration of the vision backbone of grid features; None if the family has its
            own vision encoder.
        image_size: Height and width in pixels.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
        text_padding: Id of the padding token.
        dropout: Dropout probability before the classifier.
        head: How CLIP and SigLIP combine both embeddings: `FusionHead` or `CosineHead`.
        kwargs: Entries of every transformers configuration, for example `num_labels`.
    """

    model_type = "msd_family"

    def __init__(
        self,
        family: str = "clip",
        backbone: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        image_size: tuple[int, int] = (224, 224),
        image_mean: tuple[float, float, float] = (127.5, 127.5, 127.5),
        image_std: tuple[float, float, float] = (127.5, 127.5, 127.5),
        text_padding: int = 0,
        dropout: float = 0.1,
        head: Head = "fusion",
        **kwargs: Any,
    ) -> None:
        self.family = family
        self.backbone = backbone or {}
        self.vision = vision
        self.image_size = list(image_size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.text_padding = text_padding
        self.dropout = dropout
        self.head = head
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; without the usual head, which earlier versions do not state."""
        values: dict[str, Any] = super().to_dict()
        if self.head == "fusion":
            del values["head"]
        return values


class SpecialistConfig(PreTrainedConfig):
    """Configuration of a SpecialistForClassification.

    Args:
        view: "image" or "text".
        encoder: Configuration of the encoder: see `build_vision_encoder`, or that of a transformers
            text model.
        image_size: Height and width in pixels.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
        max_text_length: Maximum number of text tokens.
        dropout: Dropout probability before the classifier.
        kwargs: Entries of every transformers configuration, for example `num_labels`.
    """

    model_type = "msd_specialist"

    def __init__(
        self,
        view: str = "image",
        encoder: dict[str, Any] | None = None,
        image_size: tuple[int, int] = (48, 48),
        image_mean: tuple[float, float, float] = (127.5, 127.5, 127.5),
        image_std: tuple[float, float, float] = (127.5, 127.5, 127.5),
        max_text_length: int = 32,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.view = view
        self.encoder = encoder or {"kind": "conv_stem", "channels": [16, 32, 48]}
        self.image_size = list(image_size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.max_text_length = max_text_length
        self.dropout = dropout
        super().__init__(**kwargs)


OUR_TYPES = (FusionConfig.model_type, FamilyConfig.model_type, SpecialistConfig.model_type)
"""Every model_type of a model folder; other folders are published checkpoints."""
