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
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path, PureWindowsPath

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.packaged_modules.csv.csv import Csv, CsvConfig
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.utils.file_utils import xopen

from msd_deploy.data.readers.assemble import refuse
from msd_deploy.data.readers.columns import FILE, FLAW, LINE, MIXED, check_names
from msd_deploy.data.readers.parquet_tables import read_any_columns
from msd_deploy.data.readers.rows import (
    MOST_LINE_BYTES,
    Digits,
    UnusableRowError,
    check_characters,
    check_spellings,
    is_utf16,
    parse_json,
    parse_object,
    shown,
    type_name,
)
from msd_deploy.data.source import SkippedRow
from msd_deploy.errors import DataError

_BOM = b"\xef\xbb\xbf"
_JSON_ROWS_AT_A_TIME = 10_000
_MOST_CELL_CHARACTERS = MOST_LINE_BYTES
_MOST_NAMED = 20
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_RENAMED = {",": ", or rename it to FILE.csv", "\t": ", or rename it to FILE.tsv"}
# A spreadsheet that saves such a file again fills the line up with separators.
_EXCEL = re.compile(r""""?sep=([^\w"'\r\n])\1*"?\1*[ \r\n]*""", re.IGNORECASE)
_UNCLOSED = "a text begins with a quotation mark; double it, and enclose the text in two more"
_FIRST_QUOTED = re.compile(r"""("[^"]*")+ *([,\t;|])""")
_IMAGE_PATHS = re.compile(r"((?P<key>.*)_)?file_name(?P<several>s?)")
_ORIGINS = pa.schema([(LINE, pa.int64()), (FILE, pa.string()), (FLAW, pa.string())])
_FEATURES_OF_ORIGINS = datasets.Features.from_arrow_schema(_ORIGINS)
_OPTIONS_OF_CSV = ("sep", "delimiter", "quotechar", "encoding", "features")


def read_csv(
    file: str, *, delimiter: str, quote: str = '"', encoding: str | None = None
) -> pa.Table:
    """Read a CSV whose first line names the columns; columns without a name are left out.

    Args:
        file: Its path, or what `datasets` calls one in an archive.
        delimiter: Between two cells.
        quote: Around a cell that contains a delimiter, a quote or a line break.
        encoding: None: UTF-8, with or without a byte-order mark.

    Returns:
        Columns of strings, null for an empty cell; `LINE`, the line of the file, from 1, on which
        a row begins; and `FLAW`: a row that has one has no cells.

    Raises:
        DataError: The file is empty, is not of the encoding, names a column twice, or is not CSV.
        OSError: It cannot be read.
    """
    rows = _csv_rows(file, delimiter, quote, encoding)
    header = _header(file, rows)
    lines: list[int] = []
    flaws: list[str | None] = []
    columns: list[list[str | None]] = [[] for _ in header]
    long_rows: dict[int, list[list[str]]] = {}
    for line, cells, inside in rows:
        flaw = _flaw_of(cells, header)
        if inside:
            long_rows[len(lines)] = inside
        lines.append(line)
        flaws.append(flaw)
        for column, cell in zip(columns, cells if flaw is None else header, strict=True):
            column.append(cell or None if flaw is None else None)
    for at in _with_rows_inside(long_rows, columns):
        flaws[at] = f"has {len(long_rows[at])} lines that are rows: {_UNCLOSED}"
        for column in columns:
            column[at] = None
    table = {
        name: pa.array(column, pa.string())
        for name, column in zip(header, columns, strict=True)
        if name.strip()
    }
    origins = {LINE: pa.array(lines, pa.int64()), FLAW: pa.array(flaws, pa.string())}
    return pa.table(table | origins)


def _flaw_of(cells: Sequence[str], header: Sequence[str]) -> str | None:
    if len(cells) != len(header):
        return f"has {len(cells)} cells, and the header has {len(header)}"
    if any(len(cell) > _MOST_CELL_CHARACTERS for cell in cells):
        return f"has a cell of more than {_MOST_CELL_CHARACTERS:,} characters"
    return None


def _cells_without_quotes(line: str, delimiter: str, quote: str) -> list[str]:
    return [cell.strip(quote) for cell in line.rstrip("\r\n").split(delimiter)]


