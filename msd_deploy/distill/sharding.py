"""Each process's part of every batch: the steps of many processes are those of one.

A batch is the same rows for any number of processes. It is cut between pictures, as near to equal
parts as they allow. A batch of fewer pictures than processes (the last of a pass may be) is
computed whole by each of them, and counts an equal share in each: nobody waits for rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy import processes
from msd_deploy.data.batch import ImageGroupSampler
from msd_deploy.data.prepared import PreparedSplit


@dataclass(frozen=True, slots=True)
class Share:
    """What a process computes of a batch.

    Attributes:
        rows: Its rows, positions in the split.
        total: Rows that all processes compute.
        smallest: Rows of the smallest part.
        of_rows: This part's share of all rows, 0 to 1: the weight of a mean over rows.
        of_labels: Its share of all labelled rows; 0 if there are none.
    """

    rows: list[int]
    total: int
    smallest: int
    of_rows: float
    of_labels: float


class ShardedBatches(torch.utils.data.Sampler[list[int]]):
    """A sampler's batches, of which each process is given its part.

    Args:
        batches: The whole batches; chooses their order.
        split: Their rows.
    """

    def __init__(self, batches: ImageGroupSampler, split: PreparedSplit) -> None:
        self._batches, self._image_index, self._has_label = (
            batches,
            split.image_index,
            split.has_label(),
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (share.rows for share in self.shares())

    def shares(self) -> Iterator[Share]:
        """Yield this process's share of every batch, in the order of the batches."""
        return (self.share_of(rows, processes.rank(), processes.count()) for rows in self._batches)

    def share_of(self, rows: list[int], rank: int, count: int) -> Share:
        """Return what one of `count` processes computes of a batch."""
        parts = cut_between_pictures(rows, self._image_index, count)
        if min(map(len, parts)) == 0:
            parts = [rows] * count
        labelled = [int(self._has_label[part].sum()) for part in parts]
        total = sum(map(len, parts))
        return Share(
            rows=parts[rank],
            total=total,
            smallest=min(map(len, parts)),
            of_rows=len(parts[rank]) / total,
            of_labels=labelled[rank] / max(1, sum(labelled)),
        )


def cut_between_pictures(
    rows: list[int], image_index: NDArray[np.int64], count: int
) -> list[list[int]]:
    """Cut a batch into parts, in its order, no picture in two of them; parts may be empty.

    Args:
        rows: The batch; rows that show the same picture follow one another.
        image_index: int64 [rows of the split], the picture of each; negative where it has none.
        count: How many parts.
    """
    if count == 1:
        return [rows]
    images = image_index[rows]
    is_start = np.ones(len(rows), bool)
    is_start[1:] = (images[1:] != images[:-1]) | (images[1:] < 0)
    starts = np.append(np.flatnonzero(is_start), len(rows))
    wanted = np.arange(count + 1) * len(rows) / count
    cuts = starts[np.abs(starts[None, :] - wanted[:, None]).argmin(axis=1)]
    return [rows[start:end] for start, end in pairwise(cuts)]
