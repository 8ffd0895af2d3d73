"""Tables of text files as they are written: CSV, TSV and JSON as Arrow, without inferred types.

A cell of a CSV is a string, and an empty one is absent. In JSON, what looks like a date stays a
string, and an integer becomes one, since the class 1 is the class "1"; a column of several types
keeps each value as JSON, for a row with a wrong one to be named. The columns that are read are
found in `columns`.
"""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.packaged_modules.csv.csv import Csv, CsvConfig
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.utils.file_utils import xopen

from msd_deploy.data.readers.columns import MIXED
from msd_deploy.data.readers.parquet_tables import read_any_columns
from msd_deploy.data.readers.rows import (
    MOST_LINE_BYTES,
    Digits,
    UnusableRowError,
    parse_json,
    shown,
)
from msd_deploy.errors import DataError

_BOM = b"\xef\xbb\xbf"
_JSON_ROWS_AT_A_TIME = 10_000
_MOST_CELL_CHARACTERS = MOST_LINE_BYTES
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_RENAMED = {",": ", or rename it to FILE.csv", "\t": ", or rename it to FILE.tsv"}
_OPTIONS_OF_CSV = ("sep", "delimiter", "quotechar", "encoding", "features")


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV or TSV.

    Attributes:
        rows: Its rows as columns of strings, null for an empty cell.
        lines: The line of the file, from 1, in which each row begins.
        unusable: By line, why a row is not among them.
    """

    rows: pa.Table
    lines: Sequence[int]
    unusable: Mapping[int, str]


def read_csv(
    file: str, *, delimiter: str, quote: str = '"', encoding: str | None = None
) -> CsvTable:
    """Read a CSV whose first line names the columns; columns without a name are left out.

    Args:
        file: Its path, or what `datasets` calls one in an archive.
        delimiter: Between two cells.
        quote: Around a cell that contains a delimiter, a quote or a line break.
        encoding: None: UTF-8, with or without a byte-order mark.

    Raises:
        DataError: The file is empty, is not of the encoding, names a column twice, or is not CSV.
        OSError: It cannot be read.
    """
    rows = _csv_rows(file, delimiter, quote, encoding)
    header = _header(file, rows, delimiter)
    lines: list[int] = []
    unusable: dict[int, str] = {}
    columns: list[list[str | None]] = [[] for _ in header]
    for line, cells in rows:
        if len(cells) != len(header):
            unusable[line] = f"has {len(cells)} cells, and the header has {len(header)}"
        elif any(len(cell) > _MOST_CELL_CHARACTERS for cell in cells):
            unusable[line] = f"has a cell of more than {_MOST_CELL_CHARACTERS:,} characters"
        else:
            lines.append(line)
            for column, cell in zip(columns, cells, strict=True):
                column.append(cell or None)
    table = {
        name: pa.array(column, pa.string())
        for name, column in zip(header, columns, strict=True)
        if name.strip()
    }
    return CsvTable(pa.table(table), lines, unusable)


def _csv_rows(
    file: str, delimiter: str, quote: str, encoding: str | None
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its cells; blank lines are left out."""
    if codecs.lookup(encoding or "utf-8").name == "utf-8":
        encoding = "utf-8-sig"
    csv.field_size_limit((1 << 31) - 1)  # a long cell is no error of the whole file
    line = 0
    with io.TextIOWrapper(
        xopen(file, "rb"), encoding=encoding, errors="surrogateescape", newline=""
    ) as text:
        # An unbalanced quote is an error instead of a cell that holds the rest of the file.
        reader = csv.reader(_decoded(text), delimiter=delimiter, quotechar=quote, strict=True)
        try:
            for cells in reader:
                start, line = line + 1, reader.line_num
                if cells:
                    yield start, cells
        except csv.Error as error:
            fix = "Enclose cells with quotes or line breaks in quotes, and double the quotes inside"
            raise DataError(f"is not CSV ({error})", where=f"{file}:{line + 1}", fix=fix) from error
        except UnicodeError as error:
            what = f"is not {str(encoding).removesuffix('-sig').upper()}"
            place = f"{file}:{reader.line_num + 1}"
            raise DataError(what, where=place, fix="Save the file as UTF-8") from error


def _decoded(text: Iterator[str]) -> Iterator[str]:
    """Yield lines; raise UnicodeError at the one with bytes that are not of the encoding."""
    for line in text:
        line.encode("utf-8")
        yield line