def _with_rows_inside(
    long_rows: Mapping[int, list[list[str]]], columns: Sequence[list[str | None]]
) -> list[int]:
    """Return the rows of several lines each of which is a row by itself.

    Such a row begins in a cell whose text begins with a quote, in a file that quotes no cells, and
    ends with the next one that ends with a quote. Each line has a cell for each column then, and in
    one column, such as that of labels, only values that other rows have there.
    """
    of_rows = {
        at: lines
        for at, lines in long_rows.items()
        if all(len(cells) == len(columns) for cells in lines)
    }
    if not of_rows:
        return []
    known = [
        {cell for at, cell in enumerate(column) if cell is not None and at not in long_rows}
        for column in columns
    ]
    return [
        at
        for at, lines in of_rows.items()
        if any(
            known[place].issuperset(cells) for place, cells in enumerate(zip(*lines, strict=True))
        )
    ]


def _csv_rows(
    file: str, delimiter: str, quote: str, encoding: str | None
) -> Iterator[tuple[int, list[str], list[list[str]]]]:
    """Yield the line on which each row begins, its cells, and of several lines each one's cells.

    Blank lines are left out. A first line `sep=;` is no row: it names the delimiter, as Excel
    writes and reads it.
    """
    if codecs.lookup(encoding or "utf-8").name == "utf-8":
        encoding = "utf-8-sig"
    csv.field_size_limit((1 << 31) - 1)  # a long cell is no error of the whole file
    with io.TextIOWrapper(
        xopen(file, "rb"), encoding=encoding, errors="surrogateescape", newline=""
    ) as text:
        # An unbalanced quote is an error instead of a cell that holds the rest of the file.
        line, before, reader = 0, 0, csv.reader(())
        try:
            first = text.readline()
            if is_utf16(first.encode("utf-8", "surrogateescape")):
                raise DataError("is UTF-16", where=f"{file}:1", fix="Save the file as UTF-8")
            stated = _EXCEL.fullmatch(first)
            line = before = int(stated is not None)
            written: list[str] = []
            lines = _decoded(text if stated else itertools.chain([first], text), written)
            mark = stated[1] if stated else delimiter
            reader = csv.reader(lines, delimiter=mark, quotechar=quote, strict=True)
            is_header = True
            for cells in reader:
                start, line = line + 1, reader.line_num + before
                if cells:
                    if is_header and len(cells) == 1:
                        _check_separator(f"{file}:{start}", cells[0], mark)
                    is_header, several = False, written if len(written) > 1 else ()
                    yield start, cells, [_cells_without_quotes(at, mark, quote) for at in several]
                written.clear()
        except csv.Error as error:
            quoted = _FIRST_QUOTED.match(written[0].removeprefix("\ufeff")) if is_header else None
            if quoted and quoted[2] != mark:
                raise _other_separator(f"{file}:{line + 1}", quoted[2], mark) from error
            fix = "Enclose cells with quotes or line breaks in quotes, and double the quotes inside"
            raise DataError(f"is not CSV ({error})", where=f"{file}:{line + 1}", fix=fix) from error
        except UnicodeError as error:
            what = f"is not {str(encoding).removesuffix('-sig').upper()}"
            place = f"{file}:{before + reader.line_num + 1}"
            raise DataError(what, where=place, fix="Save the file as UTF-8") from error


def _decoded(text: Iterator[str], written: list[str]) -> Iterator[str]:
    """Yield lines, and keep each; raise UnicodeError where bytes are not of the encoding."""
    for line in text:
        line.encode("utf-8")
        written.append(line)
        yield line


def _header(file: str, rows: Iterator[tuple[int, list[str], list[list[str]]]]) -> list[str]:
    line, header, _ = next(rows, (0, [], []))
    if not header:
        raise DataError("is empty", where=file, fix="Name the columns in its first line")
    check_names([name for name in header if name.strip()], f"{file}:{line}")
    return header


def _check_separator(where: str, only_name: str, delimiter: str) -> None:
    """Refuse a single column whose name contains another separator."""
    for other in _SEPARATORS:
        if other in only_name and other != delimiter:
            raise _other_separator(where, other, delimiter)


