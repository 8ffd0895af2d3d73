"""Image files: pixels are those of Pillow's decoder and docs/preprocessing.md, or refused."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from msd_deploy.data.images import FORMATS
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.quiet import quiet_python
from tests.fuzz.image_files import IMAGE_FILES
from tests.fuzz.mutations import damaged
from tests.fuzz.rule import read_or_refused

LIMIT = 1_000_000
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class Decoded:
    """What Pillow alone makes of a file.

    Attributes:
        rgb: As documented, before it is turned; None where the document refuses the image.
        turns: The ways in which it may have to be turned: one, or all where EXIF is broken.
    """

    rgb: NDArray[np.uint8] | None
    turns: tuple[int, ...]

    @property
    def possible(self) -> list[NDArray[np.uint8]]:
        """The upright pixels."""
        return [] if self.rgb is None else [TURNS[turn](self.rgb) for turn in self.turns]


def bare_pillow(file: Path) -> Decoded | None:
    """Return what Pillow decodes, converted as documented; None where it cannot."""
    with file.open("rb") as stream:  # a name would have Pillow map the file
        try:
            image = Image.open(stream, formats=(*FORMATS, "MPO"))
            if image.format == "TGA" and has_signature(file):  # a broken file of another format
                return None
            if image.width * image.height > LIMIT:
                return Decoded(None, (1,))
            is_twelve_bits = "I;12" in str(image.tile)
            image.load()
            is_integer = image.mode == "I" and image.format not in ("PNG", "PPM")
            if image.mode == "F" or is_integer or is_twelve_bits:
                return Decoded(None, (1,))
            rgb = documented_rgb(image, file.read_bytes())
        except Exception:
            return None
        try:
            turn = image.getexif().get(0x112, 1)
        except Exception:
            return Decoded(rgb, tuple(TURNS))
    return Decoded(rgb, (turn if turn in TURNS else 1,))


def has_signature(file: Path) -> bool:
    raw = file.read_bytes()
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    return any(accept is not None and accept(raw[:16]) for accept in accepts)


def documented_rgb(image: Image.Image, raw: bytes) -> NDArray[np.uint8]:
    """Step 3 of docs/preprocessing.md in plain numpy."""
    stored = np.asarray(image).astype(np.int64)
    transparent = image.info.get("transparency")
    is_clear = np.zeros(stored.shape[:2], bool)
    if image.format == "PNG" and image.mode in ("1", "L", "RGB", "I", "I;16"):
        is_clear = is_transparent(stored, transparent, depth=raw[24], mode=image.mode)
    elif image.mode in ("L", "RGB") and transparent is not None:
        is_clear = is_transparent(stored, transparent, depth=8, mode=image.mode)
    if image.mode == "CMYK":
        ink, black = stored[:, :, :3], 255 - stored[:, :, 3:]
        product = ink * black + 128
        rgb = np.clip(black - (((product >> 8) + product) >> 8), 0, 255)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        rgb = np.repeat(np.clip(stored, 0, 65535)[:, :, None] >> 8, 3, axis=2)
    elif image.mode in ("1", "L"):
        grey = stored * (255 if image.mode == "1" else 1)
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
    elif image.has_transparency_data and image.mode != "RGB":
        rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
        opacity = rgba[:, :, 3:]
        rgb = (rgba[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255
    else:
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    rgb = np.where(is_clear[:, :, None], 255, rgb)
    return rgb.astype(np.uint8)


def is_transparent(
    stored: NDArray[np.int64], colour: object, *, depth: int, mode: str
) -> NDArray[np.bool_]:
    """Return which pixels have the transparent colour, given in units of the file."""
    if colour is None or isinstance(colour, bytes):
        return np.zeros(stored.shape[:2], bool)
    if mode == "RGB":
        shift = 8 if depth == 16 else 0
        return (stored == np.array(colour) >> shift).all(axis=2)
    scale = {"L": 255 // ((1 << depth) - 1)}.get(mode, 1)
    return stored == np.int64(colour) * scale


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    raw = draw(damaged(IMAGE_FILES[draw(st.sampled_from(sorted(IMAGE_FILES)))]))
    return with_checksums(raw) if draw(st.booleans()) else raw


def with_checksums(raw: bytes) -> bytes:
    """Return a PNG with right checksums, so that damage inside chunks reaches the decoder."""
    fixed, at = bytearray(raw), 8
    while raw.startswith(b"\x89PNG") and at + 12 <= len(raw):
        end = at + 8 + struct.unpack_from(">L", raw, at)[0]
        fixed[end : end + 4] = struct.pack(">L", zlib.crc32(raw[at + 4 : end]))
        at = end + 4
    return bytes(fixed[: len(raw)])


def check(raw: bytes, file: Path) -> None:
    """Compare the pixels, at the image's own size, with Pillow's; or its refusal."""
    file.write_bytes(raw)
    with quiet_python():
        expected = bare_pillow(file)
    turned = expected.possible if expected else []
    height, width = turned[0].shape[:2] if turned else (48, 48)
    spec = ImageSpec((height, width), max_pixels=LIMIT)
    preprocessor = Preprocessor(spec, Tokenizer(WordPiece()), max_length=8)
    found = read_or_refused(lambda: preprocessor.pixels(file), file)
    if found is None:
        assert not turned, "Pillow decodes it"
    elif expected is None:
        # Its metadata is broken, so that Pillow alone refuses it.
        assert raw[:4] in (b"\xff\xd8\xff\xe0", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    else:
        assert any(np.array_equal(found, pixels) for pixels in turned)


@pytest.mark.parametrize("name", IMAGE_FILES)
def test_a_sound_image_has_the_documented_pixels(name: str, tmp_path: Path) -> None:
    check(IMAGE_FILES[name], tmp_path / "image")
    assert bare_pillow(tmp_path / "image") is not None


def changed(name: str, before: bytes, after: bytes) -> bytes:
    assert before in IMAGE_FILES[name]
    return IMAGE_FILES[name].replace(before, after, 1)


@settings(max_examples=200)
@example(raw=b"\0\0\0 ftyp\0\x1b[2\0" + bytes(40))  # controls in the name of the format
@example(raw=changed("TIFF tiff_adobe_deflate", b"\x78\x9c", b"\x78\x9d"))  # libtiff on stderr
@example(raw=changed("TIFF LAB", b"\x15\1\3\0\1\0\0\0", b"\x15\1\3\0\0\1\0\0"))  # logs
@example(raw=changed("JPEG orientation", b"\1\x12\0\3\0\0\0\1", b"\1\x12\0\3\1\0\0\0"))
@example(raw=changed("TGA P", b"\0\1\1", b"\0\1\3"))  # greys with a palette besides
@given(raw=image_files())
def test_a_damaged_image_has_the_pixels_of_pillow_or_is_refused(raw: bytes, tmp_path: Path) -> None:
    check(raw, tmp_path / "image")
