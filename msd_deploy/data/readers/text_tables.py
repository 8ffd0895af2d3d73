"""Tables of text files as they are written: CSV, TSV and JSON as Arrow, without inferred types.

A cell of a CSV is a string, and an empty one is absent. In JSON, what looks like a date stays a
string, and an integer becomes one, since the class 1 is the class "1". The columns that are read
are found in `columns`.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.packaged_modules.csv.csv import Csv, CsvConfig
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from datasets.packaged_modules.json.json import Json
from datasets.utils.file_utils import xopen

from msd_deploy.data.readers.rows import MOST_LINE_BYTES, UnusableRowError, without_repeats
from msd_deploy.errors import DataError

_BOM = b"\xef\xbb\xbf"
_JSON_ROWS_AT_A_TIME = 10_000
_MIXED = pa.struct([("mixed types", pa.null())])
"""The type of a JSON column whose values are of several: it is refused where it is read."""
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
    encoding = encoding or "utf-8-sig"
    csv.field_size_limit(MOST_LINE_BYTES)
    line = 0
    lines: list[int] = []
    unusable: dict[int, str] = {}
    with io.TextIOWrapper(
        xopen(file, "rb"), encoding=encoding, errors="surrogateescape", newline=""
    ) as text:
        # An unbalanced quote is an error instead of a cell that holds the rest of the file.
        reader = csv.reader(_decoded(text), delimiter=delimiter, quotechar=quote, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
            _check_header(file, header)
            columns: list[list[str | None]] = [[] for _ in header]
            line = reader.line_num
            for cells in reader:
                start, line = line + 1, reader.line_num
                if cells and len(cells) != len(header):
                    unusable[start] = f"has {len(cells)} cells, and the header has {len(header)}"
                elif any("\0" in cell for cell in cells):
                    unusable[start] = "holds a NUL character"
                elif cells:
                    lines.append(start)
                    for column, cell in zip(columns, cells, strict=True):
                        column.append(cell or None)
        except csv.Error as error:
            fix = "Enclose cells with quotes or line breaks in quotes, and double the quotes inside"
            raise DataError(f"is not CSV ({error})", where=f"{file}:{line + 1}", fix=fix) from error
        except UnicodeError as error:
            what = f"is not {encoding.removesuffix('-sig').upper()}"
            place = f"{file}:{reader.line_num + 1}"
            raise DataError(what, where=place, fix="Save the file as UTF-8") from error
    rows = {
        name: pa.array(column, pa.string())
        for name, column in zip(header, columns, strict=True)
        if name.strip()
    }
    return CsvTable(pa.table(rows), lines, unusable)


def _decoded(text: Iterator[str]) -> Iterator[str]:
    """Yield lines; raise UnicodeError at the one with bytes that are not of the encoding."""
    for line in text:
        line.encode("utf-8")
        yield line


def _check_header(file: str, header: Sequence[str]) -> None:
    if not header:
        raise DataError("is empty", where=file, fix="Name the columns in its first line")
    twice = next((name for name in header if name.strip() and header.count(name) > 1), None)
    if twice is not None:
        what = f"names the column {twice!r} twice"
        raise DataError(what, where=f"{file}:1", fix="Rename one of them")


def read_as_written(builder: datasets.DatasetBuilder) -> None:
    """Replace a builder's reading of CSV and JSON, which infers types and missing values.

    What `datasets` finds, downloads and caches stays as it is.

    Raises:
        DataError: The dataset's card sets an option of CSV that is not supported.
    """
    if isinstance(builder, Csv):
        _refuse_options(builder.config)
        builder._generate_tables = partial(_csv_tables, builder)
    elif isinstance(builder, Json) and not builder.config.field and not builder.info.features:
        builder._generate_tables = partial(_json_tables, builder, builder._generate_tables)
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


def _csv_tables(
    builder: Csv, base_files: object, files_iterables: Sequence[Iterable[str]]
) -> Iterator[tuple[Key, pa.Table]]:
    config = builder.config
    for shard, files in enumerate(files_iterables):
        for number, file in enumerate(files):
            rows = _whole_csv(file, config.sep, config.quotechar, config.encoding)
            yield Key(shard, number), builder._cast_table(rows)


def _whole_csv(
    file: str, delimiter: str = ",", quote: str = '"', encoding: str | None = None
) -> pa.Table:
    table = read_csv(file, delimiter=delimiter, quote=quote, encoding=encoding)
    for line, reason in table.unusable.items():
        fix = "Give each row as many cells as the header"
        raise DataError(reason, where=f"{file}:{line}", fix=fix)
    return table.rows


def _json_tables(
    builder: Json,
    infer: Callable[..., Iterator[tuple[Key, pa.Table]]],
    base_files: object,
    files_iterables: Sequence[Iterable[str]],
    **further: object,
) -> Iterator[tuple[Key, pa.Table]]:
    shards = [list(files) for files in files_iterables]
    if not all(_has_rows(file) for files in shards for file in files):
        yield from infer(base_files, shards, **further)
        return
    features = builder.info.features  # of the first split, once its first table has been read
    schema = None if features is None else features.arrow_schema
    for shard, files in enumerate(shards):
        for number, table in enumerate(_json_files(files, schema)):
            schema = table.schema
            yield Key(shard, number), table


def _metadata_tables(
    infer: Callable[..., Iterator[pa.Table]], metadata_file: str, metadata_ext: str = ""
) -> Iterator[pa.Table]:
    if metadata_ext == ".csv":
        yield _whole_csv(metadata_file)
    elif metadata_ext == ".jsonl":
        yield from _json_files([metadata_file], None)
    else:
        yield from infer(metadata_file, metadata_ext)


def _has_rows(file: str) -> bool:
    """Return whether a JSON file is a list, or has an object in each line."""
    with xopen(file, "rb") as lines:
        first = next((line for line in lines if line.strip()), b"").removeprefix(_BOM).strip()
    if not first.startswith(b"{"):
        return bool(first.startswith(b"["))
    try:
        json.loads(first)
    except ValueError:
        return False
    return True


def _json_files(files: Iterable[str], schema: pa.Schema | None) -> Iterator[pa.Table]:
    """Yield the rows of files, some at a time, in one schema; None: that of the first rows."""
    for file in files:
        rows = _json_rows(file)
        while some := list(itertools.islice(rows, _JSON_ROWS_AT_A_TIME)):
            table = _table_of(file, some, schema)
            schema = table.schema
            yield table


def _json_rows(file: str) -> Iterator[Mapping[str, object]]:
    with xopen(file, "rb") as lines:
        numbered = ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
        number, first = next(numbered, (1, b"[]"))
        first = first.removeprefix(_BOM)
        values: Iterator[tuple[int, Any]]
        if first.lstrip().startswith(b"["):
            values = enumerate(_json(first + lines.read(), file), start=1)
        else:
            texts = itertools.chain([(number, first)], numbered)
            values = ((number, _json(line, f"{file}:{number}")) for number, line in texts)
        for number, value in values:
            row = {"text": value} if isinstance(value, str) else value
            if not isinstance(row, dict):
                raise DataError("is not a JSON object", where=f"{file}:{number}")
            yield row


def _json(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw, parse_int=str, object_pairs_hook=without_repeats)
    except UnusableRowError as error:
        raise DataError(str(error), where=where) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=where) from error


def _table_of(
    file: str, records: Sequence[Mapping[str, object]], schema: pa.Schema | None
) -> pa.Table:
    """Return rows as a table of a schema; None: inferred."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if schema is not None:
        new = next((name for name in names if name not in schema.names), None)
        if new is not None:
            what = f"has a column {new!r} that the rows before it lack"
            raise DataError(what, where=file, fix="Give the first row all columns")
        names = schema.names
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        kind = None if schema is None else schema.field(name).type
        columns[name] = _column_of(f"{file}: column {name!r}", values, kind)
    return pa.table(columns)


def _column_of(where: str, values: Sequence[object], kind: pa.DataType | None) -> pa.Array:
    if kind is None and all(value is None for value in values):
        kind = pa.string()
    try:
        return pa.nulls(len(values), kind) if kind == _MIXED else pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        if kind is None:
            return pa.nulls(len(values), _MIXED)
        raise DataError(f"changes its type ({error})", where=where) from error
