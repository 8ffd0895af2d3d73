"""The three views of an example: both modalities, the image alone, the text alone."""

from enum import StrEnum


class View(StrEnum):
    """What a model is shown of an example; a withheld modality's tokens are absent."""

    MULTIMODAL = "multimodal"
    IMAGE = "image"
    TEXT = "text"

    @property
    def has_image(self) -> bool:
        """Whether the image is shown."""
        return self is not View.TEXT

    @property
    def has_text(self) -> bool:
        """Whether the text is shown."""
        return self is not View.IMAGE
