"""From the rows of a reader to a data set: what is refused as a whole, splits, classes, notes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import datasets

from msd_deploy.data.rows import Row
from msd_deploy.data.source_types import (
    SPLITS,
    SkippedRow,
    SourceData,
    SourceRow,
    Split,
    assign_splits,
    build_split,
)
from msd_deploy.errors import DataError
from msd_deploy.problem import Problem

_NAMED_ROWS = 10


@dataclass(frozen=True, slots=True)
class FoundRows:
    """What a reader found.

    Attributes:
        where: The file or folder, for errors.
        rows: The usable rows.
        skipped: The others.
        problem: Of the task.
        labels: The classes in their order; None: those that the rows have.
        form: What a usable row is, as a sentence that tells a user what to do.
        notes: What a user should know.
    """

    where: Path
    rows: Sequence[Row]
    skipped: tuple[SkippedRow, ...]
    problem: Problem
    labels: tuple[str, ...] | None
    form: str
    notes: tuple[str, ...] = ()


def source_from_rows(found: FoundRows, *, strict: bool) -> SourceData:
    """Build a data set.

    Raises:
        DataError: There is no usable row, no training row, or one single class; with strict, a row
            cannot be used.
    """
    where, rows, skipped = found.where, found.rows, found.skipped
    if strict and skipped:
        refuse(
            f"{len(skipped)} rows cannot be used",
            where,
            skipped,
            "Mend them, or leave out --strict",
        )
    if not rows:
        refuse("has no usable row" if skipped else "is empty", where, skipped, found.form)
    splits, notes = assign_splits([row.key for row in rows], [row.split for row in rows])
    if not splits["train"]:
        raise DataError("has no training rows", where=where, fix='Give rows the split "train"')
    _refuse_one_class(found, splits)
    labels = found.labels or _ordered_classes(rows)
    dataset = {
        name: build_split(
            _source_rows(rows, splits[name], labels), labels=labels, problem=found.problem
        )
        for name in SPLITS
    }
    notes += [*found.notes, *_label_notes(rows, splits, labels)]
    return SourceData(datasets.DatasetDict(dataset), labels, found.problem, skipped, tuple(notes))


def refuse(what: str, where: Path, skipped: Sequence[SkippedRow], fix: str) -> NoReturn:
    """Raise a DataError that names the first rows that cannot be used."""
    named = "; ".join(str(row) for row in skipped[:_NAMED_ROWS])
    more = f"; and {len(skipped) - _NAMED_ROWS} more" if len(skipped) > _NAMED_ROWS else ""
    raise DataError(f"{what}: {named}{more}" if skipped else what, where=where, fix=fix)


def _source_rows(
    rows: Sequence[Row], members: Sequence[int], labels: tuple[str, ...]
) -> Iterator[SourceRow]:
    index_of = {name: index for index, name in enumerate(labels)}
    for row in (rows[member] for member in members):
        classes = tuple(sorted(index_of[name] for name in row.labels))
        yield SourceRow(row.image_path, None, row.image_sha256, row.text, classes, row.origin)


def _refuse_one_class(found: FoundRows, splits: Mapping[Split, Sequence[int]]) -> None:
    rows = found.rows
    for members, place in ((range(len(rows)), ""), (splits["train"], " in its training rows")):
        classes = {rows[member].labels for member in members}
        if len(classes) == 1:
            names = ", ".join(repr(name) for name in classes.pop())
            what = f"one single class {names}" if names else "no label at all"
            refuse(
                f"has {what}{place}: nothing to learn",
                found.where,
                found.skipped,
                "Add rows of others",
            )


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