def _other_separator(where: str, other: str, delimiter: str) -> DataError:
    expected = _SEPARATORS.get(delimiter, repr(delimiter))
    what = f"has {_SEPARATORS[other]} between columns, not {expected}"
    fix = f"Save it with {expected}{_RENAMED.get(other, '')}"
    return DataError(what, where=where, fix=fix)


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
        spellings: dict[str, tuple[str, str]] = {}
        check_spellings(builder.info.features or (), "the dataset's card", spellings)
        builder._generate_tables = partial(_csv_tables, builder, spellings)
    elif isinstance(builder, Json) and not builder.config.field:
        if builder.info.features:
            builder._generate_tables = partial(_card_tables, builder, builder._generate_tables)
        else:
            builder._split_generators = partial(_json_splits, builder, builder._split_generators)
    elif isinstance(builder, Parquet):
        read_any_columns(builder)
    elif isinstance(builder, FolderBasedBuilder):
        builder._read_metadata = partial(_metadata_tables, builder, builder._read_metadata)


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
    features = builder.info.features
    if features is None:
        names: dict[str, None] = {}
        for file in _files_of(splits):
            rows = _csv_rows(file, config.sep, config.quotechar, config.encoding)
            names |= dict.fromkeys(_header(file, rows))
        text = datasets.Value("string")
        features = {name: text for name in names if name.strip()}
    builder.info.features = datasets.Features({**features, **_FEATURES_OF_ORIGINS})
    return splits


def _files_of(splits: Iterable[datasets.SplitGenerator]) -> list[str]:
    return [
        file for split in splits for files in split.gen_kwargs["files_iterables"] for file in files
    ]


def _csv_tables(
    builder: Csv,
    spellings: dict[str, tuple[str, str]],
    base_files: Sequence[str],
    files_iterables: Sequence[Iterable[str]],
) -> Iterator[tuple[Key, pa.Table]]:
    config, schema = builder.config, builder.info.features.arrow_schema
    found = 0
    for shard, files in enumerate(files_iterables):
        for number, file in enumerate(files):
            rows = read_csv(
                file, delimiter=config.sep, quote=config.quotechar, encoding=config.encoding
            )
            check_spellings(rows.column_names, file, spellings)
            rows = _with_file(rows, _name_of(file, builder))
            found += len(rows)
            none, names = pa.nulls(len(rows), pa.string()), rows.column_names
            columns = {name: rows[name] if name in names else none for name in schema.names}
            yield Key(shard, number), builder._cast_table(pa.table(columns))
    _refuse_without_rows(base_files, found)


def _refuse_without_rows(files: Sequence[str], found: int) -> None:
    if not found:
        raise DataError("has no rows", where=files[0], fix="Add rows, or remove the file")


def _with_file(rows: pa.Table, name: str) -> pa.Table:
    return rows.append_column(FILE, pa.repeat(name, len(rows)))


def _with_names(
    files: Iterable[str], builder: datasets.DatasetBuilder
) -> Iterator[tuple[str, str]]:
    return ((file, _name_of(file, builder)) for file in files)


def _name_of(file: str, builder: datasets.DatasetBuilder) -> str:
    """Return the path of a file in its folder, or its name where it is downloaded."""
    folder = Path(builder.base_path or "").resolve()
    return str(Path(file).relative_to(folder) if folder in Path(file).parents else Path(file).name)


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
        schema = _schema_of(_with_names(files, builder))
        builder.info.features = datasets.Features.from_arrow_schema(schema)
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
        for number, table in enumerate(_json_files(_with_names(files, builder), schema)):
            found += len(table)
            yield Key(shard, number), table
    _refuse_without_rows(base_files, found)


def _card_tables(
    builder: Json,
    generate: Callable[..., Iterator[tuple[Key, pa.Table]]],
    base_files: Sequence[str],
    files_iterables: Sequence[Iterable[str]],
    **further: object,
) -> Iterator[tuple[Key, pa.Table]]:
    """Yield rows as `datasets` reads them by the features of a card; an error names the place."""
    try:
        yield from generate(base_files, files_iterables, **further)
    except OSError:
        raise
    # Whatever pyarrow, pandas and `datasets` raise.
    except Exception as error:
        for file in filter(_has_rows, itertools.chain.from_iterable(files_iterables)):
            for row in _json_rows(file, file):
                if FLAW in row:
                    where, fix = f"{file}:{row[LINE]}", "Fix the row, or remove it"
                    raise DataError(str(row[FLAW]), where=where, fix=fix) from error
        what = f"declares features that its files do not have ({' '.join(str(error).split())})"
        fix = "Correct dataset_info, or remove it"
        raise DataError(what, where=f"{builder.base_path}/README.md", fix=fix) from error


