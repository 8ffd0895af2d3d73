"""FILE.jsonl: one JSON object a line with image, text, label or labels, and perhaps split.

A row that cannot be used is named and left out, never a crash. Pictures are hashed here, not
decoded: a broken one is found when the set is prepared. Rows without a label are not used yet. How
one row is read is `jsonl_rows`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import datasets

from msd_deploy.data.jsonl_rows import Row, Scan, scan_rows
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

_NAMED_ROWS = 10


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
    scan = scan_rows(path)
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
    path: Path, rows: Sequence[Row], members: Sequence[int], labels: tuple[str, ...]
) -> Iterator[SourceRow]:
    index_of = {name: index for index, name in enumerate(labels)}
    for row in (rows[member] for member in members):
        classes = tuple(sorted(index_of[name] for name in row.labels))
        origin = f"{path}:{row.line}"
        yield SourceRow(row.image_path, None, row.image_sha256, row.text, classes, origin)


def _refuse(what: str, path: Path, skipped: Sequence[SkippedRow], fix: str) -> NoReturn:
    named = "; ".join(str(row) for row in skipped[:_NAMED_ROWS])
    more = f"; and {len(skipped) - _NAMED_ROWS} more" if len(skipped) > _NAMED_ROWS else ""
    raise DataError(f"{what}: {named}{more}" if skipped else what, where=path, fix=fix)


def _refuse_mixed_labels(path: Path, scan: Scan) -> None:
    if len(scan.first_line_with) == 2:
        raise DataError(
            f"mixes label (line {scan.first_line_with['label']}) and labels"
            f" (line {scan.first_line_with['labels']})",
            where=path,
            fix="Give every row a label, or every row a list of labels",
        )


def _rows_with_known_labels(scan: Scan, closed: tuple[str, ...] | None) -> list[Row]:
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
    rows: Sequence[Row],
    splits: Mapping[Split, Sequence[int]],
    skipped: Sequence[SkippedRow],
) -> None:
    for members, place in ((range(len(rows)), ""), (splits["train"], " in its training rows")):
        found = {rows[member].labels for member in members}
        if len(found) == 1:
            names = ", ".join(repr(name) for name in found.pop())
            what = f"one single class {names}" if names else "no label at all"
            _refuse(f"has {what}{place}: nothing to learn", path, skipped, "Add rows of others")


def _ordered_classes(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the class names, by number where all are integers, else by code point."""
    names = sorted({name for row in rows for name in row.labels})
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _label_notes(
    rows: Sequence[Row], splits: Mapping[Split, Sequence[int]], labels: tuple[str, ...]
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
