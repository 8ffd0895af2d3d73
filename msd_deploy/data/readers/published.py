"""Shared parts of the readers of published data sets: folders, files, records, unique ids.

Each data set has a module of its own with its files and fields. Everything a record names must be
inside the folder, links followed. A record that cannot be used becomes a skipped row; a folder that
is not the published one (a file is missing, empty or unusable) is refused as a whole.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from msd_deploy.data.readers.assemble import ReaderRows, refuse, source_from_rows
from msd_deploy.data.readers.rows import (
    Row,
    UnusableRowError,
    file_inside,
    parse_object,
    read_lines,
    shown,
    type_name,
)
from msd_deploy.data.source import DatasetInfo, SkippedRow, SourceData, Split
from msd_deploy.errors import DataError

COMPLETE = "Use the folder as published"
LONGEST_ID = 64
"""In characters; published ones have about twenty."""


@dataclass(frozen=True, slots=True)
class Example:
    """The content of a published record.

    Attributes:
        identity: Its id, the same however it is written; may stand once in the whole set.
        image: Absolute path and SHA-256 of its image.
        text: Its text, or None.
        labels: Its class names, sorted; repeated for a soft label, as in `Row`.
    """

    identity: str
    image: tuple[str, str]
    text: str | None
    labels: tuple[str, ...]


class PublishedRows:
    """Gathers the rows of a published set, file by file."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.skipped: list[SkippedRow] = []
        self._row_of: dict[str, int] = {}

    def read_file(
        self, path: Path, split: Split, read: Callable[[Mapping[str, object]], Example]
    ) -> None:
        """Add the records of a file with one JSON object a line.

        Raises:
            DataError: The file cannot be read, is empty, or holds no usable record.
        """
        before, already = len(self.rows), len(self.skipped)
        for line, raw in read_lines(path):
            self.add(path, line, split, partial(_read_line, read, raw))
        self.check_any(path, before, already)

    def source(self, folder: Path, info: DatasetInfo, *, strict: bool) -> SourceData:
        """Build the data set of what was gathered; see `ReaderRows`.

        Raises:
            DataError: As `source_from_rows`.
        """
        info = replace(info, skipped=tuple(self.skipped))
        found = ReaderRows(where=folder, rows=self.rows, info=info, form=COMPLETE)
        return source_from_rows(found, strict=strict)

    def check_any(self, path: Path, rows: int, skipped: int) -> None:
        """Check that a part of the set added a usable record.

        Args:
            path: The file that lists them.
            rows: How many rows there were before.
            skipped: How many were skipped before.

        Raises:
            DataError: It did not.
        """
        if len(self.rows) == rows:
            named = self.skipped[skipped:]
            refuse("has no usable row" if named else "is empty", path, named, COMPLETE)

    def add(self, file: Path, line: int | str, split: Split, make: Callable[[], Example]) -> None:
        """Add one record, or the reason why it cannot be used."""
        try:
            example = make()
            self._claim(example.identity)
        except UnusableRowError as error:
            self.skip(f"{file}:{line}", str(error))
        else:
            path, sha256 = example.image
            self.rows.append(Row(file, line, path, sha256, example.text, example.labels, split))

    def skip(self, origin: str, reason: str) -> None:
        """Name a record that cannot be used."""
        self.skipped.append(SkippedRow(origin, reason))

    def _claim(self, identity: str) -> None:
        first = self._row_of.setdefault(identity, len(self.rows))
        if first < len(self.rows):
            row = self.rows[first]
            raise UnusableRowError(f"repeats the id {identity} of {row.file.name}:{row.line}")


def _read_line(read: Callable[[Mapping[str, object]], Example], raw: bytes) -> Example:
    return read(parse_object(raw))


def open_folder(name: str, location: str) -> Path:
    """Return the folder of a published set.

    Args:
        name: Of the set.
        location: The folder, as the user gave it.

    Raises:
        DataError: It is not given, is missing, or is not a folder.
    """
    if not location:
        raise DataError("needs its folder", where=name, fix=f"Use {name}:DIR")
    folder = Path(location)
    try:
        is_folder, is_there = folder.is_dir(), folder.exists()
    except OSError as error:  # too long for a name, for example
        raise DataError(f"cannot be read ({error.strerror})", where=shown(location)) from error
    if not is_folder:
        what = "is not a folder" if is_there else "no such folder"
        raise DataError(
            what, where=shown(location), fix=f"Use {name}:DIR with the folder as published"
        )
    return folder


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files, by names relative to the folder, that is there.

    Raises:
        DataError: It leaves the folder, or is not a regular file.
    """
    for name in names:
        if os.path.lexists(folder / name):
            try:
                file_inside(folder, name, folder.resolve(), what="file")
            except UnusableRowError as error:
                raise DataError(str(error), where=folder, fix=COMPLETE) from error
            return folder / name
    return None


def need_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of some files that is there.

    Raises:
        DataError: None is, or as `find_file`.
    """
    found = find_file(folder, names)
    if found is None:
        raise DataError(f"holds no {' or '.join(names)}", where=folder, fix=COMPLETE)
    return found


def find_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some folders in it that is there.

    Raises:
        DataError: It is a link that leaves the folder.
    """
    for name in names:
        if (folder / name).is_dir():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                what = f"folder {shown(name)} leaves the data folder"
                raise DataError(what, where=folder, fix="Put its files there")
            return folder / name
    return None


def need(values: Mapping[str, object], key: str) -> object:
    """Return a value of a record.

    Raises:
        UnusableRowError: It is absent or null.
    """
    value = values.get(key)
    if value is None:
        raise UnusableRowError(f"has no {key}")
    return value


def need_string(values: Mapping[str, object], key: str) -> str:
    """Return a string of a record.

    Raises:
        UnusableRowError: It is absent, or something else.
    """
    value = need(values, key)
    if not isinstance(value, str):
        raise UnusableRowError(f"{key} is {type_name(value)}, not a string")
    return value


def need_number_id(values: Mapping[str, object], key: str) -> str:
    """Return an id without leading zeros: an integer, or a string of digits.

    Raises:
        UnusableRowError: It is absent, or something else.
    """
    value = need(values, key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnusableRowError(f"{key} is {type_name(value)}, not an integer or string of digits")
    digits = str(value)
    if not re.fullmatch(rf"[0-9]{{1,{LONGEST_ID}}}", digits):
        raise UnusableRowError(f"{key} {shown(value)} is not an integer or string of digits")
    return digits.lstrip("0") or "0"


def need_list(values: Mapping[str, object], key: str) -> list[str]:
    """Return a list of strings, one at least.

    Raises:
        UnusableRowError: It is absent, empty, or something else.
    """
    value = need(values, key)
    if not isinstance(value, list):
        raise UnusableRowError(f"{key} is {type_name(value)}, not a list")
    if not value:
        raise UnusableRowError(f"{key} is empty")
    for entry in value:
        if not isinstance(entry, str):
            raise UnusableRowError(f"an entry of {key} is {type_name(entry)}, not a string")
    return value


def need_image(found: tuple[str, str], key: str) -> tuple[str, str]:
    """Return an image that was found.

    Raises:
        UnusableRowError: The record names none.
    """
    if not found[0]:
        raise UnusableRowError(f"has no {key}")
    return found
