"""The process group of `accelerate launch`: rank, barriers, all-reduce and gather.

Every process runs the same code. Where all must take one decision, or need what the others have
computed, they meet here; where something is written, only the main one does. Without a launcher
there is one process, and each function returns at once. The folders that a command writes must lie
on a file system that all machines of a launch share.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import _get_default_store

from msd_deploy.errors import LostProcessError

# Not how a lost process is noticed (its connections close, and the launcher ends the others), but
# how long the others may wait while the main one decodes pictures.
_PATIENCE = timedelta(hours=24)
_FAILURES = "msd-failures"
_Item = TypeVar("_Item")


def begin() -> None:
    """Join the other processes of a launch, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        # Without a GPU accelerate would start processes that do not know of one another.
        is_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
        PartialState(cpu=is_cpu or not torch.cuda.is_available(), timeout=_PATIENCE)


def end() -> None:
    """Leave the others; to be called when all work is done, not after an error."""
    if count() > 1:
        wait()
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes there are."""
    is_joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_joined else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Return whether this is the process that writes."""
    return rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        with _noticing_loss():
            distributed.barrier()


@contextmanager
def first_of_each_machine() -> Iterator[None]:
    """Run a block first in one process a machine, then in the others, which find its caches."""
    is_first = count() == 1 or PartialState().is_local_main_process
    if not is_first:
        wait()
    yield
    if is_first:
        wait()


def as_main_says(value: float) -> float:
    """Return the main process's value."""
    if count() == 1:
        return value
    said = torch.tensor(value if is_main() else 0.0, dtype=torch.float64, device=_device())
    return float(add_up(said).item())


def any_says(*answers: bool) -> tuple[bool, ...]:
    """Return, for each question, whether any process answers yes."""
    if count() == 1:
        return answers
    votes = torch.tensor(answers, dtype=torch.float32, device=_device())
    return tuple(vote > 0 for vote in add_up(votes).tolist())


def add_up(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place; all get the same bits."""
    if count() > 1:
        with _noticing_loss():
            distributed.all_reduce(tensor)
    return tensor


def largest(tensor: Tensor) -> Tensor:
    """Replace each element by the largest of all processes, in place."""
    if count() > 1:
        with _noticing_loss():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor


def joined(rows: Tensor) -> Tensor:
    """Return every process's rows [rows, ...], one after the other in the order of the processes.

    Args:
        rows: Of this process; others may have another number, of the same shape otherwise.
    """
    if count() == 1:
        return rows
    device, own = rows.device, rows.to(_device())
    lengths = torch.zeros(count(), dtype=torch.int64, device=own.device)
    lengths[rank()] = len(own)
    stated = [int(length) for length in add_up(lengths).tolist()]
    padded = own.new_zeros((max(stated), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in stated]
    with _noticing_loss():
        distributed.all_gather(parts, padded)
    kept = [part[:length] for part, length in zip(parts, stated, strict=True)]
    return torch.cat(kept).to(device)


def own_of_joined(rows: Tensor, length: int) -> Tensor:
    """Return this process's rows out of `joined` ones.

    Args:
        rows: Of all.
        length: How many are this one's.
    """
    if count() == 1:
        return rows
    lengths = torch.zeros(count(), dtype=torch.int64, device=_device())
    lengths[rank()] = length
    start = int(add_up(lengths)[: rank()].sum())
    return rows[start : start + length]


def joined_array(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return every process's rows; see `joined`."""
    return rows if count() == 1 else joined(torch.from_numpy(rows)).numpy()


def part_of(items: Sequence[_Item]) -> Sequence[_Item]:
    """Return this process's part of a sequence: parts differ by one item at most, first are larger.

    All parts in the order of the processes are the sequence.
    """
    size, larger = divmod(len(items), count())
    start = rank() * size + min(rank(), larger)
    return items[start : start + size + (rank() < larger)]


def is_first_to_fail() -> bool:
    """Return whether no other process has failed before: one of them tells the user of an error."""
    if count() == 1:
        return os.environ.get("RANK", "0") == "0"
    try:
        return int(_get_default_store().add(_FAILURES, 1)) == 1
    except RuntimeError:  # the process that held the store has told of its end
        return False


def _device() -> torch.device:
    device = PartialState().device
    assert isinstance(device, torch.device)
    return device


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this command has ended, or cannot be reached",
            fix="See what it said; a training that had begun continues with --resume",
        ) from error
