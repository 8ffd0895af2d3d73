"""The rows of tables, of a Hugging Face dataset or a file: every value checked, images hashed.

A row that cannot be used is named as `hub:NAME SPLIT:ROW: reason`, rows counted from 0 as
`datasets` counts them, or as `FILE:LINE: reason`. Images stay in the memory-mapped Arrow files: a
row holds the position of its image.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pyarrow as pa

from msd_deploy.data.labels import other_classes
from msd_deploy.data.readers.assemble import (
    ReaderRows,
    evaluation_source,
    known_classes,
    source_from_rows,
)
from msd_deploy.data.readers.columns import (
    FILE,
    FLAW,
    LINE,
    MIXED,
    Columns,
    find_columns,
    is_binary,
    is_list_of_values,
    is_string,
)
from msd_deploy.data.readers.hub_dataset import PREFIX, OpenedTables, open_hub_dataset
from msd_deploy.data.readers.rows import (
    IMAGE_KEYS,
    MOST_LINE_BYTES,
    ImageFiles,
    Row,
    UnusableRowError,
    is_multi_label,
    notes_on_keys,
    parse_json,
    parse_labels,
    parse_split,
    parse_text,
    reason_against_labels,
    shown,
    split_called,
    type_name,
    usual_keys,
    without_label,
)
from msd_deploy.data.readers.table_file import open_table_file
from msd_deploy.data.source import (
    DatasetInfo,
    EvaluationSplit,
    SkippedRow,
    SourceData,
    SourceOptions,
    Split,
)
from msd_deploy.errors import DataError, counted

MOST_PICTURE_BYTES = 64 << 20
"""A larger field is no image that anybody shows a model."""
_NO_LABEL = -1
_ROWS_AT_A_TIME = 256
_FORM = "Use a dataset with an image or a text, and a label, in each row"


def load_tables(spec: str, options: SourceOptions) -> SourceData:
    """Read a Hugging Face dataset, from the hub or from a folder, or a CSV, TSV or Parquet file.

    The splits train, validation (or dev, val, valid) and test of a dataset are kept, as is the
    column `split` of a file or of a dataset with one split; what is missing is taken from the
    training rows by the hash of their images, as of a FILE.jsonl without `split`. A held-out split
    without any label is left out.

    Args:
        spec: hub:NAME, hub:FOLDER or the path of a file.
        options: `labels`, `strict`, `teacher` and the names of columns are used.

    Raises:
        DataError: The tables cannot be opened, lack a column, or hold no usable row; with strict, a
            row cannot be used.
    """
    found = _Reader(spec, options).found()
    return source_from_rows(found, strict=options.strict, teacher=options.teacher)


def load_tables_for_evaluation(
    spec: str, options: SourceOptions, *, split: EvaluationSplit, labels: tuple[str, ...]
) -> SourceData:
    """Read the rows of a Hugging Face dataset or a file to evaluate a model on.

    Args:
        spec: See `load_tables`.
        options: See `load_tables`.
        split: Which rows; all: of every split that has labels.
        labels: The model's classes.

    Raises:
        DataError: As `load_tables`; or a class is not the model's, or the split has no rows.
    """
    reader = _Reader(spec, options, closed=options.labels or labels)
    unknown = sorted(set(options.labels or reader.class_rows) - set(labels))
    if unknown:
        raise other_classes(unknown, labels, reader.opened.spec)
    return evaluation_source(reader.found(), labels, split, strict=options.strict)


@dataclass(frozen=True, slots=True)
class _OfSplit:
    """A split that is read.

    Attributes:
        place: What its rows are called by: hub:NAME SPLIT, or FILE.
        rows: The split.
        split: What it is, or None where rows go by their hash.
        origins: `LINE`, `FILE` and `FLAW` of each row, as far as the tables have them.
    """

    place: Path
    rows: datasets.Dataset
    split: Split | None
    origins: pa.Table

    def line(self, at: int) -> int:
        """Return what a row is called by: its line in a file, else its position."""
        names = self.origins.column_names
        return self.origins.column(LINE)[at].as_py() if names and FILE not in names else at

    def in_file(self, at: int) -> str:
        """Return where a row of a data set stands in a text file, for a message."""
        if FILE not in self.origins.column_names:
            return ""
        file, line = (self.origins.column(name)[at].as_py() for name in (FILE, LINE))
        return f" ({file}:{line})"

    def flaws(self) -> dict[int, str]:
        """Return by position why rows of a text file cannot be used."""
        if FLAW not in self.origins.column_names:
            return {}
        flaws = self.origins.column(FLAW)
        if flaws.null_count == len(flaws):
            return {}
        return {at: flaw for at, flaw in enumerate(flaws.to_pylist()) if flaw is not None}


class _Reader:
    """Scans tables once.

    Attributes:
        opened: The tables.
        class_rows: By class name, how many rows name it.
    """

    def __init__(
        self, spec: str, options: SourceOptions, *, closed: tuple[str, ...] | None = None
    ) -> None:
        is_file = not spec.startswith(PREFIX)
        self.opened: OpenedTables = (
            open_table_file(Path(spec))
            if is_file
            else open_hub_dataset(spec[len(PREFIX) :], needs_classes=options.teacher is None)
        )
        self._image_files = [ImageFiles(folder) for folder in self.opened.folders]
        self._origins = self._take_origins()
        renamed = self._rename_columns(options)
        features = next(iter(self.opened.splits.values())).features
        image_key = None
        if options.image_column is None and "image" not in features:
            image_key = self._other_image_key(features)
            options = replace(options, image_column=image_key)
        self._columns: Columns = self._find_columns(features, options)
        self._split_column = self._find_split_column(features)
        self._closed = closed or options.labels or self._columns.names
        self._options = options
        self._notes = list(self.opened.notes)
        self._splits = list(self._splits_to_read())
        self._notes += notes_on_keys(
            self._rows_by_column(), self._columns_read(), image_key, renamed
        )
        self._rows: list[Row] = []
        self._skipped: dict[tuple[Path, int], str] = {}
        self.class_rows: Counter[str] = Counter()
        for of_split in self._splits:
            self._scan(of_split)

    def _take_origins(self) -> Mapping[str, pa.Table]:
        """Take the columns that state where rows stand out of the tables; return them by split."""
        splits = self.opened.splits
        names = [
            name for name in (LINE, FILE, FLAW) if name in next(iter(splits.values())).features
        ]
        without = {split: rows.remove_columns(names) for split, rows in splits.items()}
        self.opened = replace(self.opened, splits=without if names else splits)
        return {split: rows.data.select(names) for split, rows in splits.items()}

    def _find_columns(self, features: datasets.Features, options: SourceOptions) -> Columns:
        """Find the columns; an error also states which files are left out, as it may be why."""
        try:
            columns = find_columns(self.opened.spec, features, options)
        except DataError as error:
            what = "; ".join([error.what, *self.opened.notes])
            raise DataError(what, where=error.where, fix=error.fix) from error
        if columns.label is None or features.arrow_schema.field(columns.label).type != MIXED:
            return columns
        are_lists = {
            value["json"].startswith("[")
            for rows in self.opened.splits.values()
            for value in rows.data.column(columns.label).to_pylist()
            if value is not None and value["json"] != '""'
        }
        return replace(columns, is_multi_label=is_multi_label(are_lists, columns.label))

    def _rename_columns(self, options: SourceOptions) -> Mapping[str, str]:
        """Give columns their usual names where those differ in case; return them by old name."""
        named = {options.image_column, options.text_column, options.label_column}
        splits = self.opened.splits
        names = next(iter(splits.values())).column_names
        renamed = {old: new for old, new in usual_keys(names).items() if old not in named}
        if renamed:
            splits = {name: rows.rename_columns(renamed) for name, rows in splits.items()}
            self.opened = replace(self.opened, splits=splits)
        return renamed

    def _find_split_column(self, features: datasets.Features) -> str | None:
        """Return `split`, if the rows are not in the splits of a data set already."""
        names = list(self.opened.splits)
        is_alone = len(names) == 1 and (not names[0] or split_called(names[0]) in (None, "train"))
        if not is_alone or "split" not in features:
            return None
        kind = features.arrow_schema.field("split").type
        return "split" if not names[0] or is_string(kind) else None

    def _other_image_key(self, features: datasets.Features) -> str | None:
        """Return the first of IMAGE_KEYS that holds images, or names of image files."""
        tables = [rows.data for rows in self.opened.splits.values()]
        for name in IMAGE_KEYS:
            kind = features.arrow_schema.field(name).type if name in features else pa.null()
            if is_binary(kind) or (pa.types.is_struct(kind) and kind != MIXED):
                return name
            if is_string(kind) and any(
                isinstance(value, bytes) and files.has(value.decode("utf-8", "replace"))
                for table in tables
                for value in _without_unicode(table.column(name))
                for files in self._image_files
            ):
                return name
        return None

    def _columns_read(self) -> tuple[str | None, ...]:
        return self._columns.image, self._columns.text, self._columns.label, self._split_column

    def _rows_by_column(self) -> dict[str, int]:
        """Return how many rows have a value, by column; those without any are left out."""
        rows: Counter[str] = Counter()
        for of_split in self._splits:
            table = of_split.rows.data
            rows.update(
                {name: len(table) - table.column(name).null_count for name in table.column_names}
            )
        return dict(+rows)

    def found(self) -> ReaderRows:
        rows, skipped = [], dict(self._skipped)
        closed = self._closed or known_classes(self._options, self._rows)
        for row in self._rows:
            reason = reason_against_labels(row.labels, closed, self.class_rows)
            if reason is None:
                rows.append(row)
            else:
                skipped[row.file, int(row.line)] = reason
        named = [
            SkippedRow(f"{one.place}:{at}{one.in_file(at)}", skipped[one.place, at])
            for one in self._splits
            for at in sorted(at for place, at in skipped if place == one.place)
        ]
        images = {one.place: self._encoded_images(one.rows) for one in self._splits}
        return ReaderRows(
            where=Path(self.opened.spec),
            rows=rows,
            info=DatasetInfo(
                closed or (),
                "multi_label" if self._columns.is_multi_label else "single_label",
                tuple(named),
                tuple(self._notes),
            ),
            form=_FORM,
            encoded=lambda row: _encoded(images[row.file], int(row.line)),
        )

    def _splits_to_read(self) -> Iterator[_OfSplit]:
        splits = self.opened.splits
        for name, rows in splits.items():
            if not name:
                yield _OfSplit(Path(self.opened.spec), rows, None, self._origins[name])
                continue
            split = split_called(name)
            is_alone = len(splits) == 1 and split in (None, "train")
            if split is None and not is_alone:
                count = counted(len(rows), "row", "rows")
                self._notes.append(f"the split {shown(name)} is left out: {count}")
            elif split in ("validation", "test") and self._lacks_labels(rows):
                self._notes.append(f"the split {shown(name)} has no labels and is left out")
            else:
                place = Path(f"{self.opened.spec} {name}")
                yield _OfSplit(place, rows, None if is_alone else split, self._origins[name])

    def _lacks_labels(self, rows: datasets.Dataset) -> bool:
        """Return whether a held-out split has no label and needs one, as training rows do."""
        is_taught = self._options.teacher is not None and not any(
            self._has_labels(others)
            for name, others in self.opened.splits.items()
            if split_called(name) == "train"
        )
        return not is_taught and not self._has_labels(rows)

    def _has_labels(self, rows: datasets.Dataset) -> bool:
        if self._columns.label is None:
            return False
        labels = rows.data.column(self._columns.label)
        if labels.null_count == len(labels):
            return False
        return self._columns.names is None or any(
            value not in (None, _NO_LABEL) for value in labels.to_pylist()
        )

    def _images(self, rows: datasets.Dataset) -> pa.ChunkedArray | None:
        return None if self._columns.image is None else rows.data.column(self._columns.image)

    def _encoded_images(self, rows: datasets.Dataset) -> pa.ChunkedArray | None:
        """Return the column of images; None where it holds the names of files."""
        images = self._images(rows)
        return None if images is None or is_string(images.type) else images

    def _scan(self, of_split: _OfSplit) -> None:
        table, images = of_split.rows.data, self._images(of_split.rows)
        named = (self._columns.text, self._columns.label, self._split_column)
        columns = [None if name is None else table.column(name) for name in named]
        flaws = of_split.flaws()
        for start in range(0, len(table), _ROWS_AT_A_TIME):
            some = range(start, min(start + _ROWS_AT_A_TIME, len(table)))
            texts, labels, splits = (
                [None] * len(some)
                if column is None
                else _without_unicode(column[some.start : some.stop])
                for column in columns
            )
            for at, *values in zip(some, texts, labels, splits, strict=True):
                if at in flaws:
                    self._skipped[of_split.place, of_split.line(at)] = flaws[at]
                else:
                    self._add(of_split, at, None if images is None else images[at], *values)

    def _add(
        self,
        of_split: _OfSplit,
        at: int,
        image: pa.Scalar | None,
        text: object,
        label: object,
        split: object,
    ) -> None:
        line = of_split.line(at)
        try:
            labels = self._labels(label)
            self.class_rows.update(labels or ())
            assigned = of_split.split or _split(split)
            is_needed = self._options.teacher is None
            if labels is None and assigned not in (None, "train") and is_needed:
                raise UnusableRowError(without_label(assigned))
            words = self._text(text)
            path, sha256 = self._image(image)
            if not sha256 and words is None:
                raise UnusableRowError("has neither image nor text")
        except UnusableRowError as error:
            self._skipped[of_split.place, line] = str(error)
        else:
            row = Row(of_split.place, line, path, sha256, words, labels, assigned)
            self._rows.append(row)

    def _text(self, value: object) -> str | None:
        text = _decoded(value, "text") if isinstance(value, bytes) else value
        is_integer = isinstance(text, int) and not isinstance(text, bool)
        return parse_text(str(text) if is_integer else text, "text")

    def _labels(self, value: object) -> tuple[str, ...] | None:
        key = "labels" if self._columns.label == "labels" else "label"
        if isinstance(value, list):
            value = [self._class(entry, f"an entry of {key}") for entry in value]
        elif self._columns.names is None or value != _NO_LABEL:
            value = self._class(value, key)
        else:
            value = None
        return parse_labels(value, key, is_multi_label=self._columns.is_multi_label)

    def _class(self, value: object, what: str) -> object:
        """Return what is written for a class, or the name that its index has."""
        names = self._columns.names
        if names is None or value is None:
            return _decoded(value, what) if isinstance(value, bytes) else value
        assert isinstance(value, int)  # by its feature
        if not 0 <= value < len(names):
            raise UnusableRowError(f"{what} is {value}, and there are {len(names)} classes")
        return names[value]

    def _image(self, image: pa.Scalar | None) -> tuple[str, str]:
        """Return an image's path, "" where its bytes stand in the row, and its SHA-256."""
        if image is None:
            return "", ""
        encoded, name = _image_of(image)
        if encoded is not None:
            if not encoded:
                raise UnusableRowError("image is empty")
            return "", hashlib.sha256(encoded).hexdigest()
        for files, folder in zip(self._image_files, self.opened.folders, strict=True):
            inside = folder.absolute()
            if name and Path(name).is_absolute() and Path(name).is_relative_to(inside):
                # What metadata names is absolute, for `datasets` made it so.
                is_written = image.type == MIXED or is_string(image.type)
                return files.find(name if is_written else str(Path(name).relative_to(inside)))
        return self._image_files[0].find(name)


