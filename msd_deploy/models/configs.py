"""FusionConfig and FamilyConfig, kept by transformers in config.json.

FamilyConfig: what a teacher of another family is made of, kept in its config.json.
"""

import re
from collections.abc import Iterable
from typing import Any

import transformers
from transformers import PreTrainedConfig

from msd_deploy.errors import ConfigError

# What PreTrainedConfig takes or keeps without having an attribute of that name.
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
        vocab_size: Word pieces.
        max_text_length: Most text tokens.
        hidden_size: Width of the stream.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Heads per layer.
        intermediate_size: Width of the feed-forward part.
        dropout: Probability, on embeddings and after each sublayer.
        initializer_range: Standard deviation of fresh embeddings.
        norm_first: Whether a sublayer's norm comes before it (and one at the end), or after it and
            after the embeddings, as in BERT: for a stream that starts from one.
        layer_norm_eps: Of every norm.
        kwargs: What every configuration of transformers has, for example `num_labels`.

    Raises:
        ConfigError: Names a key that neither this class nor transformers knows.
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


def _is_of_newer_transformers(stated: object) -> bool:
    """Return whether a config.json may hold keys that the installed transformers does not know."""
    return _release(str(stated)) > _release(transformers.__version__)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def _refuse_unknown(keys: Iterable[str]) -> None:
    """Refuse what transformers would silently keep as an attribute that nothing reads."""
    for key in keys:
        is_known = hasattr(PreTrainedConfig, key) or key in _KNOWN_TO_TRANSFORMERS
        if not is_known and not key.startswith("_"):
            raise ConfigError(
                "unknown key of a FusionConfig",
                where=key,
                fix="Correct its spelling, or leave it out",
            )


FAMILIES = {"clip": "CLIP", "vilt": "ViLT", "siglip": "SigLIP", "visual_bert": "VisualBERT"}
"""Names of the families, by the model_type of their checkpoints."""


class FamilyConfig(PreTrainedConfig):
    """Configuration of a FamilyForClassification.

    Args:
        family: A key of FAMILIES.
        backbone: Configuration of the family's own model, as its checkpoint states it.
        vision: Configuration of the backbone of its grid features; None if it encodes images.
        image_size: Height and width in pixels.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
        text_padding: Identifier of the padding token.
        dropout: Probability, before the classifier.
        kwargs: What every configuration of transformers has, for example `num_labels`.
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
        super().__init__(**kwargs)
