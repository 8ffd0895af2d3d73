"""Resize an image to a model's square, defined to the last bit (docs/preprocessing.md, step 5).

Ordinary images go through Pillow, which is many times faster. Shapes that Pillow cannot afford are
resized by an implementation in integers with the same bits: Pillow scales the whole image before it
is cut and keeps 16 bytes of weights per pixel of a side, so that a line of 60,000,000 pixels costs
gigabytes, or overflows.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PixelArray = NDArray[np.uint8]

WHITE = 255
MAX_PIXELS = 89_478_485
"""The default limit of an image: Pillow's own, of which RGB takes up 358 MB."""
# Pillow keeps 16 bytes of weights per pixel of a side: 16 MB here.
_LONGEST_ORDINARY_SIDE = 1_000_000
# Of the scaled image, before it is cut; its other side has at most 1024 pixels: 268 MB here.
_LONGEST_ORDINARY_TARGET = 65_535
_FRACTION_BITS = 22
# Pixels widened to int64 at a time: 24 MB.
_BLOCK_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class SidePass:
    """The part of a resize along one side.

    Attributes:
        size: Pixels before.
        target: Pixels of the whole scaled side.
        window: The requested scaled pixels.
    """

    size: int
    target: int
    window: range

    @property
    def is_ordinary(self) -> bool:
        """Whether Pillow resizes it at a reasonable cost."""
        return self.size <= _LONGEST_ORDINARY_SIDE and self.target <= _LONGEST_ORDINARY_TARGET

    def source(self) -> slice:
        """Return the pixels that the window is made of."""
        if self.size == self.target:
            return slice(self.window.start, self.window.stop)
        return slice(self._reach(self.window[0])[0], self._reach(self.window[-1])[1])

    def apply(self, pixels: PixelArray) -> PixelArray:
        """Resize along the first axis.

        Args:
            pixels: uint8 [source, others, 3], cut to `source`.

        Returns:
            uint8 [window, others, 3].
        """
        if self.size == self.target:
            return pixels
        start, others = self.source().start, pixels.shape[1]
        result = np.empty((len(self.window), others, 3), np.uint8)
        for row, position in enumerate(self.window):
            first, weights = self._weights(position)
            section = pixels[first - start : first - start + len(weights)]
            step = max(1, _BLOCK_PIXELS // len(weights))
            for at in range(0, others, step):
                block = section[:, at : at + step].astype(np.int64)
                total = np.tensordot(weights, block, 1) + (1 << (_FRACTION_BITS - 1))
                result[row, at : at + step] = np.clip(total >> _FRACTION_BITS, 0, 255)
        return result

    def _reach(self, position: int) -> tuple[int, int]:
        """Return the first pixel that counts for a scaled one, and the end of them."""
        scale = self.size / self.target
        centre, support = (position + 0.5) * scale, max(1.0, scale)
        return max(0, int(centre - support + 0.5)), min(self.size, int(centre + support + 0.5))

    def _weights(self, position: int) -> tuple[int, NDArray[np.int64]]:
        """Return the first pixel that counts, and the weights from it on, in 22-bit fixed point."""
        scale = self.size / self.target
        first, last = self._reach(position)
        distance = np.arange(first, last) + 0.5 - (position + 0.5) * scale
        weights = np.maximum(0.0, 1.0 - np.abs(distance / max(1.0, scale)))
        weights /= weights.sum()
        return first, np.floor(weights * (1 << _FRACTION_BITS) + 0.5).astype(np.int64)


def resize_window(pixels: PixelArray, *, horizontal: SidePass, vertical: SidePass) -> PixelArray:
    """Compute a window of a scaled image, horizontally first, and no other pixels.

    Args:
        pixels: uint8 [vertical.size, horizontal.size, 3].
        horizontal: Along a row.
        vertical: Along a column.

    Returns:
        uint8 [vertical window, horizontal window, 3].
    """
    columns = pixels[vertical.source(), horizontal.source()].swapaxes(0, 1)
    return vertical.apply(horizontal.apply(columns).swapaxes(0, 1))


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an image becomes a model's input.

    Attributes:
        size: Height and width of the result in pixels.
        mode: fit shows the whole image, centred and padded with white; crop fills the square
            and cuts the longer side's ends equally.
        max_pixels: The most pixels of an image that is decoded. It changes no pixel of the others.
    """

    size: tuple[int, int]
    mode: Literal["fit", "crop"] = "fit"
    max_pixels: int = field(default=MAX_PIXELS, compare=False)


def resize_to_spec(image: Image.Image, spec: ImageSpec) -> PixelArray:
    """Resize an RGB image to the model's square.

    Interpolation is Pillow's BILINEAR, which is antialiased: per axis (horizontal first) a triangle
    of half-width max(1, scale), its weights normalised and rounded to 22-bit fixed point, each pass
    rounded to uint8. Scaled sides are rounded half up in integers.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = spec.size
    scaled_width, scaled_height = _scaled_size(image.width, image.height, spec)
    across, down = _wanted(scaled_width, width), _wanted(scaled_height, height)
    horizontal = SidePass(image.width, scaled_width, across)
    vertical = SidePass(image.height, scaled_height, down)
    if horizontal.is_ordinary and vertical.is_ordinary:
        scaled = _resize_whole(image, scaled_width, scaled_height)
        pixels = scaled[down.start : down.stop, across.start : across.stop]
    else:
        pixels = resize_window(np.asarray(image), horizontal=horizontal, vertical=vertical)
    if pixels.shape == (height, width, 3):
        return np.ascontiguousarray(pixels)
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    top, left = (height - len(down)) // 2, (width - len(across)) // 2
    canvas[top : top + len(down), left : left + len(across)] = pixels
    return canvas


def _wanted(scaled: int, side: int) -> range:
    """Return the pixels of a scaled side that the model takes: its middle if it is too long."""
    first = max(0, (scaled - side) // 2)
    return range(first, first + min(scaled, side))


def _resize_whole(image: Image.Image, width: int, height: int) -> PixelArray:
    # One axis a call: asked for both, Pillow 13 begins with the vertical one for tall images.
    for step in ((width, image.height), (width, height)):
        if step != image.size:
            image = image.resize(step, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _scaled_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """Return width and height of the scaled image, at least one pixel each."""
    target_height, target_width = spec.size
    wider = width * target_height > height * target_width
    choose_width: bool = wider if spec.mode == "fit" else not wider
    if choose_width:
        return target_width, max(1, _divide_half_up(height * target_width, width))
    return max(1, _divide_half_up(width * target_height, height)), target_height


def _divide_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