def _image_of(image: pa.Scalar) -> tuple[bytes | None, str | None]:
    """Return the bytes, or the path, that a row has for its image.

    Raises:
        UnusableRowError: They are too many, or no text.
    """
    if not image.is_valid:
        return None, None
    if image.type == MIXED:
        value = parse_json(image["json"].as_buffer().to_pybytes())
        if not isinstance(value, str):
            raise UnusableRowError(f"image is {type_name(value)}, not a string")
        return None, value
    if pa.types.is_struct(image.type):
        names = [field.name for field in image.type]
        encoded, path = (image[name] if name in names else None for name in ("bytes", "path"))
        if encoded is not None and encoded.is_valid:
            return _image_of(encoded)
        return _image_of(path)
    value = image.as_buffer()
    if is_string(image.type):
        return None, _decoded(value.to_pybytes(), "image")
    if len(value) > MOST_PICTURE_BYTES:
        raise UnusableRowError(f"image is larger than {MOST_PICTURE_BYTES:,} bytes")
    return value.to_pybytes(), None


def _encoded(images: pa.ChunkedArray | None, at: int) -> bytes | None:
    return None if images is None else _image_of(images[at])[0]


def _split(value: object) -> Split | None:
    return parse_split(_decoded(value, "split") if isinstance(value, bytes) else value)


def _decoded(value: object, what: str) -> str:
    """Return the text that a field's bytes are.

    Raises:
        UnusableRowError: They are too many, or no UTF-8; half a surrogate pair is none.
    """
    assert isinstance(value, bytes)  # see `_without_unicode`
    if len(value) > MOST_LINE_BYTES:
        raise UnusableRowError(f"{what} is longer than {MOST_LINE_BYTES:,} bytes")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableRowError(f"{what} is not UTF-8 (byte {error.start + 1})") from error


def _without_unicode(column: pa.ChunkedArray) -> Sequence[object]:
    """Return a column's values, strings as bytes: Arrow never looked whether they are UTF-8.

    Values of several types are as JSON has them, their strings checked.
    """
    if column.type == MIXED:
        values = (None if value is None else value["json"] for value in column.to_pylist())
        return [None if value is None else parse_json(value.encode()) for value in values]
    return list(column.cast(_as_bytes(column.type)).to_pylist())


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    if is_string(kind):
        return pa.binary_view() if pa.types.is_string_view(kind) else pa.large_binary()
    if is_list_of_values(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    return kind
