"""From a reader's rows to a data set: splits, classes, notes, and what is refused as a whole."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import datasets

from msd_deploy.data.readers.rows import WITHOUT_LABELS, Row, shown, without_label
from msd_deploy.data.source import (
    SPLITS,
    DatasetInfo,
    EvaluationSplit,
    SkippedRow,
    SourceData,
    SourceOptions,
    SourceRow,
    Split,
    assign_splits,
    build_split,
)
from msd_deploy.errors import DataError, counted, shortened
from msd_deploy.problem import Problem

_MOST_NAMED = 10
_BITS = {"0", "1"}
_ONE_HOT = "has lists of labels with 0 and 1 alone, which look like one-hot vectors"
_NAMES_OF_ONE_HOT = 'Write the names of the classes that a row has, as ["dog", "grass"]'
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,4})?")
_MARKS_OF_LISTS = ("|", ";", ",")


@dataclass(frozen=True, slots=True)
class ReaderRows:
    """What a reader found.

    Attributes:
        where: The file or folder, for errors.
        rows: The usable rows.
        info: Classes, problem, skipped rows, notes; without classes: those that the rows have.
        form: The form of a usable row, as an instruction to the user.
        encoded: Returns the image of a row whose image is not a file, when the row is written.
    """

    where: Path
    rows: Sequence[Row]
    info: DatasetInfo
    form: str
    encoded: Callable[[Row], bytes | None] = lambda row: None


def source_from_rows(
    found: ReaderRows, *, strict: bool, teacher: DatasetInfo | None = None
) -> SourceData:
    """Build a data set.

    Args:
        found: The rows.
        strict: A row that cannot be used is an error.
        teacher: See `SourceOptions`.

    Raises:
        DataError: There is no training row, or no names of classes; without a teacher, there is no
            labelled training row, or one single class; with strict, a row cannot be used.
    """
    if teacher is not None:
        found = _without_missing_labels(found)
    rows, problem = found.rows, found.info.problem
    labelled = [row for row in rows if row.labels is not None]
    _refuse_without_rows(found, strict=strict)
    if teacher is None:
        _refuse_without_labels(found, labelled, f"{found.form}, or {WITHOUT_LABELS}")
    splits, notes = _assign(rows, labelled)
    if teacher is None:
        _refuse_untrainable(found, labelled, splits["train"])
    elif not labelled:
        problem = teacher.problem
    labels = found.info.labels or _ordered_classes(labelled)
    if not labels:
        fix = "Name the classes with --labels A,B"
        raise DataError("has no label, and no classes are named", where=found.where, fix=fix)
    unlabelled, of_unlabelled = _unlabelled(rows, splits)
    if splits["train"]:
        of_labels = _label_notes(splits, labels, problem)
        splits["train"] = [*splits["train"], *unlabelled]
    else:
        splits, notes = _assign_without_training_labels(splits, unlabelled)
        of_labels, of_unlabelled = [], [*of_unlabelled[1:], *_notes_without_labels(splits)]
        if not splits["train"]:
            fix = 'Give rows the split "train", or none'
            refuse("has no training row", found.where, found.info.skipped, fix)
    dataset = {
        name: build_split(_source_rows(found, splits[name], labels), labels=labels, problem=problem)
        for name in SPLITS
    }
    notes += [*found.info.notes, *_modality_notes(rows), *of_labels, *of_unlabelled]
    info = replace(found.info, labels=labels, problem=problem, notes=tuple(notes))
    return SourceData(datasets.DatasetDict(dataset), info)


def _without_missing_labels(found: ReaderRows) -> ReaderRows:
    """Skip unlabelled rows of validation or test if others there, or of train, have a label."""
    labelled = {row.split for row in found.rows if row.labels is not None}
    is_trained_on = bool(labelled.intersection((None, "train")))
    rows, skipped = [], list(found.info.skipped)
    for row in found.rows:
        split = row.split if row.labels is None else None
        if split in SPLITS[1:] and (is_trained_on or split in labelled):
            skipped.append(SkippedRow(row.origin, without_label(split)))
        else:
            rows.append(row)
    return replace(found, rows=rows, info=replace(found.info, skipped=tuple(skipped)))


def known_classes(options: SourceOptions, rows: Iterable[Row]) -> tuple[str, ...] | None:
    """Return the only classes of rows: as requested, or without training labels the teacher's."""
    has_training_label = any(
        row.labels is not None and row.split in (None, "train") for row in rows
    )
    if options.labels is not None or options.teacher is None or has_training_label:
        return options.labels
    return options.teacher.labels or None


