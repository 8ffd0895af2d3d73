"""Rows of text files: JSON objects checked value by value, and the image files that they name.

A row that cannot be used raises `UnusableRowError` with its reason; the reader of the format adds
its place. Image files are looked up inside their folder and hashed once, never decoded. Splits and
classes are assigned by `assemble`.
"""

import codecs
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NoReturn, cast

from msd_deploy.artifacts.manifest import refuse_lfs_pointer, sha256_of_file
from msd_deploy.data.images import image_endings
from msd_deploy.data.source import Split
from msd_deploy.errors import DataError, counted

LABEL_KEYS = ("label", "labels")
WITHOUT_LABELS = (
    "train without labels: from a teacher (msd distill --teacher), such as one of `msd teacher"
    " --zero-shot`"
)
"""What to do about missing labels, for messages."""
IMAGE_KEYS = (
    "img",
    "file_name",
    "filename",
    "image_path",
    "img_path",
    "image_file",
    "picture",
    "photo",
)
"""What some call the image; understood where no row has `image`."""
_IN_BRACKETS = re.compile(r"\[.*\]", re.DOTALL)
# A class may be called [unknown].
_LIST_AS_TEXT = re.compile(r"""\[\s*(|['"].*['"]|[^\[]*,.*|[0-9.]+(\s+[0-9.]+)*)\s*\]""", re.DOTALL)
_KEYS = frozenset({"image", "text", "split", *LABEL_KEYS, *IMAGE_KEYS})
_MOST_KEYS_NAMED = 5
MOST_LINE_BYTES = 1 << 20
"""A longer line is no row, but a file that lost its line ends, or an attack."""
_SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_SHOWN_CHARACTERS = 80
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:image/", re.IGNORECASE)


class Digits(str):
    """An integer of JSON as it is written: -0 and 0 are two classes, as in a CSV."""

    __repr__ = str.__str__


