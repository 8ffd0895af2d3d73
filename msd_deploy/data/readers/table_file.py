"""FILE.csv, FILE.tsv and FILE.parquet: a row per example, in the columns of FILE.jsonl's keys."""

from contextlib import suppress
from pathlib import Path

import datasets
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.parquet.parquet import Parquet

from msd_deploy.artifacts.manifest import check_lfs
from msd_deploy.data.readers.hub_dataset import OpenedTables, cache_of, reading
from msd_deploy.data.readers.rows import check_regular_file
from msd_deploy.data.readers.text_tables import read_as_written, read_csv
from msd_deploy.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet")


def open_table_file(path: Path) -> OpenedTables:
    """Open a file of one of `SUFFIXES`; images that it names lie in its folder.

    Rows of a CSV or TSV are named by their line, from 1; those of Parquet are counted from 0.

    Raises:
        ArtifactError: The file is a Git LFS pointer.
        DataError: The file is missing or cannot be read.
    """
    check_regular_file(path)
    with suppress(OSError):  # reported below
        check_lfs(path)
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        return OpenedTables(str(path), {"": _parquet(path)}, (path.parent,))
    try:
        table = read_csv(str(path), delimiter=delimiter)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
    return OpenedTables(str(path), {"": datasets.Dataset(table)}, (path.parent,))


def _parquet(path: Path) -> datasets.Dataset:
    """Return the rows, memory-mapped from the cache of `datasets`."""
    files = [str(path.absolute())]
    with reading(str(path), "Write it again with pyarrow or pandas"):
        builder = Parquet(
            cache_dir=str(cache_of(files)),
            # A list is taken as it is: in a pattern, a path could contain wildcards.
            data_files=DataFilesDict(train=DataFilesList(files, [()])),
        )
        read_as_written(builder)
        builder.download_and_prepare()
        return builder.as_dataset(split="train")
