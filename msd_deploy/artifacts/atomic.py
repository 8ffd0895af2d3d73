"""Atomic writes: files and folders appear whole or not at all; leftovers of interrupted writes go.

Each is built under a temporary, hidden sibling name and renamed when it is complete. An older
folder is exchanged for the new one in one step where the operating system and the file system can;
elsewhere it is put aside first, and put back if the process ends between the two renames.

The writer holds a lock on the folder that it builds. The system drops it when the process ends,
however that happens, so stale folders are recognised without guessing from ages or process numbers.
Windows has no such lock; there every temporary folder counts as stale.
"""

import ctypes
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msd_deploy.artifacts.write_errors import write_error

if sys.platform != "win32":
    import fcntl

# The lock is on the folder itself. filelock (4.3) locks files only: IsADirectoryError for a folder.
# A lock file beside the folder stays in the user's folder after every write, killed or not; one
# inside it has to be removed before the rename, and another process can then claim the folder while
# it is still being written.

BUILDING, _RETIRED = "building-", "retired-"
"""Ends of the temporary names, before a random part."""
_AT_FDCWD = -100  # paths are relative to the working directory (fcntl.h)
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


@contextmanager
def claimed_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty folder that this process holds the lock of until the block ends."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()  # with the mode that the umask gives; that of tempfile is 0700
        descriptor = _lock(folder, wait=True)
        if folder.exists():  # another process may have removed it between the two lines above
            break
        _unlock(descriptor)
    try:
        yield folder
    finally:
        _unlock(descriptor)


@contextmanager
def unclaimed(folder: Path) -> Iterator[bool]:
    """Yield whether no process is writing a folder; its lock is held until the block ends."""
    descriptor = _lock(folder, wait=False)
    try:
        yield descriptor is not None or sys.platform == "win32"
    finally:
        _unlock(descriptor)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Return a descriptor that holds the lock; None if it is taken or there are no locks."""
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


def exchange_folders(first: Path, second: Path) -> bool:
    """Exchange two folders in one step: neither path is ever missing.

    Python has no function for it; Linux has renameat2 and macOS renamex_np, in the C library.

    Returns:
        Whether the folders were exchanged; if not, both are as they were.
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


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling file that becomes `final` when the block ends without an error.

    The file is flushed to disk first, and has the mode that the umask gives, whatever wrote it. On
    any error it is removed and `final` stays as it was.

    Raises:
        ArtifactError: It cannot be written; see `write_error`.
    """
    building = final.with_name(f".{final.name}.{BUILDING}{secrets.token_hex(4)}")
    with _write_errors(final), _in_its_parents(final):
        building.touch(exist_ok=False)
        mode = stat.S_IMODE(building.stat().st_mode)
        try:
            yield building
            with building.open("rb+") as file:
                os.fsync(file.fileno())
            _set_mode(building, mode)
            building.replace(final)
        except BaseException:
            building.unlink(missing_ok=True)
            raise


@contextmanager
def _write_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if (failure := write_error(error, final)) is not None:
            raise failure from error
        raise


@contextmanager
def _in_its_parents(final: Path) -> Iterator[None]:
    """Create the folders that an output lies in; those that were missing go if it fails."""
    missing = [parent for parent in final.parents if not parent.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # something else is in it by now
                parent.rmdir()
        raise


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


@contextmanager
def new_folder(final: Path, *, keeps_programs: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `final` when the block ends without an error.

    An existing `final` is replaced only then, and at once where the file system can exchange two
    folders. All in it gets the mode that the umask gives, whatever wrote it. On any error the
    temporary folder is removed and `final` stays as it was.

    Args:
        final: The folder.
        keeps_programs: Leave files executable that their owner can execute. Otherwise none is.

    Raises:
        ArtifactError: It cannot be written; see `write_error`.
    """
    prefix = f".{final.name}.{BUILDING}"
    with (
        _write_errors(final),
        _in_its_parents(final),
        claimed_folder(final.parent, prefix) as building,
    ):
        try:
            mode = stat.S_IMODE(building.stat().st_mode)
            yield building
            for path in building.rglob("*"):
                if not path.is_symlink():
                    is_program = keeps_programs and path.stat().st_mode & stat.S_IXUSR
                    _set_mode(path, mode if path.is_dir() or is_program else mode & 0o666)
            _replace_folder(building, final)
        finally:
            remove_path(building)


def _replace_folder(building: Path, final: Path) -> None:
    """Rename a folder; an older `final`, or the folder that holds it, is then at `building`."""
    if not final.exists():
        building.rename(final)
    elif not exchange_folders(building, final):
        with claimed_folder(final.parent, f".{final.name}.{_RETIRED}") as retired:
            final.rename(retired / final.name)
            building.rename(final)
            retired.rename(building)


def unfinished_writes(folder: Path) -> list[Path]:
    """Return the temporary files and folders of `new_file` and `new_folder` in a folder.

    They are leftovers of interrupted writes, or other processes are writing them at the moment.
    """
    found = (folder.glob(f".*.{kind}*") for kind in (BUILDING, _RETIRED))
    return [path for paths in found for path in paths]


def remove_stale_writes(folder: Path) -> None:
    """Remove leftovers of interrupted writes from a folder in which no other process writes files.

    Folders that another process is writing stay.
    """
    remove_stale_folders(folder)
    for path in unfinished_writes(folder):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def remove_stale_folders(folder: Path) -> None:
    """Remove temporary folders that no process is writing any more.

    Where a process ended after it had put an old folder aside, the old folder is put back.
    """
    for path in unfinished_writes(folder):
        if path.is_dir():
            with unclaimed(path) as is_free:
                if is_free:
                    _put_back(path, folder)
                    remove_path(path)


def _put_back(retired: Path, folder: Path) -> None:
    """Undo the first rename of `_replace_folder` if the second was not reached."""
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
    """Return whether there is anything at a path but an empty folder and unfinished writes."""
    if not path.is_dir():
        return path.exists()
    return bool(set(path.iterdir()) - set(unfinished_writes(path)))