def _header(file: str, rows: Iterator[tuple[int, list[str]]], delimiter: str) -> list[str]:
    line, header = next(rows, (0, []))
    where = f"{file}:{line}"
    if not header:
        raise DataError("is empty", where=file, fix="Name the columns in its first line")
    other = next((mark for mark in _SEPARATORS if mark in header[0] and mark != delimiter), None)
    if len(header) == 1 and other is not None:
        expected = _SEPARATORS.get(delimiter, repr(delimiter))
        what = f"has {_SEPARATORS[other]} between columns, not {expected}"
        fix = f"Save it with {expected}{_RENAMED.get(other, '')}"
        raise DataError(what, where=where, fix=fix)
    twice = next((name for name in header if name.strip() and header.count(name) > 1), None)
    if twice is not None:
        what = f"names the column {shown(twice)} twice"
        raise DataError(what, where=where, fix="Rename one of them")
    if any("\0" in name for name in header):  # where Arrow's schema ends a name
        what = "has a NUL character in the name of a column"
        raise DataError(what, where=where, fix="Remove it")
    return header


def read_as_written(builder: datasets.DatasetBuilder) -> None:
    """Replace a builder's reading of CSV and JSON, which infers types and missing values.

    Of Parquet, columns of all types can be there.

    What `datasets` finds, downloads and caches stays as it is.

    Raises:
        DataError: The dataset's card sets an option of CSV that is not supported.
    """
    if isinstance(builder, Csv):
        _refuse_options(builder.config)
        builder._split_generators = partial(_csv_splits, builder, builder._split_generators)
        builder._generate_tables = partial(_csv_tables, builder)
    elif isinstance(builder, Json) and not builder.config.field and not builder.info.features:
        builder._split_generators = partial(_json_splits, builder, builder._split_generators)
    elif isinstance(builder, Parquet):
        read_any_columns(builder)
    elif isinstance(builder, FolderBasedBuilder):
        builder._read_metadata = partial(_metadata_tables, builder._read_metadata)


def _refuse_options(config: CsvConfig) -> None:
    usual = CsvConfig()
    general = {field.name for field in fields(datasets.BuilderConfig)}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in general or field.name in _OPTIONS_OF_CSV:
            continue
        if value != getattr(usual, field.name):
            what = f"its card sets {field.name} of CSV to {value!r}, which is not supported"
            raise DataError(what, fix="Write its rows as a CSV with a header, or as FILE.jsonl")


def _csv_splits(
    builder: Csv,
    find: Callable[[datasets.DownloadManager], list[datasets.SplitGenerator]],
    downloads: datasets.DownloadManager,
) -> list[datasets.SplitGenerator]:
    """Find the files of each split; every column of any file becomes one of the data set."""
    config, splits = builder.config, find(downloads)
    if builder.info.features is None:
        names: dict[str, None] = {}
        for file in _files_of(splits):
            rows = _csv_rows(file, config.sep, config.quotechar, config.encoding)
            names |= dict.fromkeys(_header(file, rows, config.sep))
        text = datasets.Value("string")
        builder.info.features = datasets.Features({name: text for name in names if name.strip()})
    return splits


def _files_of(splits: Iterable[datasets.SplitGenerator]) -> list[str]:
    return [
        file for split in splits for files in split.gen_kwargs["files_iterables"] for file in files
    ]


def _csv_tables(
    builder: Csv, base_files: Sequence[str], files_iterables: Sequence[Iterable[str]]
) -> Iterator[tuple[Key, pa.Table]]:
    config, schema = builder.config, builder.info.features.arrow_schema
    found = 0
    for shard, files in enumerate(files_iterables):
        for number, file in enumerate(files):
            rows = _whole_csv(file, config.sep, config.quotechar, config.encoding)
            found += len(rows)
            none, names = pa.nulls(len(rows), pa.string()), rows.column_names
            columns = {name: rows[name] if name in names else none for name in schema.names}
            yield Key(shard, number), builder._cast_table(pa.table(columns))
    _refuse_without_rows(base_files, found)


def _refuse_without_rows(files: Sequence[str], found: int) -> None:
    if not found:
        raise DataError("has no rows", where=files[0], fix="Add rows, or remove the file")


def _whole_csv(
    file: str, delimiter: str = ",", quote: str = '"', encoding: str | None = None
) -> pa.Table:
    table = read_csv(file, delimiter=delimiter, quote=quote, encoding=encoding)
    for line, reason in table.unusable.items():
        fix = "Give each row as many cells as the header, none above the limit"
        raise DataError(reason, where=f"{file}:{line}", fix=fix)
    return table.rows


