"""Files and folders that appear whole or not at all, and what a kill leaves half-built of them.

Each is built under a temporary, hidden sibling name and renamed when it is complete.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msd_deploy.folder_claims import claimed_folder, unclaimed
from msd_deploy.folder_exchange import exchange_folders

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
            _remove(building)


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
                    _remove(path)


def _put_back(retired: Path, folder: Path) -> None:
    """Undo the first of the renames of `_replace_folder`, if the second was not reached."""
    name = retired.name[1:].rpartition(f".{_RETIRED}")[0]
    if name and (retired / name).exists() and not (folder / name).exists():
        (retired / name).rename(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def holds_something(path: Path) -> bool:
    """Return whether there is anything at a path, but for an empty folder or a killed start's."""
    if not path.is_dir():
        return path.exists()
    return bool(set(path.iterdir()) - set(left_by_a_kill(path)))