_JSON_TYPES = {
    Digits: "a number",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class UnusableRowError(ValueError):
    """A row cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        file: Where it stands.
        line: Its line in the file, from 1; or its place in a list, as `questions[0]`.
        image_path: Absolute path of its image, or "".
        image_sha256: SHA-256 of the image's bytes, or "".
        text: Its text, or None.
        labels: Its class names, sorted; exactly one in a single-label problem; in a soft-label one
            each as often as people gave it, at most FULL_SCORE_VOTES times. None: no label.
        split: The split that it states, if any.
    """

    file: Path
    line: int | str
    image_path: str
    image_sha256: str
    text: str | None
    labels: tuple[str, ...] | None
    split: Split | None

    @property
    def origin(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"

    @property
    def key(self) -> str:
        """What stands in one split only: the image's digest, else the text's."""
        return self.image_sha256 or hashlib.sha256((self.text or "").encode()).hexdigest()


def type_name(value: object) -> str:
    """Return what a JSON value is, for a reason."""
    return _JSON_TYPES[type(value)]


def shown(value: object) -> str:
    """Return a JSON value as a reason shows it: short, whatever the file holds."""
    if isinstance(value, list | dict):
        return type_name(value)
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}... ({len(value):,} characters)"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of each line that is not blank.

    A byte-order mark is left out. Of a line that is too long, one byte more than
    `MOST_LINE_BYTES` is yielded, for `parse_object` to refuse.

    Raises:
        ArtifactError: The file is a Git LFS pointer.
        DataError: The file is missing, is not a regular file, or cannot be read.
    """
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(MOST_LINE_BYTES + 1):
                line += 1
                if line == 1:
                    refuse_lfs_pointer(path, raw)
                rest = raw
                while len(rest) > MOST_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = file.readline(MOST_LINE_BYTES + 1)
                if raw.strip():
                    yield line, raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error


def check_regular_file(path: Path) -> None:
    """Refuse what cannot be read as a file; to open a pipe would wait for ever.

    Raises:
        DataError: The file is missing, or is a folder, a pipe or a device.
    """
    if path.is_dir():
        raise DataError("is a folder", where=path)
    if not path.exists():
        raise DataError("no such file", where=path, fix="Check --data")
    if not path.is_file():
        raise DataError("is not a regular file", where=path)


def parse_object(
    raw: bytes,
    *,
    most_bytes: int = MOST_LINE_BYTES,
    parse_int: Callable[[str], object] = int,
) -> Mapping[str, object]:
    """Return the JSON object that bytes hold.

    Args:
        raw: The bytes.
        most_bytes: How many there may be.
        parse_int: Makes an integer of what is written, as `Digits` does.

    Raises:
        UnusableRowError: They hold anything else, an object that names a key twice, or are too
            many.
    """
    if len(raw) > most_bytes:
        raise UnusableRowError(f"is longer than {most_bytes:,} bytes")
    value = parse_json(raw, parse_int=parse_int)
    if not isinstance(value, dict):
        raise UnusableRowError(f"is {type_name(value)}, not a JSON object")
    return cast(Mapping[str, object], value)


def parse_json(raw: bytes, *, parse_int: Callable[[str], object] = int) -> object:
    """Return the JSON value that bytes hold.

    Args:
        raw: The bytes.
        parse_int: See `parse_object`.

    Raises:
        UnusableRowError: They hold anything else, or an object that names a key twice.
    """
    try:
        return json.loads(
            raw.rstrip().decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=parse_int,
            object_pairs_hook=without_repeats,
        )
    except UnusableRowError:
        raise
    except UnicodeDecodeError as error:
        reason = "is UTF-16" if is_utf16(raw) else f"is not UTF-8 (byte {error.start + 1})"
        raise UnusableRowError(reason) from error
    except RecursionError as error:
        raise UnusableRowError("is not JSON that can be read (nested too deeply)") from error
    except json.JSONDecodeError as error:
        if is_utf16(raw):
            raise UnusableRowError("is UTF-16") from error
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        reason = f"is not JSON ({error.msg} at {line}column {error.colno})"
        raise UnusableRowError(reason) from error
    # A forbidden constant, or an integer of more digits than Python converts.
    except ValueError as error:
        raise UnusableRowError(f"is not JSON ({str(error).partition(';')[0]})") from error


def is_utf16(raw: bytes) -> bool:
    """Return whether bytes of a text are UTF-16, in which every other byte of ASCII is 0."""
    return raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or raw[:2].count(0) == 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object of which no key is repeated; an `object_pairs_hook`.

    Raises:
        UnusableRowError: One is.
    """
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise UnusableRowError(f"has the key {shown(key)} twice")
        values[key] = value
    return values


def parse_text(value: object, what: str) -> str | None:
    """Return a text; None where there is none, or white space alone.

    Raises:
        UnusableRowError: It is no string, or has characters that cannot be read.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise UnusableRowError(f"{what} is {type_name(value)}, not a string")
    return check_characters(value, what) if value.strip() else None


def parse_class(value: object, what: str = "label") -> str:
    """Return the name of a class: a string, or an integer as one.

    Raises:
        UnusableRowError: It is something else, or blank.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnusableRowError(f"{what} is {type_name(value)}, not a string or integer")
    name = str(value)
    if not name.strip():
        raise UnusableRowError(f"{what} is empty")
    return check_characters(name, what)


def parse_labels(value: object, key: str, *, is_multi_label: bool) -> tuple[str, ...] | None:
    """Return the names of a row's classes, sorted; None where it has no label: null or "".

    Args:
        value: A list of classes in a multi-label problem, else one class.
        key: What the row calls it.
        is_multi_label: See `is_multi_label`.

    Raises:
        UnusableRowError: It is the other of the two, or no class.
    """
    if value is None or value == "":
        return None
    if isinstance(value, list) and is_multi_label:
        return tuple(sorted({parse_class(entry, f"an entry of {key}") for entry in value}))
    if is_multi_label:
        raise UnusableRowError(f"{key} is {type_name(value)}, not a list")
    name = parse_class(value, key)
    if (_LIST_AS_TEXT if key == "label" else _IN_BRACKETS).fullmatch(name):
        raise UnusableRowError(f"{key} is a list written as text; FILE.jsonl has real lists")
    return (name,)


def is_multi_label(are_lists: Collection[bool], key: str) -> bool:
    """Return whether the rows of a data set have lists of classes.

    Args:
        are_lists: Whether labels are lists, of all that are not missing.
        key: What holds them: it decides where some are and some are not.
    """
    return any(are_lists) and (all(are_lists) or key == "labels")


def split_called(name: str) -> Split | None:
    """Return the split of a name in any case, with or without blanks around; None: unknown."""
    return _SPLIT_NAMES.get(name.strip().lower())


def parse_split(value: object) -> Split | None:
    """Return the split that a value names; None for null and "".

    Raises:
        UnusableRowError: The split is unknown.
    """
    if value is None or value == "":
        return None
    split = split_called(value) if isinstance(value, str) else None
    if split is None:
        raise UnusableRowError(f"unknown split {shown(value)}: use train, validation or test")
    return split


def reason_against_labels(
    names: tuple[str, ...] | None, closed: tuple[str, ...] | None, class_rows: Mapping[str, int]
) -> str | None:
    """Return why a row's classes cannot be used, if so.

    Args:
        names: Its classes.
        closed: The classes that there are; None: those that two rows have, as one may be a slip.
        class_rows: By class name, how many rows name it.
    """
    for name in names or ():
        if closed is not None and name not in closed:
            return f"unknown label {shown(name)}"
        if closed is None and class_rows[name] == 1:
            return (
                f"unknown label {shown(name)}: no other row has it; name the classes with"
                " --labels to keep it"
            )
    return None


def without_label(split: Split) -> str:
    """Return why a row of validation or test cannot be used without a label."""
    return f"has no label, which the {split} split needs"


def usual_keys(names: Collection[str]) -> Mapping[str, str]:
    """Return the usual keys that some names are in another case or with blanks around, by name."""
    found: dict[str, str] = {}
    for name in names:
        usual = name.strip().lower()
        if usual in _KEYS and usual not in names and usual not in found.values():
            found[name] = usual
    return found


def check_spellings(names: Collection[str], where: str, known: dict[str, tuple[str, str]]) -> None:
    """Refuse a usual key that an earlier file, or row, writes in another case or with blanks.

    Args:
        names: The keys of a row, or the columns of a file.
        where: The place of the row, or the path of the file.
        known: By usual key, its name in the first place that has it, and that place; is added to.

    Raises:
        DataError: There is such a key.
    """
    usual_names = {name: name for name in names if name in _KEYS}
    for name, usual in {**usual_names, **usual_keys(names)}.items():
        other, elsewhere = known.setdefault(usual, (name, where))
        if other != name:
            what = f"has {shown(name)}, which is {shown(other)} in {elsewhere}"
            raise DataError(what, where=where, fix="Write the name in one way")


def notes_on_keys(
    counts: Mapping[str, int],
    read: Iterable[str | None],
    image_key: str | None,
    renamed: Mapping[str, str],
) -> list[str]:
    """Return notes on the keys, or columns, of rows that are not what they are usually called.

    Args:
        counts: How many rows have each key.
        read: The keys that are read.
        image_key: The one of `IMAGE_KEYS` that is read as the image, if any.
        renamed: Other names of keys, and what they are read as.
    """
    notes = [f"{shown(name)} is read as {key}" for name, key in renamed.items()]
    if image_key is not None:
        notes.append(f"{image_key!r} is read as image, which no row has")
    known = set(read)
    unread = [
        f"{shown(key)} ({counted(rows, 'row', 'rows')})"
        for key, rows in counts.items()
        if key not in known
    ]
    if unread:
        more = ", ..." if len(unread) > _MOST_KEYS_NAMED else ""
        notes.append(f"not read: {', '.join(unread[:_MOST_KEYS_NAMED])}{more}")
    return notes


def check_characters(value: str, what: str) -> str:
    """Return a string as it is.

    Raises:
        UnusableRowError: It holds NUL, or half a surrogate pair: no file name can hold the one, no
            UTF-8 the other.
    """
    if "\0" in value:
        raise UnusableRowError(f"{what} contains a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRowError(f"{what} contains an unpaired surrogate") from error
    return value


class _MissingFileError(UnusableRowError):
    """No file has that name."""


class ImageFiles:
    """Finds the images of one folder and hashes each file once.

    Args:
        folder: What names are relative to; no image may lie outside, links followed.
        root: The folder that may not be left, where it is another.
    """

    def __init__(self, folder: Path, *, root: Path | None = None) -> None:
        self._folder = folder
        self._root = (root or folder).resolve()
        self._found: dict[str, tuple[str, str]] = {}
        self._endings = tuple(image_endings())
        self._listings: dict[Path, Mapping[str, str]] = {}

    def has(self, name: object) -> bool:
        """Return whether a value is the name of an image file, by its ending."""
        if not isinstance(name, str) or not name.lower().endswith(self._endings):
            return False
        try:
            file_inside(self._folder, name, self._root, what="image")
        except (UnusableRowError, ValueError):
            return False
        return True

    def find(self, name: object, *, key: str = "image") -> tuple[str, str]:
        """Return an image's absolute path and the SHA-256 of its bytes, "" and "" for none.

        Args:
            name: Its name as the row has it; None and "" are no image.
            key: What the row calls it.

        Raises:
            UnusableRowError: It is no name, leaves the folder, or cannot be read.
        """
        if name is None or name == "":
            return "", ""
        if not isinstance(name, str):
            raise UnusableRowError(f"{key} is {type_name(name)}, not a string")
        if name not in self._found:
            try:
                path = file_inside(self._folder, check_characters(name, key), self._root, what=key)
            except _MissingFileError as error:
                raise UnusableRowError(f"{error}{self._other_form(name)}") from error
            try:
                self._found[name] = str(path), sha256_of_file(path)
            except OSError as error:
                reason = f"{key} {shown(name)} cannot be read ({error.strerror})"
                raise UnusableRowError(reason) from error
        return self._found[name]

    def _other_form(self, name: str) -> str:
        """Return how the name of a missing file differs from one on disk, "" if it does not.

        A Mac writes "é" as two characters, and file systems of Macs and Windows ignore case.
        """
        place, parts, written = self._folder, [], name.replace("\\", "/")
        for part in written.split("/"):
            there: str | None = part
            if not os.path.lexists(place / part):
                there = self._listed(place).get(_folded(part))
            if there is None:
                return ""
            parts.append(there)
            place /= there
        on_disk = "/".join(parts)
        if on_disk == written:  # a link to a file that is missing
            return ""
        if unicodedata.normalize("NFC", on_disk) == unicodedata.normalize("NFC", written):
            return "; its name on disk differs in Unicode form"
        return f"; its name on disk differs in case: {shown(on_disk)}"

    def _listed(self, folder: Path) -> Mapping[str, str]:
        """Return the names in a folder by their folded form; each folder is listed once."""
        if folder not in self._listings:
            names: list[str] = []
            with suppress(OSError):
                names = sorted(path.name for path in folder.iterdir())
            self._listings[folder] = {_folded(name): name for name in names}
        return self._listings[folder]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def file_inside(folder: Path, name: str, root: Path, *, what: str) -> Path:
    """Return the resolved path of a regular file that does not leave a folder.

    Args:
        folder: What the name is relative to.
        name: A path, relative or absolute; either slash separates.
        root: The resolved folder that may not be left, links followed.
        what: What the file is, for the reason.

    Raises:
        UnusableRowError: It is a URL, leaves the folder, is missing, or is not a regular file.
    """
    if _URL.match(name):
        raise UnusableRowError(f"{what} {shown(name)} is a URL, not a file of the data folder")
    path, leaves = folder / name, UnusableRowError(f"{what} {shown(name)} leaves the data folder")
    if "\\" in name and not os.path.lexists(path):  # written on Windows
        path = folder / name.replace("\\", "/")
    try:
        path = path.resolve()  # as far as it exists
        if not path.is_relative_to(root):
            raise leaves
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if PureWindowsPath(name).is_absolute():
            raise leaves from error
        raise _MissingFileError(f"{what} {shown(name)} is missing") from error
    except UnicodeEncodeError as error:
        raise UnusableRowError(
            f"{what} {shown(name)} has letters that file names cannot have in this locale"
        ) from error
    # Before Python 3.13 a loop of links is a RuntimeError.
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "a loop of links"
        raise UnusableRowError(f"{what} {shown(name)} cannot be read ({why})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise UnusableRowError(f"{what} {shown(name)} is {kind}")
    return path
