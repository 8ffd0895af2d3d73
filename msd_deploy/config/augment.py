"""Settings of how training pictures and texts are changed. Torch-free, as `config` is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from msd_deploy.config.parsing import check_range
from msd_deploy.errors import ConfigError

Preset = Literal["none", "light", "strong"]


@dataclass(frozen=True, slots=True)
class Strengths:
    """How much of each change; see `AugmentConfig`. As it is by itself, nothing is changed."""

    crop_area: float = 1.0
    crop_aspect: float = 4 / 3
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0
    cutout_share: float = 0.5
    word_dropout: float = 0.0

    @property
    def moves_pixels(self) -> bool:
        """Whether pictures are cropped or mirrored."""
        return self.crop_area < 1 or self.flip > 0

    @property
    def shifts_colours(self) -> bool:
        """Whether colours change."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def erases(self) -> bool:
        """Whether squares are painted over."""
        return self.cutout > 0 and self.cutout_share > 0

    @property
    def changes_pictures(self) -> bool:
        """Whether any picture changes."""
        return self.moves_pixels or self.shifts_colours or self.erases


# None flips: a mirrored text is no text, and "left of" becomes false.
_PRESETS: Mapping[Preset, Strengths] = {
    "none": Strengths(),
    "light": Strengths(crop_area=0.6, brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Strengths(
        crop_area=0.4,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        cutout=0.25,
        word_dropout=0.1,
    ),
}


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How training pictures and texts are changed; what is None is as the preset has it."""

    preset: Preset = "none"
    """none changes nothing, light crops and shifts colours, strong also erases and drops words."""
    crop_area: float | None = None
    """Least share of a picture's area that a crop keeps; 1: no crop."""
    crop_aspect: float | None = None
    """Most that a crop is stretched, width to height or height to width."""
    flip: float | None = None
    """Share of pictures that are mirrored; 0 in every preset, as pictures may hold text."""
    brightness: float | None = None
    """Colours are multiplied by 1 - this to 1 + this."""
    contrast: float | None = None
    """Distances from the picture's mean grey are multiplied by 1 - this to 1 + this."""
    saturation: float | None = None
    """Distances from each pixel's grey are multiplied by 1 - this to 1 + this."""
    cutout: float | None = None
    """Side of a square painted in the picture's mean colour, as a share of its side; 0: none."""
    cutout_share: float | None = None
    """Share of pictures that have such a square."""
    word_dropout: float | None = None
    """Share of a text's words that are left out; one always stays."""
    mixup: float = 0.0
    """`msd teacher` only: pictures are mixed in pairs, by shares from Beta(this, this); 0: none."""
    views_per_picture: int = 0
    """How many changed forms of each picture the teacher answers for, which then take turns by
    pass; 0: it answers for the unchanged picture, and every pass shows new changes."""
    seed: int = 0
    """Seed of the changes, with the run's own; alone that of the forms of views_per_picture."""

    def __post_init__(self) -> None:
        check_range("augment.crop_area", self.crop_area, 0.05, 1.0)
        check_range("augment.crop_aspect", self.crop_aspect, 1.0, 4.0)
        for name in ("flip", "brightness", "contrast", "saturation", "cutout_share"):
            check_range(f"augment.{name}", getattr(self, name), 0.0, 1.0)
        check_range("augment.cutout", self.cutout, 0.0, 0.9)
        check_range("augment.word_dropout", self.word_dropout, 0.0, 0.9)
        check_range("augment.mixup", self.mixup, 0.0, 10.0)
        check_range("augment.views_per_picture", self.views_per_picture, 0, 1000)
        check_range("augment.seed", self.seed, 0, 2**31 - 1)
        if self.views_per_picture and not self.strengths().changes_pictures:
            raise ConfigError(
                "all forms of a picture would be the same, as no setting changes pictures",
                where="augment.views_per_picture",
                fix="Use --augment light or strong, or set a strength",
            )

    def strengths(self) -> Strengths:
        """Return every strength, the preset's where none is stated."""
        stated = {item.name: getattr(self, item.name) for item in fields(Strengths)}
        given = {name: value for name, value in stated.items() if value is not None}
        return replace(_PRESETS[self.preset], **given)
