"""The three views of an example: both modalities, the image alone, the text alone."""

from enum import StrEnum


class View(StrEnum):
    """Which modalities of an example a model receives; tokens of the other one are absent."""

    MULTIMODAL = "multimodal"
    IMAGE = "image"
    TEXT = "text"

    @property
    def has_image(self) -> bool:
        """Whether the view includes the image."""
        return self is not View.TEXT

    @property
    def has_text(self) -> bool:
        """Whether the view includes the text."""
        return self is not View.IMAGE
