"""FILE.jsonl: one JSON object a line with image, text, label or labels, and perhaps split.

A row that cannot be used is named and left out, never a crash. Pictures are hashed here, not
decoded: a broken one is found when the set is prepared. Rows without a label are not used yet.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn, cast

import datasets

from msd_deploy.artifacts import sha256_of_file
from msd_deploy.data.source_types import (
    SPLITS,
    SkippedRow,
    SourceData,
    SourceOptions,
    SourceRow,
    Split,
    assign_splits,
    build_split,
)
from msd_deploy.errors import DataError
from msd_deploy.problem import Problem

_SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_NAMED_ROWS = 10
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
class _Row:
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
class _Scan:
    """What one pass over the file found."""

    rows: list[_Row] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    class_rows: Counter[str] = field(default_factory=Counter)
    first_line_with: dict[str, int] = field(default_factory=dict)


def load_jsonl(path: Path, options: SourceOptions) -> SourceData:
    """Read a FILE.jsonl.

    `image` is relative to the file's folder and may not leave it; "" and null are absent, as is a
    text of white space. A class is its name: the label 1 equals the label "1". Without a closed
    list of labels, a class that one single row carries is taken for a slip. Rows without `split`
    go 80/10/10 by the SHA-256 of their picture's bytes, else of their text; a row whose picture has
    a split in another row follows it.

    Args:
        path: The file.
        options: `labels` and `strict` are used.

    Raises:
        DataError: The file is missing, holds no usable row, mixes `label` and `labels`, has one
            single class or no training rows; with strict, any row cannot be used.
    """
    scan = _scan(path)
    _refuse_mixed_labels(path, scan)
    problem: Problem = "multi_label" if "labels" in scan.first_line_with else "single_label"
    rows = _rows_with_known_labels(scan, options.labels)
    skipped = tuple(SkippedRow(f"{path}:{at}", scan.skipped[at]) for at in sorted(scan.skipped))
    if options.strict and skipped:
        _refuse(
            f"{len(skipped)} rows cannot be used", path, skipped, "Mend them, or leave out --strict"
        )
    if not rows:
        what = "has no usable row" if skipped else "is empty"
        _refuse(what, path, skipped, "Write one JSON object a line with image or text, and label")
    splits, notes = assign_splits([row.key for row in rows], [row.split for row in rows])
    if not splits["train"]:
        raise DataError("has no training rows", where=path, fix='Give rows the split "train"')
    _refuse_one_class(path, rows, splits, skipped)
    labels = options.labels or _ordered_classes(rows)
    dataset = {
        name: build_split(
            _source_rows(path, rows, splits[name], labels), labels=labels, problem=problem
        )
        for name in SPLITS
    }
    notes += _label_notes(rows, splits, labels)
    return SourceData(datasets.DatasetDict(dataset), labels, problem, skipped, tuple(notes))


def _source_rows(
    path: Path, rows: Sequence[_Row], members: Sequence[int], labels: tuple[str, ...]
) -> Iterator[SourceRow]:
    index_of = {name: index for index, name in enumerate(labels)}
    for row in (rows[member] for member in members):
        classes = tuple(sorted(index_of[name] for name in row.labels))
        origin = f"{path}:{row.line}"
        yield SourceRow(row.image_path, None, row.image_sha256, row.text, classes, origin)


def _scan(path: Path) -> _Scan:
    scan, pictures = _Scan(), _Pictures(path.parent)
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


def _scan_line(scan: _Scan, line: int, raw: bytes, pictures: "_Pictures") -> None:
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
        scan.rows.append(_Row(line, image_path, image_sha256, text, labels, split))


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


def _refuse(what: str, path: Path, skipped: Sequence[SkippedRow], fix: str) -> NoReturn:
    named = "; ".join(str(row) for row in skipped[:_NAMED_ROWS])
    more = f"; and {len(skipped) - _NAMED_ROWS} more" if len(skipped) > _NAMED_ROWS else ""
    raise DataError(f"{what}: {named}{more}" if skipped else what, where=path, fix=fix)


def _refuse_mixed_labels(path: Path, scan: _Scan) -> None:
    if len(scan.first_line_with) == 2:
        raise DataError(
            f"mixes label (line {scan.first_line_with['label']}) and labels"
            f" (line {scan.first_line_with['labels']})",
            where=path,
            fix="Give every row a label, or every row a list of labels",
        )


def _rows_with_known_labels(scan: _Scan, closed: tuple[str, ...] | None) -> list[_Row]:
    """Return the rows whose classes are known; name the others in `scan.skipped`."""
    known = []
    for row in scan.rows:
        for name in row.labels:
            if closed is not None and name not in closed:
                scan.skipped[row.line] = f"unknown label {name!r}"
            elif closed is None and scan.class_rows[name] == 1:
                scan.skipped[row.line] = (
                    f"unknown label {name!r}: no other row has it; name the classes with --labels"
                    " to keep it"
                )
        if row.line not in scan.skipped:
            known.append(row)
    return known


def _refuse_one_class(
    path: Path,
    rows: Sequence[_Row],
    splits: Mapping[Split, Sequence[int]],
    skipped: Sequence[SkippedRow],
) -> None:
    for members, place in ((range(len(rows)), ""), (splits["train"], " in its training rows")):
        found = {rows[member].labels for member in members}
        if len(found) == 1:
            names = ", ".join(repr(name) for name in found.pop())
            what = f"one single class {names}" if names else "no label at all"
            _refuse(f"has {what}{place}: nothing to learn", path, skipped, "Add rows of others")


def _ordered_classes(rows: Iterable[_Row]) -> tuple[str, ...]:
    """Return the class names, by number where all are integers, else by code point."""
    names = sorted({name for row in rows for name in row.labels})
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _label_notes(
    rows: Sequence[_Row], splits: Mapping[Split, Sequence[int]], labels: tuple[str, ...]
) -> list[str]:
    seen = {split: {n for at in splits[split] for n in rows[at].labels} for split in SPLITS}
    elsewhere = (seen["validation"] | seen["test"]) - seen["train"]
    unseen = [name for name in labels if name not in seen["train"]]
    notes = []
    for names, where in (
        ([name for name in unseen if name in elsewhere], "in validation or test only"),
        ([name for name in unseen if name not in elsewhere], "in no row"),
    ):
        if names:
            listed = ", ".join(names[:_NAMED_ROWS]) + (", ..." if len(names) > _NAMED_ROWS else "")
            notes.append(
                f"{len(names)} classes occur {where}, the model cannot learn them: {listed}"
            )
    return notes
