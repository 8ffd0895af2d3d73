"""FamilyConfig: what a teacher of another family is made of, kept in its config.json."""

from typing import Any

from transformers import PreTrainedConfig

FAMILIES = {"clip": "CLIP", "vilt": "ViLT", "siglip": "SigLIP", "visual_bert": "VisualBERT"}
"""Names of the families, by the model_type of their checkpoints."""


class FamilyConfig(PreTrainedConfig):
    """Configuration of a FamilyForClassification.

    Args:
        family: A key of FAMILIES.
        backbone: Configuration of the family's own model, as its checkpoint states it.
        vision: Configuration of the backbone whose grid features it is shown; None: its own eyes.
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