def _metadata_tables(
    builder: FolderBasedBuilder,
    infer: Callable[..., Iterator[pa.Table]],
    metadata_file: str,
    metadata_ext: str = "",
) -> Iterator[pa.Table]:
    name = _name_of(metadata_file, builder)
    if metadata_ext == ".csv":
        tables = iter([_with_file(read_csv(metadata_file, delimiter=","), name)])
    elif metadata_ext == ".jsonl":
        named = [(metadata_file, name)]
        tables = _json_files(named, _schema_of(named))
    else:
        tables = infer(metadata_file, metadata_ext)
    found = 0
    for table in tables:
        found += len(table)
        yield _with_names_inside(_with_one_image(table), metadata_file)
    _refuse_without_rows([metadata_file], found)


def _with_one_image(rows: pa.Table) -> pa.Table:
    """Return rows of metadata in which no two columns are read under one name.

    `datasets` reads the images that file_name names as the column image, those of x_file_name as
    x. Another column called image makes room for them, and x_file_name for a column called x.
    """
    names = rows.column_names
    keys = {
        name: match["key"] or f"image{match['several']}"
        for name in names
        if (match := _IMAGE_PATHS.fullmatch(name))
    }
    read = {keys[name]: name for name in sorted(keys, key=len, reverse=True)}
    read |= {name: name for name in names if name not in (*keys, "image", "images")}
    beside = {name: read.get(keys.get(name, name), name) for name in names}
    return rows.rename_columns(
        [name if other == name else f"{name} (beside {other})" for name, other in beside.items()]
    )


def _with_names_inside(rows: pa.Table, file: str) -> pa.Table:
    """Return the rows of metadata; a name that is no path inside the folder is a flaw of its row.

    `datasets` refuses the whole folder for one such name.

    Raises:
        DataError: No column holds names of images; or a row of Parquet, which has no `FLAW`, has
            such a name.
    """
    own = [name for name in rows.column_names if name not in _ORIGINS.names]
    if not any(map(_IMAGE_PATHS.fullmatch, own)):
        has = ", ".join(map(shown, own[:_MOST_NAMED])) or "none"
        what = f"has no column file_name: it has {has}"
        where = file if file.endswith(".parquet") else f"{file}:1"
        raise DataError(what, where=where, fix="Name the column of image paths file_name")
    for name in own:
        if name != "file_name" and not name.endswith("_file_name"):
            continue
        values = rows[name].to_pylist()
        if rows[name].type == MIXED:
            values = [None if value is None else json.loads(value["json"]) for value in values]
        flaws = [_flaw_of_name(value, name, Path(file).name) for value in values]
        if not any(flaws):
            continue
        if FLAW not in rows.column_names:
            at = next(at for at, flaw in enumerate(flaws) if flaw)
            raise DataError(f"row {at}: {flaws[at]}", where=file, fix="Fix the row")
        kept = [None if flaw else value for value, flaw in zip(values, flaws, strict=True)]
        both = [old or new for old, new in zip(rows[FLAW].to_pylist(), flaws, strict=True)]
        for column, cells in ((name, kept), (FLAW, both)):
            at = rows.column_names.index(column)
            rows = rows.set_column(at, column, pa.array(cells, pa.string()))
    return rows


