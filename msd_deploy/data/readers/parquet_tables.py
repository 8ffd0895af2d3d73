"""Parquet files with columns of any type: one that `datasets` has no type for is not read.

Of such a column only its type and the rows that have a value are kept, for notes and errors.
"""

import itertools
from collections.abc import Callable
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow.dataset import ParquetFragmentScanOptions

from msd_deploy.data.readers.columns import check_names, unread_type
from msd_deploy.data.readers.rows import check_spellings, shown
from msd_deploy.errors import DataError

_NOTHING = datasets.Value("null")


def read_any_columns(builder: Parquet) -> None:
    """Replace a builder's schema, in which a single column of another type is an error.

    Checksums of pages, where a file has them, are verified.
    """
    builder.config.fragment_scan_options = ParquetFragmentScanOptions(
        page_checksum_verification=True
    )
    if builder.info.features is None:
        builder._split_generators = partial(_splits, builder, builder._split_generators)
        builder._cast_table = partial(_cast_table, builder, builder._cast_table)


def _splits(
    builder: Parquet,
    find: Callable[[datasets.DownloadManager], list[datasets.SplitGenerator]],
    downloads: datasets.DownloadManager,
) -> list[datasets.SplitGenerator]:
    """Find the files of each split, and what every column of any file is read as."""
    builder.info.features = datasets.Features()  # for `find` not to infer them
    splits = find(downloads)
    found, spellings = datasets.Features(), dict[str, tuple[str, str]]()
    schemas = (_schemas_of(split.gen_kwargs["files"], spellings) for split in splits)
    for schema in itertools.chain.from_iterable(schemas):
        for name, feature in datasets.Features.from_arrow_schema(schema).items():
            found[name] = _common(found.get(name, _NOTHING), feature)
    builder.info.features = found
    return splits


def _common(one: object, other: object) -> object:
    """Return what a column is read as that two files have: names of classes where one has them."""
    kinds = [str(feature.dtype) for feature in (one, other) if isinstance(feature, datasets.Value)]
    is_names = len(kinds) == 2 and "int" in kinds[0] and "string" in kinds[1]
    return other if one == _NOTHING or is_names else one


def _schemas_of(files: list[str], spellings: dict[str, tuple[str, str]]) -> list[pa.Schema]:
    """Return the schemas of a split's files, in types that `datasets` has.

    Raises:
        DataError: A file names a column twice, with a NUL character or in another way than others,
            or none has a row.
    """
    rows, schemas = 0, []
    for file in files:
        with pq.ParquetFile(file) as parquet:
            rows += parquet.metadata.num_rows
            schema = parquet.schema_arrow
        check_names(schema.names, file)
        check_spellings(schema.names, file, spellings)
        schemas.append(schema)
    if not rows:
        raise DataError("has no rows", where=files[0], fix="Add rows, or remove the file")
    return [pa.schema(map(_known, schema), schema.metadata) for schema in schemas]


def _known(field: pa.Field) -> pa.Field:
    try:
        datasets.Features.from_arrow_schema(pa.schema([field]))
    except ValueError:
        return pa.field(field.name, unread_type(str(field.type)))
    return field


def _cast_table(
    builder: Parquet, cast: Callable[[pa.Table], pa.Table], table: pa.Table
) -> pa.Table:
    for index, field in enumerate(table.schema):
        known = _known(field)
        if known is not field:
            absent = table.column(index).combine_chunks().is_null()
            none = [pa.nulls(len(absent))]
            values = pa.StructArray.from_arrays(none, fields=list(known.type), mask=absent)
            table = table.set_column(index, known, values)
    try:
        return cast(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        expected = builder.info.features.arrow_schema
        other = [
            f"{shown(field.name)} ({field.type}, and {expected.field(field.name).type} elsewhere)"
            for field in table.schema
            if field.type != expected.field(field.name).type
        ]
        what = f"has files with columns of different types: {', '.join(other)} ({error})"
        fix = "Write all files with the same types"
        raise DataError(what, where=builder.base_path, fix=fix) from error