def _json_splits(
    builder: Json,
    find: Callable[[datasets.DownloadManager], list[datasets.SplitGenerator]],
    downloads: datasets.DownloadManager,
) -> list[datasets.SplitGenerator]:
    """Find the files of each split, and one type for each column of any file."""
    builder.info.features = datasets.Features()  # for `find` not to infer them
    splits = find(downloads)
    files = _files_of(splits)
    if all(_has_rows(file) for file in files):
        builder.info.features = datasets.Features.from_arrow_schema(_schema_of(files))
        builder._generate_tables = partial(_json_tables, builder)
        return splits
    builder.info.features = None
    return find(downloads)


def _json_tables(
    builder: Json,
    base_files: Sequence[str],
    files_iterables: Sequence[Iterable[str]],
    **further: object,
) -> Iterator[tuple[Key, pa.Table]]:
    schema, found = builder.info.features.arrow_schema, 0
    for shard, files in enumerate(files_iterables):
        for number, table in enumerate(_json_files(files, schema)):
            found += len(table)
            yield Key(shard, number), table
    _refuse_without_rows(base_files, found)


def _metadata_tables(
    infer: Callable[..., Iterator[pa.Table]], metadata_file: str, metadata_ext: str = ""
) -> Iterator[pa.Table]:
    if metadata_ext == ".csv":
        yield _whole_csv(metadata_file)
    elif metadata_ext == ".jsonl":
        yield from _json_files([metadata_file], _schema_of([metadata_file]))
    else:
        yield from infer(metadata_file, metadata_ext)


def _has_rows(file: str) -> bool:
    """Return whether a JSON file is a list, has an object in each line, or is empty."""
    with xopen(file, "rb") as lines:
        first = next((line for line in lines if line.strip()), b"").removeprefix(_BOM).strip()
    if not first.startswith(b"{"):
        return not first or bool(first.startswith(b"["))
    try:
        json.loads(first)
    except ValueError:
        return False
    return True


def _schema_of(files: Iterable[str]) -> pa.Schema:
    """Return every column of any row, of the type that all its values have, or `MIXED`."""
    kinds: dict[str, pa.DataType] = {}
    for file in files:
        for some in _in_parts(_json_rows(file)):
            for name in dict.fromkeys(name for row in some for name in row):
                kind = _kind_of([row.get(name) for row in some])
                kinds[name] = _common_kind(kinds.get(name, pa.null()), kind)
    return pa.schema(
        [(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in kinds.items()]
    )


def _kind_of(values: Sequence[object]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        return MIXED


def _common_kind(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    try:
        schemas = [pa.schema([("values", kind)]) for kind in (one, other)]
        return MIXED if MIXED in (one, other) else pa.unify_schemas(schemas).field(0).type
    except pa.ArrowTypeError:
        return MIXED


def _json_files(files: Iterable[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of files, some at a time."""
    for file in files:
        for some in _in_parts(_json_rows(file)):
            columns = [
                _column_of([row.get(field.name) for row in some], field.type) for field in schema
            ]
            yield pa.table(columns, schema=schema)


def _in_parts(rows: Iterator[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    while some := list(itertools.islice(rows, _JSON_ROWS_AT_A_TIME)):
        yield some


def _column_of(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    if kind == MIXED:
        values = [None if value is None else {"json": json.dumps(value)} for value in values]
    return pa.array(values, kind)


def _json_rows(file: str) -> Iterator[Mapping[str, object]]:
    with xopen(file, "rb") as lines:
        numbered = ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
        number, first = next(numbered, (1, b"[]"))
        first = first.removeprefix(_BOM)
        values: Iterator[tuple[int, object]]
        if first.lstrip().startswith(b"["):
            entries = _json(first + lines.read(), file)
            values = enumerate(entries if isinstance(entries, list) else (), start=1)
        else:
            texts = itertools.chain([(number, first)], numbered)
            values = ((number, _json(line, f"{file}:{number}")) for number, line in texts)
        for number, value in values:
            row = {"text": value} if isinstance(value, str) else value
            if not isinstance(row, dict):
                raise DataError("is not a JSON object", where=f"{file}:{number}")
            yield row


def _json(raw: bytes, where: str) -> object:
    try:
        return parse_json(raw, parse_int=Digits)
    except UnusableRowError as error:
        raise DataError(str(error), where=where, fix="Fix it, or remove it") from error
