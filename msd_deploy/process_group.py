"""The process group of `accelerate launch`: rank, barriers, all-reduce and gather.

Every process runs the same code; only the main process writes files. The functions here synchronize
decisions and exchange tensors. Without a launcher there is one process, and each returns at once.
The output folders must be on a file system that all machines of a launch share.
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

# A lost process is detected by its closed connections, not by this timeout: it bounds how long the
# other processes wait while the main one decodes images.
_TIMEOUT = timedelta(hours=24)
_FAILURES = "msd-failures"
_Item = TypeVar("_Item")


def begin() -> None:
    """Initialize the process group of a launch with several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        # Without a GPU accelerate would otherwise leave the processes unconnected.
        is_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
        PartialState(cpu=is_cpu or not torch.cuda.is_available(), timeout=_TIMEOUT)


def end() -> None:
    """Destroy the process group; call it when all work is done, not after an error."""
    if world_size() > 1:
        barrier()
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    is_initialized = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_initialized else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is the main process, which alone writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has reached this call."""
    if world_size() > 1:
        with _wrap_lost_process():
            distributed.barrier()


@contextmanager
def local_main_process_first() -> Iterator[None]:
    """Run a block in one process per machine first, then in the others, which reuse its caches."""
    is_first = world_size() == 1 or PartialState().is_local_main_process
    if not is_first:
        barrier()
    yield
    if is_first:
        barrier()


def broadcast_from_main(value: float) -> float:
    """Return the main process's value."""
    if world_size() == 1:
        return value
    own = torch.tensor(value if is_main() else 0.0, dtype=torch.float64, device=_device())
    return float(all_reduce(own).item())


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Return, for each flag, whether it is true in any process."""
    if world_size() == 1:
        return flags
    counts = torch.tensor(flags, dtype=torch.float32, device=_device())
    return tuple(count > 0 for count in all_reduce(counts).tolist())


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; the result is bit-equal in all of them."""
    if world_size() > 1:
        with _wrap_lost_process():
            distributed.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Replace each element by its maximum over all processes, in place."""
    if world_size() > 1:
        with _wrap_lost_process():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate the rows [rows, ...] of all processes, in the order of their ranks.

    Args:
        rows: Rows of this process; only their number may differ between processes.
    """
    if world_size() == 1:
        return rows
    device, own = rows.device, rows.to(_device())
    lengths = torch.zeros(world_size(), dtype=torch.int64, device=own.device)
    lengths[rank()] = len(own)
    counts = [int(length) for length in all_reduce(lengths).tolist()]
    padded = own.new_zeros((max(counts), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in counts]
    with _wrap_lost_process():
        distributed.all_gather(parts, padded)
    kept = [part[:length] for part, length in zip(parts, counts, strict=True)]
    return torch.cat(kept).to(device)


def own_rows(rows: Tensor, length: int) -> Tensor:
    """Return this process's rows of the result of `all_gather`.

    Args:
        rows: Rows of all processes.
        length: Number of rows of this process.
    """
    if world_size() == 1:
        return rows
    lengths = torch.zeros(world_size(), dtype=torch.int64, device=_device())
    lengths[rank()] = length
    start = int(all_reduce(lengths)[: rank()].sum())
    return rows[start : start + length]


def all_gather_array(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Concatenate the rows of all processes; see `all_gather`."""
    return rows if world_size() == 1 else all_gather(torch.from_numpy(rows)).numpy()


def own_part(items: Sequence[_Item]) -> Sequence[_Item]:
    """Return this process's contiguous part of a sequence.

    The parts in the order of the ranks are the sequence; the first ones may be one item longer.
    """
    size, larger = divmod(len(items), world_size())
    start = rank() * size + min(rank(), larger)
    return items[start : start + size + (rank() < larger)]


def is_first_to_fail() -> bool:
    """Return whether no other process has failed before, so that one of them reports the error."""
    if world_size() == 1:
        return os.environ.get("RANK", "0") == "0"
    try:
        return int(_get_default_store().add(_FAILURES, 1)) == 1
    except RuntimeError:  # the process that held the store has ended, and has reported why
        return False


def _device() -> torch.device:
    device = PartialState().device
    assert isinstance(device, torch.device)
    return device


@contextmanager
def _wrap_lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this command has ended, or cannot be reached",
            fix="See its error message; continue a training that had begun with --resume",
        ) from error
