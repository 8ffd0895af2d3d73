"""Atomic writes: files and folders appear whole or not at all; leftovers of a kill are removed.

Each is built under a temporary, hidden sibling name and renamed when it is complete.

Which half-built folders a process is still writing, and which a kill left behind.

The writer holds a lock on the folder. The system drops it when the process ends, however that
happens: no age and no process number has to be guessed from. Windows has no such lock; there every
folder counts as left behind.

Exchange two folders in one step, where the operating system and the file system can.

Renaming replaces a file in one step, but no folder that holds something. Python has no function
for it; Linux has renameat2 and macOS renamex_np, in the C library.
"""

import ctypes
import os
import shutil
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


_AT_FDCWD = -100  # paths are relative to the working directory (fcntl.h)
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


def exchange_folders(first: Path, second: Path) -> bool:
    """Let each of two paths be the other, at once: nobody ever sees one of them missing.

    Returns:
        Whether it was done; where it cannot be, nothing was.
    """
    one, other = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "linux":
            rename = ctypes.CDLL(None).renameat2
            return bool(rename(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0)
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(one, other, _RENAME_SWAP) == 0)
    except AttributeError:  # a C library that lacks the function
        return False
    return False


_BUILDING, _RETIRED = "building-", "retired-"


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling file that becomes `final` when the block ends without an error.

    It is flushed to disk first. On any error it is removed and `final` stays as it was.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.{_BUILDING}")
    os.close(descriptor)
    building = Path(name)
    try:
        yield building
        with building.open("rb+") as file:
            os.fsync(file.fileno())
        building.chmod(0o644)
        building.replace(final)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `final` when the block ends without an error.

    An existing `final` is replaced only then, and at once where the file system can exchange two
    folders. On any error the temporary folder is removed and `final` stays as it was.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with claimed_folder(final.parent, f".{final.name}.{_BUILDING}") as building:
        try:
            building.chmod(0o755)
            yield building
            _replace_folder(building, final)
        finally:
            remove_path(building)


def _replace_folder(building: Path, final: Path) -> None:
    """Rename a folder; an older one then lies, or lies in what is, where it was built."""
    if not final.exists():
        building.rename(final)
    elif not exchange_folders(building, final):
        with claimed_folder(final.parent, f".{final.name}.{_RETIRED}") as retired:
            final.rename(retired / final.name)
            building.rename(final)
            retired.rename(building)


def left_by_a_kill(folder: Path) -> list[Path]:
    """Return what `new_file` and `new_folder` left half-built in a folder when killed.

    What other processes are building just now looks the same.
    """
    found = (folder.glob(f".*.{kind}*") for kind in (_BUILDING, _RETIRED))
    return [path for paths in found for path in paths]


def remove_left_by_a_kill(folder: Path) -> None:
    """Remove it; nobody else may be writing files there, folders that are being written stay."""
    remove_folders_left_by_a_kill(folder)
    for path in left_by_a_kill(folder):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def remove_folders_left_by_a_kill(folder: Path) -> None:
    """Remove half-built folders that nobody writes any more.

    Where a kill came while an old folder was put aside for a new one, the old one is put back.
    """
    for path in left_by_a_kill(folder):
        if path.is_dir():
            with unclaimed(path) as is_free:
                if is_free:
                    _put_back(path, folder)
                    remove_path(path)


def _put_back(retired: Path, folder: Path) -> None:
    """Undo the first of the renames of `_replace_folder`, if the second was not reached."""
    name = retired.name[1:].rpartition(f".{_RETIRED}")[0]
    if name and (retired / name).exists() and not (folder / name).exists():
        (retired / name).rename(folder / name)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def holds_something(path: Path) -> bool:
    """Return whether there is anything at a path, but for an empty folder or a killed start's."""
    if not path.is_dir():
        return path.exists()
    return bool(set(path.iterdir()) - set(left_by_a_kill(path)))
