"""Augmentation of images: crops, flips, colour jitter and cutout.

Every change is drawn in relative coordinates from the image's number alone. Two models that take
images in different sizes, and a resumed training, get the same changes. Works on the pixels that
models take: a crop is enlarged from those, not from the file's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from msd_deploy.config.augment import Strengths

CHANGES_VERSION = 1
"""Rises whenever equal draws may make other pixels: outputs cached for another are not read."""
_WHITE = 255.0
# ITU-R 601, as torchvision and Pillow weigh colours to a grey.
_GREY = (0.299, 0.587, 0.114)
_DRAWS = 11


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """Changes of each image of a batch; None for a kind that is off.

    Attributes:
        box: float [images, 4], left, top, width and height of the crop, as shares of the image.
        mirrored: bool [images].
        factors: float [images, 3], brightness, contrast and saturation.
        square: float [images, 3], left, top and side of what is painted over, as shares; a side of
            0 is none.
    """

    box: Tensor | None
    mirrored: Tensor | None
    factors: Tensor | None
    square: Tensor | None


class ImageDraws:
    """Draws random changes of images, one form of every image at a time.

    Args:
        strengths: How much of each change.
        count: Number of images.
        seed: Of the draws.
    """

    def __init__(self, strengths: Strengths, count: int, *, seed: tuple[int, ...]) -> None:
        self.strengths, self.count, self.seed = strengths, count, seed
        self._form = -1
        self._uniform: NDArray[np.float32] = np.empty((0, _DRAWS), np.float32)

    def __call__(self, numbers: NDArray[np.int64], form: int) -> ImageChanges:
        """Return the changes of some images, by number, in one of their forms."""
        if form != self._form:
            rng = np.random.default_rng((*self.seed, form))
            self._uniform = rng.random((self.count, _DRAWS), dtype=np.float32)
            self._form = form
        return changes_of(torch.from_numpy(self._uniform[numbers]), self.strengths)


def changes_of(uniform: Tensor, strengths: Strengths) -> ImageChanges:
    """Turn draws from [0, 1), float [images, 11], into changes.

    Crops are those of torchvision's RandomResizedCrop (area uniform, aspect uniform in its
    logarithm), but for the aspect's range, which is narrowed to what fits into the image: no
    second draw is needed, and no crop has less than the least area.
    """
    area, aspect, left, top, mirror, *colours, cut, cut_left, cut_top = uniform.unbind(dim=1)
    box = None
    if strengths.crops_or_flips:
        area = strengths.crop_area + (1 - strengths.crop_area) * area
        widest = (-area.log()).clamp(max=math.log(strengths.crop_aspect))
        stretch = ((aspect - 0.5) * widest).exp()
        width, height = area.sqrt() * stretch, area.sqrt() / stretch
        box = torch.stack([left * (1 - width), top * (1 - height), width, height], dim=1)
    limits = torch.tensor([strengths.brightness, strengths.contrast, strengths.saturation])
    side = strengths.cutout * (cut < strengths.cutout_share)
    return ImageChanges(
        box,
        mirror < strengths.flip if strengths.flip > 0 else None,
        1 + limits * (2 * torch.stack(colours, dim=1) - 1) if strengths.jitters_colors else None,
        torch.stack([cut_left * (1 - side), cut_top * (1 - side), side], dim=1)
        if strengths.has_cutout
        else None,
    )


def change_images(pixels: Tensor, changes: ImageChanges) -> Tensor:
    """Crop and mirror, recolour, paint over: in this order.

    Args:
        pixels: uint8 [images, 3, height, width].
        changes: Of these images.

    Returns:
        uint8, of the same shape.
    """
    values = pixels.float()
    if changes.box is not None:
        values = _crop(values, changes.box.to(pixels.device), changes.mirrored)
    if changes.factors is not None:
        values = _recolour(values, changes.factors.to(pixels.device))
    if changes.square is not None:
        values = _paint_over(values, changes.square.to(pixels.device))
    return values.round_().to(torch.uint8)


def _crop(values: Tensor, box: Tensor, mirrored: Tensor | None) -> Tensor:
    """Enlarge boxes to the whole image, bilinearly."""
    left, top, width, height = box.unbind(dim=1)
    if mirrored is not None:
        mirrored = mirrored.to(box.device)
        left = torch.where(mirrored, left + width, left)
        width = torch.where(mirrored, -width, width)
    pixels_high, pixels_wide = values.shape[2:]
    across = left[:, None] + width[:, None] * _middles(pixels_wide, box.device)
    down = top[:, None] + height[:, None] * _middles(pixels_high, box.device)
    grid = box.new_empty(len(box), pixels_high, pixels_wide, 2)
    grid[..., 0], grid[..., 1] = (2 * across - 1)[:, None, :], (2 * down - 1)[:, :, None]
    return functional.grid_sample(
        values, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _recolour(values: Tensor, factors: Tensor) -> Tensor:
    """Apply brightness, contrast and saturation as one matrix and one offset an image.

    Equal to torchvision's ColorJitter in any order of the three, but that values are cut to the
    range once, at the end.
    """
    images, channels, height, width = values.shape
    brightness, contrast, saturation = factors.unbind(dim=1)
    grey = values.new_tensor(_GREY)
    mixing = torch.eye(channels, device=values.device) - grey  # [to, from]: a colour less its grey
    matrices = (brightness * contrast)[:, None, None] * (
        grey.expand(channels, channels) + saturation[:, None, None] * mixing
    )
    mean_grey = values.mean(dim=(2, 3)) @ grey
    offsets = ((1 - contrast) * brightness * mean_grey)[:, None, None]
    flat = values.reshape(images, channels, height * width)
    return torch.baddbmm(offsets, matrices, flat).clamp_(0, _WHITE).view_as(values)


def _paint_over(values: Tensor, square: Tensor) -> Tensor:
    """Paint squares in the image's mean colour."""
    height, width = values.shape[2:]
    left, top, side = square.unbind(dim=1)
    columns = _is_within(width, left, side)
    rows = _is_within(height, top, side)
    covered = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(covered, values.mean(dim=(2, 3), keepdim=True), values)


def _is_within(pixels: int, start: Tensor, length: Tensor) -> Tensor:
    """Return whose middles lie in a part of a side, bool [images, pixels]."""
    middles = _middles(pixels, start.device)
    return (middles >= start[:, None]) & (middles < (start + length)[:, None])


def _middles(pixels: int, device: torch.device) -> Tensor:
    """Return where the middles of a side's pixels lie, as shares of it."""
    return (torch.arange(pixels, device=device) + 0.5) / pixels
