"""Parquet files with columns of any type: one that `datasets` has no type for is not read.

Of such a column only its type and the rows that have a value are kept, for notes and errors.
"""

from collections.abc import Callable
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow.dataset import ParquetFragmentScanOptions

from msd_deploy.data.readers.columns import unread_type
from msd_deploy.data.readers.rows import shown
from msd_deploy.errors import DataError


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
    """Find the files of each split, and what the columns of the first file are read as."""
    builder.info.features = datasets.Features()  # for `find` not to infer them
    splits = find(downloads)
    schemas = [_schema_of(split.gen_kwargs["files"]) for split in splits]
    builder.info.features = datasets.Features.from_arrow_schema(schemas[0])
    return splits


def _schema_of(files: list[str]) -> pa.Schema:
    """Return the schema of a split's first file, in types that `datasets` has.

    Raises:
        DataError: A file names a column twice, or none has a row.
    """
    rows, schemas = 0, []
    for file in files:
        with pq.ParquetFile(file) as parquet:
            rows += parquet.metadata.num_rows
            schema = parquet.schema_arrow
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            what = f"names the column {shown(twice)} twice"
            raise DataError(what, where=file, fix="Rename one of them")
        schemas.append(schema)
    if not rows:
        raise DataError("has no rows", where=files[0], fix="Add rows, or remove the file")
    return pa.schema([_known(field) for field in schemas[0]], schemas[0].metadata)


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
    return cast(table)