def evaluation_source(
    found: ReaderRows, labels: tuple[str, ...], split: EvaluationSplit, *, strict: bool
) -> SourceData:
    """Build a data set of one split to evaluate a model on; nothing is trained.

    Args:
        found: Rows without a label are left out.
        labels: The model's classes.
        split: The requested split, the only one of the result; all: every row, as test.
        strict: A row that cannot be used is an error.

    Raises:
        DataError: The split has no labelled row; with strict, a row cannot be used.
    """
    labelled = [row for row in found.rows if row.labels is not None]
    _refuse_without_rows(found, strict=strict)
    _refuse_without_labels(found, labelled, found.form)
    notes = [f"{counted(len(labelled), 'row', 'rows')}, all used for evaluation"]
    name: Split = "test" if split == "all" else split
    if split != "all":
        splits, notes = _assign(found.rows, labelled)
        labelled = splits[split]
    notes += [*found.info.notes, *_modality_notes(labelled)]
    if not labelled:
        fix = "Name another --split, or all"
        raise DataError(f"has no rows of {split}", where=found.where, fix=fix)
    info = DatasetInfo(labels, found.info.problem, found.info.skipped, tuple(notes))
    dataset = build_split(
        _source_rows(found, labelled, labels), labels=labels, problem=info.problem
    )
    return SourceData(datasets.DatasetDict({name: dataset}), info)


def _refuse_without_rows(found: ReaderRows, *, strict: bool) -> None:
    where, skipped = found.where, found.info.skipped
    if strict and skipped:
        what = f"{counted(len(skipped), 'row', 'rows')} cannot be used"
        refuse(what, where, skipped, "Fix them, or run without --strict")
    if not found.rows:
        refuse("has no usable row" if skipped else "has no rows", where, skipped, found.form)


def _refuse_without_labels(found: ReaderRows, labelled: Sequence[Row], fix: str) -> None:
    if not labelled:
        read = f" ({'; '.join(found.info.notes)})" if found.info.notes else ""
        refuse(f"has no labelled row{read}", found.where, found.info.skipped, fix)


def _assign(
    rows: Sequence[Row], labelled: Sequence[Row]
) -> tuple[dict[Split, list[Row]], list[str]]:
    """Assign the labelled rows to splits; one follows an unlabelled row of train."""
    to_train = {row.key for row in rows if row.labels is None and row.split == "train"}
    given = [row.split or ("train" if row.key in to_train else None) for row in labelled]
    members, notes = assign_splits([row.key for row in labelled], given)
    return {name: [labelled[at] for at in places] for name, places in members.items()}, notes


def _assign_without_training_labels(
    splits: Mapping[Split, Sequence[Row]], unlabelled: Sequence[Row]
) -> tuple[dict[Split, list[Row]], list[str]]:
    """Add unlabelled rows to train or the split that they state, and to one without any row."""
    held_out = {row.key: row.split for row in unlabelled if row.split in SPLITS[1:]}
    placed = [(row, name) for name in SPLITS for row in splits[name]]
    placed += [(row, row.split or held_out.get(row.key) or "train") for row in unlabelled]
    members, notes = assign_splits([row.key for row, _ in placed], [name for _, name in placed])
    return {name: [placed[at][0] for at in places] for name, places in members.items()}, notes


def _notes_without_labels(splits: Mapping[Split, Sequence[Row]]) -> list[str]:
    """Return notes on what follows from the splits that have no label."""
    return [
        "no training row has a label: the teacher's predictions take their place",
        *(
            f"no {name} row has a label: models are not scored on it"
            for name in SPLITS[1:]
            if all(row.labels is None for row in splits[name])
        ),
    ]


def _unlabelled(
    rows: Sequence[Row], splits: Mapping[Split, Sequence[Row]]
) -> tuple[list[Row], list[str]]:
    """Return the rows without a label that may be trained on, and the notes on them.

    Nothing that validation or test shows may be: a teacher's answer to it is an answer too.
    """
    without = [row for row in rows if row.labels is None]
    if not without:
        return [], []
    of_train = {row.key for row in splits["train"]}
    held_out = {row.key for name in SPLITS[1:] for row in splits[name]} - of_train
    kept = [row for row in without if row.key not in held_out]
    notes = [
        f"{counted(len(kept), 'more row has', 'more rows have')} no label: the student is trained"
        " on the teacher's predictions for them"
    ]
    if len(kept) < len(without):
        left_out = len(without) - len(kept)
        notes.append(
            f"{counted(left_out, 'row', 'rows')} without a label show images or texts of validation"
            " or test: left out"
        )
    return kept, notes


def refuse(what: str, where: Path, skipped: Sequence[SkippedRow], fix: str) -> NoReturn:
    """Raise a DataError that names the first rows that cannot be used."""
    named = "; ".join(str(row) for row in skipped[:_MOST_NAMED])
    more = f"; and {len(skipped) - _MOST_NAMED} more" if len(skipped) > _MOST_NAMED else ""
    raise DataError(f"{what}: {named}{more}" if skipped else what, where=where, fix=fix)