def _flaw_of_name(value: object, column: str, file: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"{column} is not a string"
    try:
        path = check_characters(value, column).replace("\\", "/")
    except UnusableRowError as error:
        return str(error)
    if "://" in path:
        return f"{column} {shown(value)} is a URL, not a file of the data folder"
    if PureWindowsPath(path).anchor or posixpath.normpath(path).split("/")[0] == "..":
        return f"{column} {shown(value)} leaves the data folder; write paths relative to {file}"
    return None


def _has_rows(file: str) -> bool:
    """Return whether a JSON file is a list, has an object in each line, or is empty.

    Not: it is one object over several lines, of columns.
    """
    if file.endswith(".jsonl"):
        return True
    with xopen(file, "rb") as lines:
        first, second, *_ = *itertools.islice(filter(bytes.strip, lines), 2), b"", b""
    is_object = first.removeprefix(_BOM).lstrip().startswith(b"{")
    # Of rows, the first may be broken.
    return not is_object or any(_is_json(line) for line in (first, second))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return False
    return True


def _schema_of(files: Iterable[tuple[str, str]]) -> pa.Schema:
    """Return every column of any row, of the type that all its values have, or `MIXED`.

    Raises:
        DataError: No row of any file can be read, or two differ in how they write a key.
    """
    kinds: dict[str, pa.DataType] = {}
    spellings: dict[str, tuple[str, str]] = {}
    skipped: list[SkippedRow] = []
    for file, name_of_file in files:
        for some in _in_parts(_json_rows(file, name_of_file)):
            for names, row in {tuple(row): row for row in reversed(some)}.items():
                check_spellings(names, f"{file}:{row[LINE]}", spellings)
            skipped += [
                SkippedRow(f"{file}:{row[LINE]}", str(row[FLAW])) for row in some if FLAW in row
            ]
            for name in dict.fromkeys(name for row in some for name in row):
                kind = _kind_of([row.get(name) for row in some])
                kinds[name] = _common_kind(kinds.get(name, pa.null()), kind)
    own = [
        (name, pa.string() if pa.types.is_null(kind) else kind)
        for name, kind in kinds.items()
        if name not in _ORIGINS.names
    ]
    if skipped and not own:
        refuse("has no row that can be read", Path(file), skipped, "Write one JSON object a line")
    return pa.schema([*own, *_ORIGINS])


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


def _json_files(files: Iterable[tuple[str, str]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of files, some at a time."""
    for file, name_of_file in files:
        for some in _in_parts(_json_rows(file, name_of_file)):
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


def _json_rows(file: str, name: str) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a file, with `_ORIGINS`.

    Raises:
        DataError: It is a list that is not JSON.
    """
    with xopen(file, "rb") as lines:
        numbered = ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
        number, first = next(numbered, (1, b""))
        if not first:
            return
        first = first.removeprefix(_BOM)
        second = list(itertools.islice(numbered, 1))
        if first.lstrip().startswith(b"[") and not (second and _is_json(first)):
            lines.seek(0)
            yield from _entries(lines.read().removeprefix(_BOM), file, name)
            return
        for line, raw in itertools.chain([(number, first)], second, numbered):
            origin: dict[str, object] = {LINE: line, FILE: name}
            try:
                yield {**parse_object(raw, parse_int=Digits), **origin}
            except UnusableRowError as error:
                yield {FLAW: str(error), **origin}


def _entries(raw: bytes, file: str, name: str) -> Iterator[Mapping[str, object]]:
    try:
        entries = parse_json(raw, parse_int=Digits)
    except UnusableRowError as error:
        where = _place_in_list(raw, file)
        raise DataError(str(error), where=where, fix="Fix it, or write FILE.jsonl") from error
    assert isinstance(entries, list)  # by its bracket
    for number, entry in enumerate(entries, start=1):
        is_row = isinstance(entry, dict)
        values = entry if is_row else {FLAW: f"is {type_name(entry)}, not a JSON object"}
        yield {**values, LINE: number, FILE: name}


def _place_in_list(raw: bytes, file: str) -> str:
    """Return FILE:N of the first entry with a key twice or NaN; FILE: the reason has its line."""
    text, decoder = raw.decode("utf-8", "replace"), json.JSONDecoder()
    end = text.index("[") + 1
    with suppress(ValueError, RecursionError, StopIteration):
        for number in itertools.count(1):
            start = next(at for at in range(end, len(text)) if text[at] not in " \t\r\n,")
            end = decoder.raw_decode(text, start)[1]
            try:
                parse_json(text[start:end].encode())
            except UnusableRowError:
                return f"{file}:{number}"
    return file
