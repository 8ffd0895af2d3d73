"""The rows of a FILE.jsonl: each line parsed and checked, its picture found and hashed.

A row that cannot be used is named with its reason, never a crash. What the rows make together
(classes, splits, what is refused as a whole) is `jsonl`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn, cast

from msd_deploy.artifacts import sha256_of_file
from msd_deploy.data.source_types import Split
from msd_deploy.errors import DataError

_SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_JSON_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class _UnusableRowError(ValueError):
    """A row cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable line.

    Attributes:
        line: Its number in the file, from 1.
        image_path: Absolute path of its picture, or "".
        image_sha256: SHA-256 of the picture's bytes, or "".
        text: Its text, or None.
        labels: Its class names, sorted; exactly one where the file says `label`.
        split: The split that it states, if any.
    """

    line: int
    image_path: str
    image_sha256: str
    text: str | None
    labels: tuple[str, ...]
    split: Split | None

    @property
    def key(self) -> str:
        """What stands in one split only: the picture's digest, else the text's."""
        return self.image_sha256 or hashlib.sha256((self.text or "").encode()).hexdigest()


@dataclass(slots=True)
class Scan:
    """What one pass over the file found.

    Attributes:
        rows: The usable rows, in the file's order.
        skipped: By line, why a row cannot be used.
        class_rows: By class name, how many rows name it, unusable ones included.
        first_line_with: By key, the first line that has `label` or `labels`.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    class_rows: Counter[str] = field(default_factory=Counter)
    first_line_with: dict[str, int] = field(default_factory=dict)


def scan_rows(path: Path) -> Scan:
    """Read every row of a file; each picture that it names is hashed once.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    scan, pictures = Scan(), _Pictures(path.parent)
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    _scan_line(scan, line, raw, pictures)
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, fix="Check --data") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
    return scan


def _scan_line(scan: Scan, line: int, raw: bytes, pictures: "_Pictures") -> None:
    try:
        values = _parse_object(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw)
        for key in ("label", "labels"):
            if values.get(key) is not None:
                scan.first_line_with.setdefault(key, line)
        labels = _parse_labels(values)
        scan.class_rows.update(labels)
        split = _parse_split(values.get("split"))
        text = _parse_text(values.get("text"))
        image_path, image_sha256 = pictures.find(values.get("image"))
        if not image_path and text is None:
            raise _UnusableRowError("has neither image nor text")
    except _UnusableRowError as error:
        scan.skipped[line] = str(error)
    else:
        scan.rows.append(Row(line, image_path, image_sha256, text, labels, split))


def _parse_object(raw: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(raw.rstrip().decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _UnusableRowError(f"is not UTF-8 (byte {error.start + 1})") from error
    except RecursionError as error:
        raise _UnusableRowError("is not JSON that can be read (nested too deeply)") from error
    except json.JSONDecodeError as error:
        reason = f"is not JSON ({error.msg} at column {error.colno})"
        raise _UnusableRowError(reason) from error
    # A forbidden constant, or an integer of more digits than Python converts.
    except ValueError as error:
        raise _UnusableRowError(f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _UnusableRowError(f"is {_JSON_TYPES[type(value)]}, not a JSON object")
    return cast(Mapping[str, object], value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _parse_labels(values: Mapping[str, object]) -> tuple[str, ...]:
    several = values.get("labels")
    if several is None:
        if values.get("label") is None:
            raise _UnusableRowError("has no label (unlabelled rows are not used yet)")
        return (_class_name(values["label"], "label"),)
    if not isinstance(several, list):
        raise _UnusableRowError(f"labels is {_JSON_TYPES[type(several)]}, not a list")
    return tuple(sorted({_class_name(value, "an entry of labels") for value in several}))


def _class_name(value: object, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _UnusableRowError(f"{what} is {_JSON_TYPES[type(value)]}, not a string or integer")
    name = str(value)
    if not name.strip():
        raise _UnusableRowError(f"{what} is empty")
    return _without_surrogates(name, what)


def _parse_split(value: object) -> Split | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in _SPLIT_NAMES:
        raise _UnusableRowError(f"unknown split {value!r}: use train, validation or test")
    return _SPLIT_NAMES[value]


def _parse_text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _UnusableRowError(f"text is {_JSON_TYPES[type(value)]}, not a string")
    return _without_surrogates(value, "text") if value.strip() else None


def _without_surrogates(value: str, what: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _UnusableRowError(f"{what} holds half a surrogate pair, no character") from error
    return value


class _Pictures:
    """Finds the pictures of one folder and hashes each file once.

    Args:
        folder: Where the file that names them lies; no picture may lie outside, links followed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, name: object) -> tuple[str, str]:
        """Return a picture's absolute path and the SHA-256 of its bytes, "" and "" for none."""
        if name is None or name == "":
            return "", ""
        if not isinstance(name, str):
            raise _UnusableRowError(f"image is {_JSON_TYPES[type(name)]}, not a string")
        if name not in self._found:
            path = self._resolve(_without_surrogates(name, "image"))
            try:
                self._found[name] = str(path), sha256_of_file(path)
            except OSError as error:
                reason = f"image {name!r} cannot be read ({error.strerror})"
                raise _UnusableRowError(reason) from error
        return self._found[name]

    def _resolve(self, name: str) -> Path:
        absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
        if absolute or "\0" in name or ".." in re.split(r"[\\/]", name):
            raise _UnusableRowError(f"image {name!r} leaves the data folder")
        try:
            path = (self._folder / name).resolve(strict=True)
        except FileNotFoundError as error:
            raise _UnusableRowError(f"image {name!r} is missing") from error
        # Before Python 3.13 a loop of links is a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise _UnusableRowError(f"image {name!r} cannot be read ({error})") from error
        if not path.is_relative_to(self._root):
            raise _UnusableRowError(f"image {name!r} leaves the data folder")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise _UnusableRowError(f"image {name!r} is {kind}")
        return path
