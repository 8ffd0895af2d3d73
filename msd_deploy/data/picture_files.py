"""The picture files that rows name: found inside their folder, hashed once, never decoded."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from msd_deploy.artifacts import sha256_of_file
from msd_deploy.data.rows import UnusableRowError, shown, type_name, without_surrogates


class PictureFiles:
    """Finds the pictures of one folder and hashes each file once.

    Args:
        folder: What names are relative to; no picture may lie outside, links followed.
        root: The folder that may not be left, where it is another.
    """

    def __init__(self, folder: Path, *, root: Path | None = None) -> None:
        self._folder = folder
        self._root = (root or folder).resolve()
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, name: object, *, key: str = "image") -> tuple[str, str]:
        """Return a picture's absolute path and the SHA-256 of its bytes, "" and "" for none.

        Args:
            name: Its name as the row has it; None and "" are no picture.
            key: What the row calls it.

        Raises:
            UnusableRowError: It is no name, leaves the folder, or cannot be read.
        """
        if name is None or name == "":
            return "", ""
        if not isinstance(name, str):
            raise UnusableRowError(f"{key} is {type_name(name)}, not a string")
        if name not in self._found:
            path = file_inside(self._folder, without_surrogates(name, key), self._root, what=key)
            try:
                self._found[name] = str(path), sha256_of_file(path)
            except OSError as error:
                reason = f"{key} {shown(name)} cannot be read ({error.strerror})"
                raise UnusableRowError(reason) from error
        return self._found[name]


def file_inside(folder: Path, name: str, root: Path, *, what: str) -> Path:
    """Return the resolved path of a regular file that does not leave a folder.

    Args:
        folder: What the name is relative to.
        name: A relative path; either slash separates.
        root: The resolved folder that may not be left, links followed.
        what: What the file is, for the reason.

    Raises:
        UnusableRowError: It leaves the folder, is missing, or is no regular file.
    """
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if absolute or "\0" in name or ".." in re.split(r"[\\/]", name):
        raise UnusableRowError(f"{what} {shown(name)} leaves the data folder")
    try:
        path = (folder / name).resolve(strict=True)
    except FileNotFoundError as error:
        raise UnusableRowError(f"{what} {shown(name)} is missing") from error
    # Before Python 3.13 a loop of links is a RuntimeError.
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "a loop of links"
        raise UnusableRowError(f"{what} {shown(name)} cannot be read ({why})") from error
    if not path.is_relative_to(root):
        raise UnusableRowError(f"{what} {shown(name)} leaves the data folder")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise UnusableRowError(f"{what} {shown(name)} is {kind}")
    return path
