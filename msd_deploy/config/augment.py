"""Settings of data augmentation. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from msd_deploy.config.setting import SEED, SHARE, Option, Setting, check_ranges
from msd_deploy.errors import ConfigError

Preset = Literal["none", "light", "strong"]


@dataclass(frozen=True, slots=True)
class Strengths:
    """Strength of each augmentation, as in `AugmentConfig`; the defaults change nothing."""

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
    def crops_or_flips(self) -> bool:
        """Whether images are cropped or flipped."""
        return self.crop_area < 1 or self.flip > 0

    @property
    def jitters_colors(self) -> bool:
        """Whether colours change."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def has_cutout(self) -> bool:
        """Whether squares are erased."""
        return self.cutout > 0 and self.cutout_share > 0

    @property
    def changes_images(self) -> bool:
        """Whether any image changes."""
        return self.crops_or_flips or self.jitters_colors or self.has_cutout


# None flips: text would be mirrored, and "left of" would become false.
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
    """Augmentation of training images and texts; None: the value of the preset."""

    preset: Annotated[
        Preset,
        Setting(
            "Augmentation of training images and texts, resampled every epoch: none, light or"
            " strong. light: random crops of at least 60 % of the area; brightness, contrast and"
            " saturation vary by up to 20 %. strong: crops of at least 40 %, colors vary by up to"
            " 40 %, a square is erased in half of the images, 10 % of the words are dropped."
            " No preset flips images."
        ),
        Option("--augment", "Data", metavar="PRESET"),
    ] = "none"
    crop_area: Annotated[
        float | None,
        Setting(
            "Smallest share of an image's area that a random crop keeps; 1: no crop.", (0.05, 1)
        ),
    ] = None
    crop_aspect: Annotated[
        float | None,
        Setting("Largest change of a crop's aspect ratio, in either direction.", (1, 4)),
    ] = None
    flip: Annotated[float | None, Setting("Share of images that are mirrored.", SHARE)] = None
    brightness: Annotated[
        float | None, Setting("Colors are multiplied by 1 - x to 1 + x.", SHARE)
    ] = None
    contrast: Annotated[
        float | None,
        Setting("Differences from the image's mean gray are multiplied by 1 - x to 1 + x.", SHARE),
    ] = None
    saturation: Annotated[
        float | None,
        Setting("Differences from each pixel's gray are multiplied by 1 - x to 1 + x.", SHARE),
    ] = None
    cutout: Annotated[
        float | None,
        Setting(
            "Side of a square that is filled with the image's mean color, as a share of the image's"
            " side; 0: none.",
            (0, 0.9),
        ),
    ] = None
    cutout_share: Annotated[
        float | None, Setting("Share of images that get such a square.", SHARE)
    ] = None
    word_dropout: Annotated[
        float | None,
        Setting("Share of a text's words that are dropped; at least one is kept.", (0, 0.9)),
    ] = None
    mixup: Annotated[
        float,
        Setting(
            "`msd teacher` only: mixup of pairs of images with weights from Beta(x, x); 0: none.",
            (0, 10),
        ),
    ] = 0.0
    views_per_picture: Annotated[
        int,
        Setting(
            "Augmented versions of each image that the teacher predicts for; epochs use them in"
            " turn. 0: it predicts for the original image, and each epoch is augmented anew.",
            (0, 1000),
        ),
    ] = 0
    seed: Annotated[
        int,
        Setting(
            "Random seed of augmentation, combined with the run's; on its own that of"
            " views_per_picture.",
            SEED,
        ),
    ] = 0

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
        if self.views_per_picture and not self.strengths().changes_images:
            raise ConfigError(
                "has no effect, as no setting changes images",
                where="augment.views_per_picture",
                fix="Use --augment light or strong, or set a strength",
            )

    def strengths(self) -> Strengths:
        """Return all strengths, those of the preset where a field is None."""
        values = {item.name: getattr(self, item.name) for item in fields(Strengths)}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(_PRESETS[self.preset], **given)