def _source_rows(
    found: ReaderRows, rows: Iterable[Row], labels: tuple[str, ...]
) -> Iterator[SourceRow]:
    index_of = {name: index for index, name in enumerate(labels)}
    for row in rows:
        names = row.labels
        classes = None if names is None else tuple(sorted(index_of[name] for name in names))
        encoded = found.encoded(row)
        yield SourceRow(row.image_path, encoded, row.image_sha256, row.text, classes, row.origin)


def _refuse_untrainable(
    found: ReaderRows, labelled: Sequence[Row], training: Sequence[Row]
) -> None:
    """Refuse labels that nothing can be learned from."""
    if not training:
        what = "has no labelled training row"
        fix = f'Give labelled rows the split "train", or {WITHOUT_LABELS}'
        refuse(what, found.where, found.info.skipped, fix)
    for rows, place in ((labelled, ""), (training, " in its training rows")):
        classes = {row.labels for row in rows}
        if len(classes) == 1:
            only = classes.pop() or ()
            if found.info.problem == "multi_label" and set(only) == _BITS:
                raise DataError(_ONE_HOT, where=found.where, fix=_NAMES_OF_ONE_HOT)
            names = ", ".join(shown(name) for name in only)
            what = f"a single class {names}" if names else "no label at all"
            with_rows = {name for row in rows for name in row.labels or ()}
            without = [shown(name) for name in found.info.labels if name not in with_rows]
            if without:
                what += f" and no rows of class {', '.join(without[:_MOST_NAMED])}"
            refuse(
                f"has {what}{place}: nothing to learn",
                found.where,
                found.info.skipped,
                "Add rows of other classes",
            )


def _ordered_classes(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the class names, by number where all are integers, else by code point."""
    names = sorted({name for row in rows for name in row.labels or ()})
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _modality_notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    if not any(row.image_sha256 for row in rows):
        notes.append("no row has an image: scores of images alone mean nothing")
    if not any(row.text for row in rows):
        notes.append("no row has a text: scores of texts alone mean nothing")
    return notes


def _similar_classes(labels: Iterable[str]) -> list[str]:
    """Return notes on classes that are the same word, or number, written in different ways."""
    words = {
        label: "".join(unicodedata.normalize("NFKC", label).casefold().split()) for label in labels
    }
    one_of_each = {word: label for label, word in words.items()}
    numbers = {
        label: Decimal(word) for word, label in one_of_each.items() if _NUMBER.fullmatch(word)
    }
    return [
        *_kept_apart(words, "differ only by case, blanks or Unicode form"),
        *_kept_apart(numbers, "are the same number"),
    ]


def _kept_apart(forms: Mapping[str, object], why: str) -> list[str]:
    """Return a note on classes of the same form, given the form of each."""
    of_form: dict[object, list[str]] = {}
    for label, form in forms.items():
        of_form.setdefault(form, []).append(label)
    similar = [" and ".join(_told_apart(names)) for names in of_form.values() if len(names) > 1]
    if not similar:
        return []
    listed = "; ".join(similar[:_MOST_NAMED]) + ("; ..." if len(similar) > _MOST_NAMED else "")
    return [f"classes that {why} are kept apart: {listed}"]


def _told_apart(names: Sequence[str]) -> list[str]:
    """Return names as a note shows them: in escapes where they would look the same."""
    look_alike = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return [ascii(shortened(name)) if look_alike else shown(name) for name in names]


def _lists_as_names(labels: Sequence[str]) -> list[str]:
    """Return a note on classes that look like several, written as one with a separator."""
    for mark in _MARKS_OF_LISTS:
        listed = [label for label in labels if mark in label]
        parts = [part.strip() for label in labels for part in label.split(mark)]
        if listed and len(set(parts)) < len(parts):
            return [
                f"classes such as {shown(listed[0])} are one class each: for several classes in a"
                " row, write a list under labels in FILE.jsonl or FILE.parquet"
            ]
    return []


def _label_notes(
    splits: Mapping[Split, Sequence[Row]], labels: tuple[str, ...], problem: Problem
) -> list[str]:
    seen = {split: {n for row in splits[split] for n in row.labels or ()} for split in SPLITS}
    elsewhere = (seen["validation"] | seen["test"]) - seen["train"]
    unseen = [name for name in labels if name not in seen["train"]]
    notes = _similar_classes(labels)
    if problem == "single_label":
        notes += _lists_as_names(labels)
    elif set(labels) == _BITS:
        notes.append(f"{_ONE_HOT}: if so, {_NAMES_OF_ONE_HOT[0].lower()}{_NAMES_OF_ONE_HOT[1:]}")
    for names, where in (
        ([name for name in unseen if name in elsewhere], "in validation or test only"),
        ([name for name in unseen if name not in elsewhere], "in no row"),
    ):
        if names:
            more = ", ..." if len(names) > _MOST_NAMED else ""
            listed = ", ".join(map(shortened, names[:_MOST_NAMED])) + more
            count = counted(len(names), "class occurs", "classes occur")
            notes.append(f"{count} {where}, the model cannot learn them: {listed}")
    return notes
