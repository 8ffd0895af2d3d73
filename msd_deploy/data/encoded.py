"""EncodedSplit: what the frozen parts of a model made of a split's pictures and rows.

It is computed once, by `msd_deploy.distill.encoded_cache`, and stands in for pixels in batches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EncodedArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """What was made of a split before.

    Attributes:
        images: float32 [encoded pictures, ...], memory-mapped; None: pictures are not encoded by
            themselves.
        position: int64 [pictures], where `images` holds a picture of the split; -1: nowhere.
        rows: float32 [rows, ...], memory-mapped, 0 for rows that were left out; None: rows are not
            encoded.
    """

    images: EncodedArray | None
    position: NDArray[np.int64]
    rows: EncodedArray | None = None

    def of_images(self, images: NDArray[np.int64]) -> Tensor | None:
        """Return what was made of some pictures, [images, ...]; of none: zeros [1, ...]."""
        if self.images is None:
            return None
        if len(images) == 0:
            return torch.zeros((1, *self.images.shape[1:]))
        positions = self.position[images]
        assert (positions >= 0).all()  # whoever reads a row had its picture encoded
        return _owned(self.images[positions])

    def of_rows(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return what was made of some rows, [rows, ...]."""
        return None if self.rows is None else _owned(self.rows[rows])


def _owned(values: EncodedArray) -> Tensor:
    """Copy into torch's own, aligned memory: matrix products round differently by alignment."""
    return torch.tensor(values)
