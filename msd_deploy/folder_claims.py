"""Which half-built folders a process is still writing, and which a kill left behind.

The writer holds a lock on the folder. The system drops it when the process ends, however that
happens: no age and no process number has to be guessed from. Windows has no such lock; there every
folder counts as left behind.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def claimed_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty folder that is not `unclaimed` until the block ends."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        descriptor = _lock(folder, wait=True)
        if folder.exists():  # a remover may have come between the two lines above
            break
        _unlock(descriptor)
    try:
        yield folder
    finally:
        _unlock(descriptor)


@contextmanager
def unclaimed(folder: Path) -> Iterator[bool]:
    """Yield whether no process is writing a folder; none will claim it until the block ends."""
    descriptor = _lock(folder, wait=False)
    try:
        yield descriptor is not None or sys.platform == "win32"
    finally:
        _unlock(descriptor)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Return a descriptor that holds the lock; None if others hold it, or there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
