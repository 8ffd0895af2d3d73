"""Drawing for the generated tasks: coloured shapes on a greyish noisy ground, encoded as PNG.

Images are 48 x 48 RGB. The same objects and generator give the same bytes on every machine. What is
drawn in an image is decided by `tasks` and `listings`.
"""

import struct
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

IMAGE_SIZE = 48
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring", "bar", "saltire")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 180),
    "orange": (240, 140, 40),
    "cyan": (50, 200, 210),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
BLACK = tuple(COLOURS).index("black")
NOTHING = -1
_CELL = 12


def code_of(shape: str, colour: str) -> int:
    """Return the number of a shape in a colour, as `Draw.objects` holds it."""
    return SHAPES.index(shape) * len(COLOURS) + tuple(COLOURS).index(colour)


def codes_without(excluded: IntArray) -> IntArray:
    """Return every pair of shape and colour but the excluded ones and those in black."""
    codes = np.arange(len(SHAPES) * len(COLOURS))
    usable: BoolArray = (codes % len(COLOURS) != BLACK) & ~np.isin(codes, excluded)
    return codes[usable]


def render(objects: IntArray, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw images: a grey ground per image, jittered shapes, noise on every value.

    Args:
        objects: int64 [examples, 4] or [examples, 16], as `Draw.objects`.
        rng: Source of chance.

    Returns:
        uint8 [examples, 48, 48, 3].
    """
    examples, cells = objects.shape
    side = int(np.sqrt(cells))
    cell = IMAGE_SIZE // side
    jitter = rng.integers(0, 9, objects.shape)
    glyphs = _glyphs()[objects // len(COLOURS), jitter] & (objects != NOTHING)[..., None, None]
    glyphs = glyphs.repeat(cell // _CELL, axis=2).repeat(cell // _CELL, axis=3)
    palette = np.array(tuple(COLOURS.values()), np.int16)[objects % len(COLOURS)]
    ground = rng.integers(90, 150, (examples, 1, 1, 1, 1), np.int16)
    drawn = np.where(glyphs[..., None], palette[:, :, None, None, :], ground)
    grid = drawn.reshape(examples, side, side, cell, cell, 3).swapaxes(2, 3)
    noise = rng.integers(-20, 21, (examples, IMAGE_SIZE, IMAGE_SIZE, 3), np.int16)
    pixels: NDArray[np.uint8] = (grid.reshape(noise.shape) + noise).clip(0, 255).astype(np.uint8)
    return pixels


@cache
def _glyphs() -> BoolArray:
    """Return bool [shapes, 9 shifts by up to a pixel, 12, 12]: shapes of 10 x 10 pixels."""
    y, x = np.mgrid[-9:10:2, -9:10:2]
    square_radius = x * x + y * y
    masks = (
        square_radius <= 100,
        np.maximum(abs(x), abs(y)) <= 7,
        2 * abs(x) <= y + 11,
        np.minimum(abs(x), abs(y)) <= 3,
        abs(x) + abs(y) <= 10,
        (square_radius <= 100) & (square_radius > 36),
        abs(y) <= 3,
        abs(abs(x) - abs(y)) <= 2,
    )
    shifts = [(top, left) for top in range(3) for left in range(3)]
    padded = [[np.pad(m, ((t, 2 - t), (s, 2 - s))) for t, s in shifts] for m in masks]
    return np.array(padded)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode one RGB image as PNG without compression.

    Uncompressed, the bytes (and so every digest) are the same whichever zlib is installed, and
    noise would not shrink by much.

    Args:
        pixels: uint8 [height, width, 3].
    """
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
