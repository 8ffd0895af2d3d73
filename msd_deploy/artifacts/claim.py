"""Claims: one process at a time writes a run or another output folder; a second one is refused.

A claim is a hidden file beside the folder, `.NAME.claim`, that its process holds a lock of and
removes in the end. The system drops the lock when the process ends, however that happens, so a
claim that is left behind is taken over. A folder that is a mount point or whose parent is not
writable is locked itself. Reading commands need no claim. Where the system or the file system has
no locks, commands run unclaimed.
"""

import errno
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msd_deploy.artifacts.manifest import Json, utc_now
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError

if sys.platform != "win32":
    import fcntl

_HELD = (errno.EAGAIN, errno.EACCES)  # flock(2), and fcntl(2) in its place on NFS
# Each is lost only to a process that removes its claim, or a parent, at the same moment.
_TRIES = 100


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold the claim of an output until the block ends; of the whole run if it lies in one.

    Raises:
        ArtifactError: Another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    folder = _around(output.resolve())
    created = [parent for parent in folder.parents if not parent.exists()]
    is_fixed = folder.is_mount() or not (created or os.access(folder.parent, os.W_OK))
    claim = folder if is_fixed else folder.with_name(f".{folder.name}.claim")
    descriptor = _lock(folder, claim)
    try:
        yield
    finally:
        if descriptor is not None:
            if not is_fixed:
                with suppress(OSError):
                    claim.unlink()
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        for parent in created:
            with suppress(OSError):  # not empty
                parent.rmdir()


def read_finished(run: RunDirectory) -> Json:
    """Read run.json of a run whose distillation went to its end.

    Raises:
        ArtifactError: As `RunDirectory.read`, or the distillation did not finish; names the process
            that is at it.
    """
    content = run.read()
    if run.metrics.is_file():
        return content
    if holder := _holder_of(run.root.resolve()):
        raise ArtifactError(
            f"is not finished: it is in use by {holder}",
            where=run.root,
            fix="Wait until that process has ended",
        )
    raise ArtifactError(
        "is unfinished: it has no metrics.json",
        where=run.root,
        fix=f"Continue it with `msd distill --resume --out {shlex.quote(str(run.root))}`",
    )


def _holder_of(folder: Path) -> str | None:
    """Return another process that holds the claim of a folder, in words; None: no one does."""
    if sys.platform == "win32":
        return None
    for claim in (folder.with_name(f".{folder.name}.claim"), folder):
        try:
            descriptor = os.open(claim, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            name = _named_in(claim)
            if error.errno in _HELD and not name.startswith(f"{_this_process()} "):
                return name
        finally:
            os.close(descriptor)
    return None


def _around(output: Path) -> Path:
    """Return the run or study that an output lies in, or the output itself."""
    for folder in (output, *output.parents):
        run = RunDirectory(folder)
        if run.run_json.is_file() or run.study_json.is_file():
            return folder
    return output


def _lock(folder: Path, claim: Path) -> int | None:
    """Return a descriptor that holds the lock of a claim; None where there are no locks."""
    create = 0 if claim == folder else os.O_CREAT
    for _ in range(_TRIES):
        try:
            if create and not claim.parent.exists():
                claim.parent.mkdir(parents=True, exist_ok=True)
            # Not opened for writing: another user's claim may only be readable.
            descriptor = os.open(claim, os.O_RDONLY | create, 0o666)
        except FileNotFoundError:  # another process has just removed a parent that it had created
            continue
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not create:
                return descriptor
            if _is_new(descriptor, claim):
                with suppress(OSError):  # a full disk; the lock is held all the same
                    claim.write_text(_holder(), encoding="utf-8", errors="backslashreplace")
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _HELD:
                return None
            raise ArtifactError(
                f"is in use by {_named_in(claim)}",
                where=folder,
                fix="Wait until it has ended, or stop it",
            ) from error
        os.close(descriptor)
    return None


def _is_new(descriptor: int, claim: Path) -> bool:
    """Return whether a locked claim is there and unused; that of an ended process is removed."""
    locked = os.fstat(descriptor)
    try:
        if not os.path.samestat(locked, claim.stat()):
            return False
    except FileNotFoundError:
        return False
    if locked.st_size:
        claim.unlink()
    return not locked.st_size


def _holder() -> str:
    """Return this process in the words of the message that others get."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "msd")
    command = " ".join(shlex.join([program, *sys.argv[1:]]).split())
    return f"{_this_process()} since {utc_now()} ({command})"


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _named_in(claim: Path) -> str:
    try:
        return claim.read_text(encoding="utf-8") or "another process"
    except (OSError, ValueError):  # a folder that is locked itself
        return "another process"
