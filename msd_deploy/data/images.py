"""From an encoded image to the uint8 RGB pixels that a model takes, defined to the last bit.

The definition, which an app repeats (docs/preprocessing.md): decode; apply the EXIF orientation;
convert to 8-bit RGB, transparency composited over white; resize and pad or cut to the model's
square (`resize`). Normalisation is not here: it is the first layer of every model.
"""

import io
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from msd_deploy.data.resize import WHITE, ImageSpec, PixelArray, resize_to_spec
from msd_deploy.errors import DataError

ImageSource = bytes | Path | Image.Image | PixelArray
"""An encoded image (its bytes or file), a Pillow image, or uint8 [height, width] greys, [height,
width, 3] RGB or [height, width, 4] RGBA."""

PIXELS_VERSION = 2
"""Rises whenever an image may become other pixels: pixels kept by another version are not read."""
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = ((), (3,), (4,))
# PNG's greys of 2 and 4 bits: what Pillow multiplies the pixels by, but not the transparent colour.
_GREY_SCALE = {"L;2": 85, "L;4": 17}


def decode_image(source: ImageSource) -> Image.Image:
    """Decode an image to upright 8-bit RGB over white.

    A PNG in 2 or 4 bits of grey, or 3 x 16 bits of colour, with a transparent colour has to be
    passed as a file or bytes: once Pillow has decoded it, the colour no longer fits the pixels.

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
        grey[stored == image.info.get("transparency", -1)] = WHITE
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint32)
    opacity = rgba[..., 3:]
    over_white = (rgba[..., :3] * opacity + WHITE * (255 - opacity) + 127) // 255
    return Image.fromarray(over_white.astype(np.uint8))


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
