"""Images that implementations of decoding and resizing get wrong: the inputs of test vectors."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, PngImagePlugin

from msd_deploy.data.resize import PixelArray

Channels = Literal[1, 3, 4]

_MULTIPLIER, _INCREMENT = 1_664_525, 1_013_904_223
_ORIENTATION_TAG = 0x0112
_SHAPES = (
    *((1, 1), (1, 2), (2, 1), (1, 50), (80, 1), (3, 7), (17, 17), (48, 48), (49, 47), (90, 11)),
    *((11, 50), (64, 32)),
)


@dataclass(frozen=True, slots=True)
class NoiseImage:
    """An image of noise that an app generates, instead of decoding a file.

    Attributes:
        width: Pixels across.
        height: Pixels down.
        channels: 1 for grey, 3 for RGB, 4 for RGB with opacity, not premultiplied.
        orientation: EXIF's, 1 to 8.
        seed: Of its noise.
    """

    width: int
    height: int
    channels: Channels = 3
    orientation: int = 1
    seed: int = 0

    def pixels(self) -> PixelArray:
        """Return the stored pixels, uint8 [height, width, channels], before the orientation.

        The values are the upper 8 bits of x[1], x[2], ... with x[0] = seed and x[n + 1] =
        1664525 x[n] + 1013904223 modulo 2^32 (Numerical Recipes' generator), row by row.
        """
        count = self.width * self.height * self.channels
        factors = np.cumprod(np.full(count, _MULTIPLIER, np.uint32), dtype=np.uint32)
        powers = np.concatenate([np.ones(1, np.uint32), factors[:-1]])
        sums = np.cumsum(powers, dtype=np.uint32)
        values = factors * np.uint32(self.seed) + np.uint32(_INCREMENT) * sums
        return (values >> 24).astype(np.uint8).reshape(self.height, self.width, self.channels)

    def encoded(self) -> bytes:
        """Return it as a PNG file."""
        stored = self.pixels()
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = self.orientation
        file = io.BytesIO()
        Image.fromarray(stored[..., 0] if self.channels == 1 else stored).save(
            file, "PNG", exif=exif
        )
        return file.getvalue()


def noise_images(size: tuple[int, int]) -> list[NoiseImage]:
    """Return images of odd shapes for a model's size: thin, smaller, equal, larger, turned.

    Args:
        size: Height and width that the model takes.
    """
    height, width = size
    shapes = [
        *((1, 1), (1, 2), (2, 1), (3, 5), (1, 100), (100, 1), (1, 1000), (1000, 1)),
        *((width, height), (width - 1, height), (width, height + 1), (2 * width, 2 * height)),
        *((width // 2, height // 3), (3 * width + 1, height // 2 + 1), (101, 50), (33, 100)),
        *((97, 89), (640, 480), (479, 641), (1023, 767), (2000, 31), (31, 2000)),
    ]
    seeds = itertools.count(1)
    ordinary = [NoiseImage(*shape, seed=next(seeds)) for shape in shapes]
    others: tuple[Channels, ...] = (1, 4)
    kinds = [
        NoiseImage(*shape, channels, seed=next(seeds))
        for channels in others
        for shape in ((7, 5), (123, 77), (300, 200))
    ]
    turned = [NoiseImage(61, 37, 3, turn, next(seeds)) for turn in range(1, 9)]
    return [*ordinary, *kinds, *turned]


def image_files() -> Iterator[tuple[str, bytes]]:
    """Yield image files of many kinds, as name and bytes; those named .jpg or .webp are lossy."""
    picture = _picture(97, 61)
    rgb, grey = Image.fromarray(picture), Image.fromarray(picture[..., 1])
    opacity = Image.fromarray(_picture(97, 61, seed=1)[..., 0])
    yield "rgb.png", _saved(rgb, "PNG")
    yield "grey.png", _saved(grey, "PNG")
    yield "black-and-white.png", _saved(grey.convert("1"), "PNG")
    yield "palette.png", _saved(rgb.quantize(64), "PNG")
    yield "palette-16.png", _saved(rgb.quantize(16), "PNG", bits=4)
    yield "palette-transparent.png", _saved(rgb.quantize(64), "PNG", transparency=3)
    yield "grey-transparent.png", _saved(grey, "PNG", transparency=int(picture[5, 5, 1]))
    colour = tuple(map(int, picture[5, 5]))
    yield "rgb-transparent.png", _saved(rgb, "PNG", transparency=colour)
    rgba, grey_opacity = rgb.copy(), grey.copy()
    rgba.putalpha(opacity)
    grey_opacity.putalpha(opacity)
    yield "opacity.png", _saved(rgba, "PNG")
    yield "grey-opacity.png", _saved(grey_opacity, "PNG")
    deep = (picture[..., 1].astype(np.uint16) << 8) + picture[..., 0]
    yield "grey-16-bits.png", _saved(Image.fromarray(deep), "PNG")
    profile = PngImagePlugin.PngInfo()
    profile.add(b"gAMA", (100_000).to_bytes(4, "big"))
    yield "gamma.png", _saved(rgb, "PNG", pnginfo=profile)
    for width, height in _SHAPES:
        cut = rgb.crop((5, 5, 5 + width, 5 + height))
        yield f"{width}-by-{height}.png", _saved(cut, "PNG")
    yield (
        "animation.gif",
        _saved(rgb.quantize(32), "GIF", save_all=True, append_images=[rgb.quantize(8)]),
    )
    yield "rgb.bmp", _saved(rgb, "BMP")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = orientation
        yield f"orientation-{orientation}.png", _saved(rgb, "PNG", exif=exif)
        yield f"orientation-{orientation}.jpg", _saved(rgb, "JPEG", exif=exif, quality=90)
    for quality, sampling in itertools.product((50, 95), ("4:4:4", "4:2:2", "4:2:0")):
        name = f"quality-{quality}-{sampling.replace(':', '')}"
        yield f"{name}.jpg", _saved(rgb, "JPEG", quality=quality, subsampling=sampling)
        yield (
            f"{name}-progressive.jpg",
            _saved(rgb, "JPEG", quality=quality, subsampling=sampling, progressive=True),
        )
    yield "grey.jpg", _saved(grey, "JPEG")
    yield "odd-sides.jpg", _saved(rgb.crop((0, 0, 17, 9)), "JPEG", subsampling="4:2:0")
    yield "large.jpg", _saved(Image.fromarray(_picture(1500, 1001)), "JPEG", quality=80)
    yield "lossless.webp", _saved(rgba, "WEBP", lossless=True, exact=True)
    yield "lossy.webp", _saved(rgb, "WEBP", quality=80)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _picture(width: int, height: int, *, seed: int = 0) -> PixelArray:
    """Return slow waves, edges and some noise, uint8 [height, width, 3]."""
    chance = np.random.default_rng(seed)
    rows, columns, channels = np.meshgrid(
        np.linspace(0, 1, height), np.linspace(0, 1, width), np.arange(3), indexing="ij"
    )
    waves = 127 + 90 * np.sin(5 * rows + 3 * channels + seed) * np.cos(7 * columns - channels)
    waves[(rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.03] = (240, 30, 60)[seed % 3]
    noisy = waves + chance.normal(0, 4, waves.shape)
    rounded: PixelArray = np.clip(noisy, 0, 255).astype(np.uint8)
    return rounded
