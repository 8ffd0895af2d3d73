"""From an encoded image to the uint8 RGB pixels that a model takes, defined to the last bit.

The definition, which an app repeats (docs/preprocessing.md): decode; apply the EXIF orientation;
convert to 8-bit RGB, transparency composited over white; resize and pad or cut to the model's
square (`resize`). Normalisation is not here: it is the first layer of every model.

Only the decoders of `FORMATS` ever run. Pillow has others, some of which start programs.
"""

import contextlib
import ctypes
import io
import logging
import struct
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, _imaging
from PIL.JpegImagePlugin import JpegImageFile

from msd_deploy.data.metadata import has_one_scan, orientation_of, without_metadata
from msd_deploy.data.resize import MAX_PIXELS, WHITE, ImageSpec, PixelArray, resize_to_spec
from msd_deploy.errors import DataError

ImageSource = bytes | Path | Image.Image | PixelArray
"""An encoded image (its bytes or file), a Pillow image, or uint8 [height, width] greys, [height,
width, 3] RGB or [height, width, 4] RGBA."""

PIXELS_VERSION = 3
"""Rises whenever an image may become other pixels: pixels kept by another version are not read."""
# TGA has no signature and comes last.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"),
    *("JPEG2000", "PPM", "ICO", "PCX", "SGI", "QOI", "TGA"),
)
"""The formats that are read, as Pillow names them; an MPO file is read as the JPEG that it is."""
_HALVED_FROM = MAX_PIXELS
"""A JPEG of more pixels is decoded at half its size, which bounds the memory for its pixels."""
_SIGNATURE_BYTES = 16
# How files begin that are saved in place of an image; white space before it is passed over.
_NO_IMAGES = {
    b"<!doctype html": "an HTML page, such as the error page of a download",
    b"<html": "an HTML page, such as the error page of a download",
    b"<?xml": "XML, such as an SVG or the error page of a download",
    b"<svg": "an SVG",
    b"version https://git-lfs": "a pointer of Git LFS, which `git lfs pull` replaces",
    b"{": "JSON, such as the error page of a download",
    b"data:image/": "a data URL",
}
# How files of other formats begin, as far as Pillow does not know them.
_OTHER_FORMATS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"gimp xcf": "XCF",
    b"AT&TFORM": "DjVu",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"Rar!": "RAR",
    b"7z\xbc\xaf": "7z",
    b"\x1a\x45\xdf\xa3": "Matroska or WebM",
    b"\x93NUMPY": "NumPy",
}
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# Their 32-bit integers are sixteen-bit greys; those of other formats may be of any range.
_SIXTEEN_BITS_IN_THIRTY_TWO = ("PNG", "PPM")
_FILLERS, _FILLED_BYTES = (b"", b"\x55", b"\xaa", b"\x33", b"\xcc", b"\xfe"), 64
_CHANNELS = ((), (3,), (4,))
# PNG's greys of 2 and 4 bits: what Pillow multiplies the pixels by, but not the transparent colour.
_GREY_SCALE = {"L;2": 85, "L;4": 17}
# Rows are widened to 32 and 64 bits so many pixels at a time: 24 MB.
_BLOCK_PIXELS = 1 << 20
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to upright 8-bit RGB over white.

    A PNG in 2 or 4 bits of grey, or 3 x 16 bits of colour, with a transparent colour has to be
    passed as a file or bytes: once Pillow has decoded it, the colour no longer fits the pixels.
    Metadata that cannot be read is ignored.

    Args:
        source: The image.
        max_pixels: The most pixels that are decoded; see `ImageSpec`.

    Raises:
        DataError: The file is missing, is not an image of `FORMATS`, is broken, has too many
            pixels, or pixels of an unknown range; an array has another type or shape; or the source
            is of another type.
    """
    where = source if isinstance(source, Path) else None
    try:
        with _opened(source) as opened:
            if isinstance(opened, Image.Image):
                return _upright_rgb(opened, max_pixels)
            return _decode_stream(opened, max_pixels)
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from error
    # Pillow's decoders raise whatever their format's parser meets in a broken file.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"image cannot be decoded ({reason})",
            where=where,
            fix="Check the file, or save it again as JPEG or PNG",
        ) from error


def _opened(source: ImageSource) -> AbstractContextManager[IO[bytes] | Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # the caller closes it
    if isinstance(source, Path):
        return source.open("rb")
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, np.ndarray):
        raise DataError(
            f"an object of type {type(source).__name__} is not an image",
            fix="Give a path, bytes, a Pillow image or a uint8 array",
        )
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in _CHANNELS:
        raise DataError(
            f"an array of {source.dtype} {list(source.shape)} is not an image",
            fix="Give uint8 [height, width], [height, width, 3] or [height, width, 4]",
        )
    return nullcontext(Image.fromarray(source))


def _decode_stream(stream: IO[bytes], max_pixels: int) -> Image.Image:
    """Decode a file, once more without its metadata if it cannot be decoded with it."""
    try:
        return _upright_rgb(open_encoded(stream), max_pixels)
    except (DataError, MemoryError):
        raise
    except Exception:
        stream.seek(0)
        whole = stream.read()
        ended = _without_end(whole, max_pixels)
        if ended is not None:
            return ended
        bare = without_metadata(whole)
        if bare is None:
            raise
        encoded, orientation = bare
        return _upright_rgb(open_encoded(io.BytesIO(encoded)), max_pixels, orientation)


def _without_end(encoded: bytes, max_pixels: int) -> Image.Image | None:
    """Decode a JPEG that lacks its end marker alone; None if pixels may be missing.

    The decoder makes up what is missing. Pixels that stay the same whatever bytes follow, of all
    that a code of one sequential scan can begin with, depend on nothing that is missing.
    """
    if not (encoded.startswith(b"\xff\xd8\xff") and has_one_scan(encoded)):
        return None
    found = None
    for filler in _FILLERS:
        ended = encoded.removesuffix(b"\xff") + filler * _FILLED_BYTES + b"\xff\xd9"
        try:
            image = _upright_rgb(open_encoded(io.BytesIO(ended)), max_pixels)
        # Whatever Pillow raises for a file that is broken elsewhere, too.
        except Exception:
            return None
        if found is not None and image.tobytes() != found.tobytes():
            return None
        found = image
    return found


def open_encoded(stream: IO[bytes]) -> ImageFile.ImageFile:
    """Open an encoded image of one of `FORMATS`; no pixel is decoded yet.

    `PIL.Image.open` would have a JPEG's index of further images parsed, which may be broken, and
    has a limit of pixels of its own for the whole process.

    Raises:
        DataError: It is of none of the formats.
        Exception: Whatever Pillow raises for a broken file.
    """
    Image.init()
    beginning = stream.read(1 << 8)
    if not beginning:
        raise DataError("image cannot be decoded (it is empty)", fix="Save the image itself")
    signature = beginning[:_SIGNATURE_BYTES]
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None:
            continue
        accepted = accept(signature)
        if isinstance(accepted, str):
            raise DataError(f"image cannot be decoded ({accepted})")
        if accepted:
            stream.seek(0)
            if name == "TIFF":
                _silence_tiff()
            return JpegImageFile(stream) if name == "JPEG" else factory(stream, "")
    with contextlib.suppress(Exception):  # TGA has no signature
        stream.seek(0)
        return Image.OPEN["TGA"][0](stream, "")
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((kind for start, kind in _NO_IMAGES.items() if text.startswith(start)), None)
    if kind is not None:
        raise DataError(f"image cannot be decoded (it is {kind})", fix="Save the image itself")
    raise DataError(
        f"image cannot be decoded ({_unread_format(signature)})",
        fix="Convert it to JPEG or PNG",
    )


def _silence_tiff() -> None:
    """Keep what Pillow and libtiff find wrong in TIFF files off stderr, for the whole process.

    Pillow raises it too.
    """
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    # Where libtiff is linked into Pillow's module, as on Windows, it cannot be reached.
    with contextlib.suppress(AttributeError, OSError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


def _unread_format(signature: bytes) -> str:
    """Return which other format a file is of, if that is known."""
    if signature[4:8] == b"ftyp" and (brand := signature[8:12].strip()).isalnum():
        return f"{brand.decode('ascii').upper()} is not read"
    for start, name in _OTHER_FORMATS.items():
        if signature.startswith(start):
            return f"{name} is not read"
    for name, (_, accept) in Image.OPEN.items():
        with contextlib.suppress(IndexError, struct.error):
            if accept is not None and accept(signature):
                return f"{name} is not read"
    return "of no known format"


def image_endings() -> frozenset[str]:
    """Return the endings of file names of `FORMATS`, in lower case with their full stop."""
    Image.init()
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, name in endings if name in (*FORMATS, "MPO"))


def _upright_rgb(
    image: Image.Image, max_pixels: int, orientation: int | None = None
) -> Image.Image:
    _limit_pixels(image, max_pixels)
    _refuse_twelve_bits(image)
    _fix_transparent_colour(image)
    if image.mode == "L":  # Pillow would apply the palette that a grey TGA may have besides
        image.palette = None
    image.load()
    rgb = to_rgb(image)
    method = _TRANSPOSE.get(orientation_of(image) if orientation is None else orientation)
    return rgb if method is None else rgb.transpose(method)


def _limit_pixels(image: Image.Image, max_pixels: int) -> None:
    """Have a very large JPEG decoded at half its size; refuse what is too large then."""
    pixels, halved = image.width * image.height, ""
    if isinstance(image, JpegImageFile) and pixels > _HALVED_FROM:
        image.draft(None, (image.width // 2, image.height // 2))
        halved = f", {image.width * image.height:,} at half its size"
    if image.width * image.height > max_pixels:
        raise DataError(
            f"image has {pixels:,} pixels{halved}, more than the limit of {max_pixels:,}, which"
            " --max-pixels (data.max_pixels) raises",
            fix="Reduce the image, or raise the limit",
        )


def _refuse_twelve_bits(image: Image.Image) -> None:
    """Refuse a TIFF of 12-bit greys: Pillow passes them on as 16-bit ones, almost black."""
    if isinstance(image, ImageFile.ImageFile) and any("I;12" in str(t.args) for t in image.tile):
        raise DataError("image has greys of 12 bits", fix="Convert it to 8 or 16 bits a channel")


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
    """Convert a Pillow image to 8-bit RGB; transparency is composited over white.

    A channel c with opacity a becomes (c * a + 255 * (255 - a) + 127) // 255. Sixteen-bit greys
    keep their upper eight bits, and are compared with a transparent grey in all sixteen.

    Returns:
        The image itself where it is that already.

    Raises:
        DataError: Its pixels are floating-point numbers or 32-bit integers, whose black
            and white are unknown.
    """
    is_sixteen_bit = image.mode != "I" or image.format in _SIXTEEN_BITS_IN_THIRTY_TWO
    if image.mode == "F" or not is_sixteen_bit:
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed integers"
        raise DataError(
            f"image has pixels of {kind}, whose black and white are not known",
            fix="Convert it to 8 or 16 bits a channel",
        )
    if image.mode in _SIXTEEN_BIT_MODES:
        return _sixteen_bit_to_rgb(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA"))
    over_white = np.empty((*rgba.shape[:2], 3), np.uint8)
    for rows in _blocks(image):
        opacity = rgba[rows, :, 3:].astype(np.uint32)
        over_white[rows] = (rgba[rows, :, :3] * opacity + WHITE * (255 - opacity) + 127) // 255
    return Image.fromarray(over_white)


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    stored, transparent = np.asarray(image), image.info.get("transparency", -1)
    grey = np.empty(stored.shape, np.uint8)
    for rows in _blocks(image):
        block = stored[rows].astype(np.int64)
        grey[rows] = np.clip(block, 0, 0xFFFF) >> 8
        grey[rows][block == transparent] = WHITE
    return Image.fromarray(grey).convert("RGB")


def _blocks(image: Image.Image) -> list[slice]:
    """Return the rows of an image in blocks of bounded size."""
    step = max(1, _BLOCK_PIXELS // image.width)
    return [slice(top, top + step) for top in range(0, image.height, step)]


def load_pixels(source: ImageSource, spec: ImageSpec) -> PixelArray:
    """Decode and resize an encoded image.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: As `decode_image`, or there is not the memory to resize it.
    """
    image = decode_image(source, max_pixels=spec.max_pixels)
    try:
        return resize_to_spec(image, spec)
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(
            f"image of {image.width:,} by {image.height:,} pixels cannot be resized"
            f" ({error or type(error).__name__})",
            where=source if isinstance(source, Path) else None,
        ) from error
