"""Failed writes as errors of one line: what cannot be written, why, and what to do.

Libraries report a full disk in exceptions of their own (safetensors in a SafetensorError), with the
operating system's words in the message.
"""

import errno
import os
import tempfile
from pathlib import Path

from msd_deploy.errors import ArtifactError, MsdError

_FREE_SPACE = "Free some space and run the command again, a training with --resume"
_WRITABLE = "Use a folder that can be written"
_FIXES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "Raise the limit of file sizes (`ulimit -f`), or use another disk",
    errno.EIO: "Check the disk, or use another one",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
}
# Only writing fails in these ways.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_CACHES = ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


def write_error(error: BaseException, path: Path | None = None) -> ArtifactError | None:
    """Return an exception as an error of one line if it is a failed write, otherwise None.

    Args:
        error: What was raised, or what it was raised from.
        path: What was being written, under this name or a hidden one beside it; None: unknown.
    """
    number, where = _number(error), path
    own: tuple[str, ...] = ()
    if path is not None:
        own = (str(path), str(path.with_name(f".{path.name}.")))
    if own and isinstance(error, ArtifactError) and not (error.where or own[0]).startswith(own):
        return None  # it names another file
    if number not in _FIXES:
        return None if error.__cause__ is None else write_error(error.__cause__, path)
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        # A failed copy names what it reads first, and second what it writes.
        named = os.fsdecode(error.filename2 or error.filename)
        if not named.startswith(own):
            if number not in _FULL:
                return None
            where = Path(named)
    what = "the output cannot be written" if where is None else "cannot be written"
    is_scratch = where != path and tempfile.tempdir is not None  # a temporary folder was made
    fix = "" if where is None else cache_fix(where, is_scratch=is_scratch)
    return ArtifactError(f"{what} ({os.strerror(number)})", where=where, fix=fix or _FIXES[number])


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error, also where a library has it in words only."""
    if isinstance(error, OSError) and error.errno is not None:  # None: shutil.Error, in words
        return error.errno
    if isinstance(error, MsdError):  # its words are ours; see what it was raised from
        return None
    return next((number for number in _FIXES if os.strerror(number) in str(error)), None)


def check_room(folder: Path, size_bytes: int) -> None:
    """Write a file of a size and remove it: what some libraries do not report is raised here.

    Raises:
        OSError: It cannot be written; names the folder.
    """
    chunk = bytes(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while file.tell() < size_bytes:
                file.write(chunk[: size_bytes - file.tell()])
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def cache_fix(path: Path, *, is_scratch: bool = False) -> str:
    """Return which variable moves a cache or a scratch folder, as a fix; empty for outputs."""
    scratch = [("TMPDIR", tempfile.gettempdir())] if is_scratch else []
    caches = [(name, os.environ.get(name, "")) for name in _CACHES]
    for variable, folder in (*scratch, *caches, ("HF_HOME", "~/.cache")):
        if folder and path.is_relative_to(Path(folder).expanduser().absolute()):
            return f"Set {variable} to a folder that can be written and has room"
    return ""
