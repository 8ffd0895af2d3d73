"""From an encoded image to the uint8 RGB pixels that a model takes, defined to the last bit.

The definition, which an app repeats (docs/preprocessing.md): decode; apply the EXIF orientation;
convert to 8-bit RGB, transparency composited over white; resize by antialiased bilinear
interpolation; pad (fit) or cut (crop) to the model's square. Normalisation is not here: it is the
first layer of every model.

Shapes that Pillow cannot afford are resized by an implementation in integers with the same bits.
Pillow scales the whole image before it is cut and keeps 16 bytes of weights per pixel of a side: a
line of 60,000,000 pixels costs gigabytes, or overflows. Ordinary images go through Pillow because
it is many times faster.
"""

import io
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from msd_deploy.errors import DataError

PixelArray = NDArray[np.uint8]
ImageSource = bytes | Path | Image.Image | PixelArray
"""An encoded image (its bytes or file), a Pillow image, or uint8 [height, width] greys, [height,
width, 3] RGB or [height, width, 4] RGBA."""

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
        window: The scaled pixels that are wanted.
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


PIXELS_VERSION = 2
"""Rises whenever an image may become other pixels: pixels kept by another version are not read."""
_WHITE = 255
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = ((), (3,), (4,))
# PNG's greys of 2 and 4 bits: what Pillow multiplies the pixels by, but not the transparent colour.
_GREY_SCALE = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an image becomes a model's input.

    Attributes:
        size: Height and width of the result in pixels.
        mode: fit shows the whole image, centred and padded with white; crop fills the square
            and cuts the longer side's ends equally.
    """

    size: tuple[int, int]
    mode: Literal["fit", "crop"] = "fit"


def decode_image(source: ImageSource) -> Image.Image:
    """Decode an image to upright 8-bit RGB over white; one in memory is not changed.

    Raises:
        DataError: The file is missing, is no image, is broken, or has more pixels than Pillow's
            decompression-bomb limit; or an array has another type or shape.
    """
    where = source if isinstance(source, Path) else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(source) as image:
                _refuse_bomb(image)
                _fix_transparent_colour(image)
                return to_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"image is too large ({error})", where=where) from error
    except UnidentifiedImageError as error:  # its text has an address in memory
        raise DataError("image cannot be decoded (of no known format)", where=where) from error
    # Pillow's decoders raise whatever their format's parser meets in a broken file.
    except Exception as error:
        raise DataError(
            f"image cannot be decoded ({error or type(error).__name__})", where=where
        ) from error


def _opened(source: ImageSource) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # whoever opened it closes it
    if not isinstance(source, np.ndarray):
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in _CHANNELS:
        raise DataError(
            f"an array of {source.dtype} {list(source.shape)} is not an image",
            fix="Give uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    return Image.fromarray(source)


def _refuse_bomb(image: Image.Image) -> None:
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise DataError(f"image has {pixels:,} pixels, more than the limit of {limit:,}")


def _fix_transparent_colour(image: Image.Image) -> None:
    """Convert a PNG's transparent colour to the units of its decoded pixels.

    Pillow scales pixels of 2, 4 and 3 x 16 bits to 8 while it decodes, and leaves the colour as the
    file has it: called before that, while the file's own depth is known.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format != "PNG" or not image.tile:
        return
    colour, depth = image.info.get("transparency"), image.tile[0].args
    if isinstance(colour, int) and depth in _GREY_SCALE:
        image.info["transparency"] = colour * _GREY_SCALE[depth]
    elif isinstance(colour, tuple) and depth == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in colour)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB; transparency is composited over white.

    A channel c with opacity a becomes (c * a + 255 * (255 - a) + 127) // 255. Sixteen-bit greys
    keep their upper eight bits, and are compared with a transparent grey in all sixteen.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        stored = np.asarray(image).astype(np.int64)
        grey = np.clip(stored, 0, 0xFFFF) >> 8
        grey[stored == image.info.get("transparency", -1)] = _WHITE
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint32)
    opacity = rgba[..., 3:]
    over_white = (rgba[..., :3] * opacity + _WHITE * (255 - opacity) + 127) // 255
    return Image.fromarray(over_white.astype(np.uint8))


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
    canvas = np.full((height, width, 3), _WHITE, np.uint8)
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


def load_pixels(source: ImageSource, spec: ImageSpec) -> PixelArray:
    """Decode and resize an encoded image.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: As `decode_image`, or there is not the memory to resize it.
    """
    image = decode_image(source)
    try:
        return resize_to_spec(image, spec)
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(
            f"image of {image.width:,} by {image.height:,} pixels cannot be resized"
            f" ({error or type(error).__name__})",
            where=source if isinstance(source, Path) else None,
        ) from error
