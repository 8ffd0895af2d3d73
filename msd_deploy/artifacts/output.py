"""Whether a command may write its output, and how it begins: one policy for all commands.

    nothing there             new
    there, with --resume      continued, if it was started with the same settings; a study of
                              `msd compare` is continued without being asked
    there, without            refused
    there, with --overwrite   replaced, if it is of the kind that the command writes and holds
                              nothing that the command reads

The reports that `msd bench` and `msd report` write into a run, in reports/, are always replaced:
they are made from the run again.

Everything is checked before any work. What is begun by a record (run.json, study.json,
training.json) replaces an older one in a single step; what is written as a whole does so by
`new_file` or `new_folder` in the end.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from msd_deploy.artifacts.atomic import (
    BUILDING,
    claimed_folder,
    holds_something,
    new_folder,
    remove_path,
)
from msd_deploy.artifacts.manifest import Json, write_json
from msd_deploy.errors import ArtifactError

ANOTHER_OUT = "Choose another --out"
COPY_TO_RESUME = "Copy it to a folder that can be written, and resume there"
RESUMABLE = f"{ANOTHER_OUT}, continue with --resume, or replace it with --overwrite"
# Bind mounts; lower layers of an overlay, as in container images; parents of other users.
_NOT_RENAMABLE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)


def user_cache() -> Path:
    """Return the folder of this project in the user's cache, whether it is there or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "msd-deploy"


def folder_beside(folder: Path, what: str) -> Path:
    """Return the default folder for what is made of another: NAME-WHAT beside it."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(f"{named.name}-{what}")


def check_output(
    path: Path,
    kind: str,
    *,
    is_kind: bool,
    overwrite: bool,
    fix: str,
    inputs: Iterable[Path | None] = (),
) -> bool:
    """Check that an output may be written.

    Args:
        path: The file or folder.
        kind: What the command writes there, for messages.
        is_kind: Whether what is there is of that kind; nothing else is ever replaced.
        overwrite: Whether the user allows to replace it.
        fix: What to do if not.
        inputs: What the command reads.

    Returns:
        Whether something is replaced.

    Raises:
        ArtifactError: It may not be written.
    """
    if not holds_something(path):
        check_writable(path)
        return False
    if not is_kind:
        raise ArtifactError(
            f"already exists and is not a {kind}, so it is not overwritten",
            where=path,
            fix=ANOTHER_OUT,
        )
    if not overwrite:
        raise ArtifactError("already exists", where=path, fix=fix)
    for read in inputs:
        if read is not None and read.resolve().is_relative_to(path.resolve()):
            raise ArtifactError(
                f"lies in the {kind} that would be overwritten",
                where=read,
                fix="Copy it elsewhere first, or choose another --out",
            )
    check_writable(path)
    return True


def check_writable(path: Path, *, fix: str = ANOTHER_OUT) -> None:
    """Check, by creating a folder and removing it, that an output can be written.

    Permissions alone do not say so: root may write everywhere, but not in /proc.

    Raises:
        ArtifactError: It cannot be.
    """
    parents = path.absolute().parents
    nearest = path if path.is_dir() else next(folder for folder in parents if folder.exists())
    if not nearest.is_dir():
        raise ArtifactError(f"cannot be created: {nearest} is not a folder", where=path, fix=fix)
    try:
        with claimed_folder(nearest, f".{path.name}.{BUILDING}") as probe:
            try:
                probe.rmdir()
            except BaseException:  # Ctrl-C
                remove_path(probe)
                raise
    except OSError as error:
        raise ArtifactError(
            f"cannot be written: {nearest} takes no new files ({error.strerror})",
            where=path,
            fix=fix,
        ) from error


def check_same_settings(path: Path, before: Json, now: Json, *, fix: str) -> None:
    """Check that what is resumed was started with the same settings.

    Raises:
        ArtifactError: It was not; the first difference is named.
    """
    if before != now:
        raise ArtifactError(
            f"was started with other settings ({_first_difference(before, now)})",
            where=path,
            fix=fix,
        )


def check_inputs_exist(inputs: Mapping[str, Path | None], record: Path) -> None:
    """Check that what is resumed finds its inputs where they were; names on the hub have no place.

    Args:
        inputs: Absolute paths, and names, by key of the configuration.
        record: The file that has it.

    Raises:
        ArtifactError: One is missing.
    """
    for key, path in inputs.items():
        if path is not None and path.is_absolute() and not path.exists():
            raise ArtifactError(
                "is missing, and what is resumed was started with it",
                where=path,
                fix=f"Put it back, or set config.{key} to its absolute path in {record}",
            )


def _first_difference(before: Json, now: Json, prefix: str = "") -> str:
    """Return the first key in which two configurations differ, and both values."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _first_difference(old, new, f"{prefix}{key}.")
        if old != new:
            return f"{prefix}{key}: {old!r} then, {new!r} now"
    return "none found"


def begin_folder(folder: Path, name: str, record: Json, *, replaces: bool) -> None:
    """Write the record that a folder begins with.

    An older folder is replaced in one step: whenever the command is killed, there is the old one or
    the new one. A folder that cannot be renamed (a mount point, the working directory, one in a
    parent that is not writable) is emptied instead.

    Args:
        folder: What the command writes into.
        name: The record's file in it.
        record: Its content.
        replaces: Whether an older folder is replaced.
    """
    if replaces:
        real = folder.resolve()
        if _is_renamable(real):
            try:
                with new_folder(real) as building:
                    write_json(building / name, record)
                return
            except (OSError, ArtifactError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in _NOT_RENAMABLE:
                    raise
        for path in real.iterdir():
            remove_path(path)
    write_json(folder / name, record)


def _is_renamable(folder: Path) -> bool:
    """Return whether a folder may be exchanged for another one.

    A mount point cannot be, and a process whose working directory lies in a folder that is
    exchanged and removed can no longer open relative paths.
    """
    try:
        is_around_us = Path.cwd().is_relative_to(folder)
    except FileNotFoundError:  # the working directory was removed
        is_around_us = False
    return not folder.is_mount() and not is_around_us
