"""The documented resize, spelled out in integers, for shapes that Pillow's own cannot afford.

Pillow scales the whole picture before it is cut, and keeps 16 bytes of weights per pixel of a
side: a line of 60,000,000 pixels costs gigabytes, or overflows. Here only the wanted pixels are
made, one after the other. The bits are the same (docs/preprocessing.md, step 5); ordinary pictures
go through Pillow because it is many times faster.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PixelArray = NDArray[np.uint8]

# Pillow keeps 16 bytes of weights per pixel of a side: 16 MB here.
_LONGEST_ORDINARY_SIDE = 1_000_000
# Of the scaled picture, before it is cut; its other side has at most 1024 pixels: 268 MB here.
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
        """Whether Pillow does it at reasonable cost."""
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
    """Make the wanted pixels of a scaled picture, horizontally first, and no others.

    Args:
        pixels: uint8 [vertical.size, horizontal.size, 3].
        horizontal: Along a row.
        vertical: Along a column.

    Returns:
        uint8 [vertical window, horizontal window, 3].
    """
    columns = pixels[vertical.source(), horizontal.source()].swapaxes(0, 1)
    return vertical.apply(horizontal.apply(columns).swapaxes(0, 1))
