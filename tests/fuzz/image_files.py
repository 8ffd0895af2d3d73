"""Small sound image files of every format that is read, in every form that Pillow writes.

Forms of PNG that Pillow does not write (16 bits a channel, interlaced) are written here.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 21, 13
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
_ADAM7 += ((1, 0, 2, 1),)


def _colours(channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Blocks of flat colours and noise, without any symmetry: uint8 [height, width, channels]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)
    pixels[:6, :9] = (20, 220, 90, 128)[:channels]
    return pixels


def _photo(mode: str = "RGB", seed: int = 0) -> Image.Image:
    if mode == "RGBA":
        return Image.fromarray(_colours(4, seed))
    return Image.fromarray(_colours(3, seed)).convert(mode)


def _greys() -> Image.Image:
    """Greys of 16 bits."""
    return Image.fromarray(_colours(3).astype(np.uint16)[:, :, 0] * 257 ^ 0x2B)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def png(ihdr: bytes, rows: Iterable[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of rows of packed pixels, none of them filtered."""
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in [(b"IHDR", ihdr), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    )


def _ihdr(depth: int, colour: int, interlaced: int = 0) -> bytes:
    return struct.pack(">LLBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)


def _deep(channels: int) -> Sequence[bytes]:
    """Rows of 16 bits a channel."""
    values = _colours(channels).astype(">u2") * 256 + _colours(channels, seed=1)
    return [row.tobytes() for row in values.astype(">u2")]


def _interlaced() -> bytes:
    pixels = _colours()
    passes = (pixels[top::down, left::across] for top, left, down, across in _ADAM7)
    return png(_ihdr(8, 2, interlaced=1), [row.tobytes() for one in passes for row in one])


def _grey_rows(depth: int) -> list[bytes]:
    values = _colours()[:, :, 0] >> (8 - depth)
    bits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - depth :].reshape(HEIGHT, -1)
    return [row.tobytes() for row in np.packbits(bits, axis=1)]


def _pngs() -> dict[str, bytes]:
    palette = _photo().quantize(8)
    frames = [_photo(seed=1), _photo(seed=2)]
    return {
        **{f"PNG {mode}": _saved(_photo(mode), "PNG") for mode in ("1", "L", "LA", "RGB", "RGBA")},
        "PNG P": _saved(palette, "PNG"),
        "PNG P, transparent": _saved(palette, "PNG", transparency=bytes([0, 99, 255])),
        "PNG L, transparent": _saved(_photo("L"), "PNG", transparency=90),
        "PNG RGB, transparent": _saved(_photo(), "PNG", transparency=(20, 220, 90)),
        "PNG 16 bits": _saved(_greys(), "PNG"),
        "PNG 2 bits, transparent": png(_ihdr(2, 0), _grey_rows(2), (b"tRNS", b"\0\2")),
        "PNG 4 bits, transparent": png(_ihdr(4, 0), _grey_rows(4), (b"tRNS", b"\0\7")),
        "PNG 3 x 16 bits, transparent": png(_ihdr(16, 2), _deep(3), (b"tRNS", bytes(6))),
        "PNG 4 x 16 bits": png(_ihdr(16, 6), _deep(4)),
        "PNG interlaced": _interlaced(),
        "PNG animated": _saved(_photo(), "PNG", save_all=True, append_images=frames),
        "PNG orientation": _saved(_photo(), "PNG", exif=_exif(5)),
    }


def _jpegs() -> dict[str, bytes]:
    return {
        **{f"JPEG {mode}": _saved(_photo(mode), "JPEG") for mode in ("L", "RGB", "CMYK")},
        "JPEG progressive": _saved(_photo(), "JPEG", progressive=True, subsampling=0),
        "JPEG orientation": _saved(_photo(), "JPEG", exif=_exif(6), comment="a comment"),
        "JPEG restarts": _saved(_photo(), "JPEG", restart_marker_rows=1, icc_profile=bytes(9)),
        "MPO": _saved(_photo(), "MPO", save_all=True, append_images=[_photo(seed=1)]),
        "JPEG2000 RGB": _saved(_photo(), "JPEG2000"),
        "JPEG2000 RGBA, lossy": _saved(
            _photo("RGBA"), "JPEG2000", irreversible=True, quality_layers=[20]
        ),
        "JPEG2000 codestream": _saved(_photo("L"), "JPEG2000", no_jp2=True),
        "JPEG2000 16 bits": _saved(_greys(), "JPEG2000"),
    }


def _tiffs() -> dict[str, bytes]:
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
    compressed = {f"TIFF {c}": _saved(_photo(), "TIFF", compression=c) for c in compressions}
    return {
        **compressed,
        **{
            f"TIFF {mode}": _saved(_photo(mode), "TIFF")
            for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "F", "I")
        },
        "TIFF 16 bits": _saved(_greys(), "TIFF"),
        "TIFF 16 bits, lzw": _saved(_greys(), "TIFF", compression="tiff_lzw"),
        "TIFF group 4": _saved(_photo("1"), "TIFF", compression="group4"),
        "TIFF orientation": _saved(_photo(), "TIFF", exif=_exif(8)),
        "TIFF pages": _saved(_photo(), "TIFF", save_all=True, append_images=[_photo(seed=1)]),
    }


def _others() -> dict[str, bytes]:
    palette = _photo().quantize(8)
    frames = [_photo("P", seed=1), _photo("P", seed=2)]
    animation = {"save_all": True, "append_images": [_photo(seed=1), _photo(seed=2)]}
    return {
        "GIF": _saved(palette, "GIF"),
        "GIF animated": _saved(_photo("P"), "GIF", save_all=True, append_images=frames),
        "GIF transparent": _saved(palette, "GIF", transparency=2, interlace=1),
        **{f"BMP {mode}": _saved(_photo(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "WEBP": _saved(_photo(), "WEBP", exif=_exif(3)),
        "WEBP lossless": _saved(_photo("RGBA"), "WEBP", lossless=True),
        "WEBP animated": _saved(_photo(), "WEBP", **animation),
        "AVIF": _saved(_photo(), "AVIF", exif=_exif(7), speed=10),
        "AVIF RGBA": _saved(_photo("RGBA"), "AVIF", speed=10),
        "AVIF animated": _saved(_photo(), "AVIF", speed=10, **animation),
        **{f"PPM {mode}": _saved(_photo(mode), "PPM") for mode in ("1", "L", "RGB")},
        "PPM 16 bits": _saved(_greys(), "PPM"),
        "PPM plain": b"P3\n# a comment\n3 1\n99\n0 1 2 3 4 5 97 98 99\n",
        "ICO": _saved(_photo("RGBA"), "ICO", sizes=[(13, 13), (8, 8)]),
        "ICO bitmap": _saved(_photo("RGBA"), "ICO", sizes=[(13, 8)], bitmap_format="bmp"),
        **{f"PCX {mode}": _saved(_photo(mode), "PCX") for mode in ("1", "L", "P", "RGB")},
        **{f"SGI {mode}": _saved(_photo(mode), "SGI") for mode in ("L", "RGB", "RGBA")},
        **{f"QOI {mode}": _saved(_photo(mode), "QOI") for mode in ("RGB", "RGBA")},
        **{f"TGA {mode}": _saved(_photo(mode), "TGA") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "TGA packed": _saved(_photo(), "TGA", compression="tga_rle"),
    }


IMAGE_FILES = {**_pngs(), **_jpegs(), **_tiffs(), **_others()}
"""By what they are; the first word is the format."""
