"""SourceData, the result of every reader: assignment to splits, Arrow-backed splits.

No file format is known here and no image is decoded: a row names an image file or carries its
bytes.
"""

import hashlib
import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
from datasets.table import MemoryMappedTable, Table

from msd_deploy.errors import ConfigError, DataError, counted
from msd_deploy.problem import ExtraMetric, Problem

Split = Literal["train", "validation", "test"]
EvaluationSplit = Literal["train", "validation", "test", "all"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

IN_MEMORY_BYTES = 128 << 20
"""A split that is larger lies in the cache folder of `datasets` and is memory-mapped."""
_ROWS_PER_BATCH, _BYTES_PER_BATCH = 1000, 32 << 20
_TRAIN_SHARE, _HELD_OUT_SHARE = 0.8, 0.1


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that was left out.

    Attributes:
        origin: Where it stands, as FILE:LINE.
        reason: Why it cannot be used.
    """

    origin: str
    reason: str

    def __str__(self) -> str:
        """Return `FILE:LINE: reason`."""
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options of reading or generating a source.

    Attributes:
        seed: Seed of a generated task, 0 or more.
        examples: Training examples of a generated task; None takes the task's own size.
        label_noise: Share of a generated task's training labels that are flipped, 0 to 1.
        labels: The only class names a file or a Hugging Face dataset may use, in this order; None
            takes those it holds.
        strict: Whether a row that cannot be used is an error instead of a named, skipped row.
        image_column: The image's column in a table, a file or a Hugging Face dataset; None: image.
        text_column: The text's; None: text.
        label_column: The label's; None: label or labels.
        max_pixels: The most pixels of an image; None: as the model's preprocessor has it.
        teacher: Classes and problem of a teacher that gives the targets: no training row needs a
            label. Without classes: those that rows have. None: labels are trained on.
    """

    seed: int = 0
    examples: int | None = None
    label_noise: float = 0.0
    labels: tuple[str, ...] | None = None
    strict: bool = False
    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    max_pixels: int | None = None
    teacher: "DatasetInfo | None" = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, it must be 0 or more")
        if self.examples is not None and self.examples < 1:
            raise ConfigError(f"examples is {self.examples}, it must be 1 or more")
        if not 0.0 <= self.label_noise <= 1.0:
            raise ConfigError(f"label_noise is {self.label_noise}, it must be from 0 to 1")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels names a class twice: {', '.join(self.labels)}")


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Facts about a data set beside its examples, passed along from reading to training.

    Attributes:
        labels: Class names by index.
        problem: Whether an example has one class, any number of them, or scores of several.
        skipped: The examples that were left out, each with its place and reason.
        notes: Note for the user of how the data was read, a sentence each.
        further_metrics: Metrics that are reported beside accuracy or micro F1, such as those of the
            data set's paper.
        class_weights: Weight of each class in the loss of the labels; None: all classes weigh the
            same. See `msd_deploy.data.labels`.
    """

    labels: tuple[str, ...]
    problem: Problem
    skipped: tuple[SkippedRow, ...] = ()
    notes: tuple[str, ...] = ()
    further_metrics: tuple[ExtraMetric, ...] = ()
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class SourceData:
    """A data set that is ready to be prepared.

    Attributes:
        dataset: The splits train, validation and test, or one of them to evaluate a model on, each
            with at least one row. Columns:
            image_path ("" when the image is in image_bytes or absent), image_bytes (null when by
            path), image_sha256 ("" for no image), text (null for none), label (ClassLabel) or
            labels (class indices), null for a training row without, origin (FILE:LINE, or
            TASK/SPLIT:INDEX). Without labelled training rows, all rows of validation or of test
            may be without a label, too.
        info: Classes, problem, skipped rows in the file's order, notes.
    """

    dataset: datasets.DatasetDict
    info: DatasetInfo


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One example as a reader yields it; the columns of `SourceData.dataset`.

    Attributes:
        image_path: Absolute path of the image, or "".
        image_bytes: The encoded image, or None.
        image_sha256: SHA-256 of the image's encoded bytes, or "".
        text: The text, or None.
        labels: Class indices; exactly one for single_label; for soft_label each as often as people
            gave it, at most FULL_SCORE_VOTES times. None: no label.
        origin: Where the row comes from.
    """

    image_path: str
    image_bytes: bytes | None
    image_sha256: str
    text: str | None
    labels: tuple[int, ...] | None
    origin: str


def column_of(split: datasets.Dataset, name: str) -> list[Any]:
    """Return a column as plain values, read from Arrow at once.

    `datasets` formats a column's rows one by one: of 200,000 rows, twenty times as long.
    """
    table: pa.Table = split.select_columns([name]).with_format("arrow")[:]
    return list(table.column(name).to_pylist())


def training_texts(source: SourceData) -> list[str]:
    """Return the texts of the training rows that have one."""
    return [text for text in column_of(source.dataset["train"], "text") if text]


def build_split(
    rows: Iterable[SourceRow], *, labels: tuple[str, ...], problem: Problem
) -> datasets.Dataset:
    """Build one split, in memory when small, else as a memory-mapped file named by its digest.

    The data set's fingerprint is the SHA-256 of its Arrow batches, so that equal rows share it.

    Raises:
        DataError: The cache folder of `datasets` cannot be written.
    """
    features = _features(labels, problem)
    digest = hashlib.sha256(features.arrow_schema.serialize())
    batches = _batches(rows, features.arrow_schema, problem, digest)
    kept: list[pa.RecordBatch] = []
    while sum(batch.nbytes for batch in kept) <= IN_MEMORY_BYTES:
        batch = next(batches, None)
        if batch is None:
            table = pa.Table.from_batches(kept, features.arrow_schema)
            break
        kept.append(batch)
    else:
        table = _write_to_cache(itertools.chain(kept, batches), features.arrow_schema, digest)
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset(table, info=info, fingerprint=digest.hexdigest())


def _features(labels: tuple[str, ...], problem: Problem) -> datasets.Features:
    single = problem == "single_label"
    return datasets.Features(
        {
            "image_path": datasets.Value("string"),
            "image_bytes": datasets.Value("binary"),
            "image_sha256": datasets.Value("string"),
            "text": datasets.Value("string"),
            **({"label": datasets.ClassLabel(names=list(labels))} if single else {}),
            **({} if single else {"labels": datasets.List(datasets.Value("int32"))}),
            "origin": datasets.Value("string"),
        }
    )


def _batches(
    rows: Iterable[SourceRow], schema: pa.Schema, problem: Problem, digest: "hashlib._Hash"
) -> Iterator[pa.RecordBatch]:
    for chunk in _chunks(rows):
        columns = [_columns(row, problem) for row in chunk]
        batch = pa.RecordBatch.from_pylist(columns, schema=schema)
        digest.update(batch.serialize())
        yield batch


def _chunks(rows: Iterable[SourceRow]) -> Iterator[list[SourceRow]]:
    """Yield rows many at a time: fewer where they carry large images."""
    chunk: list[SourceRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.image_bytes or b"")
        if len(chunk) == _ROWS_PER_BATCH or size >= _BYTES_PER_BATCH:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _columns(row: SourceRow, problem: Problem) -> dict[str, object]:
    target: dict[str, object]
    if problem != "single_label":
        target = {"labels": None if row.labels is None else list(row.labels)}
    else:
        (label,) = row.labels or (None,)
        target = {"label": label}
    return {
        "image_path": row.image_path,
        "image_bytes": row.image_bytes,
        "image_sha256": row.image_sha256,
        "text": row.text,
        **target,
        "origin": row.origin,
    }


def _write_to_cache(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, digest: "hashlib._Hash"
) -> Table:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "msd-deploy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        incomplete = folder / f"{secrets.token_hex(8)}.incomplete"
        try:
            with incomplete.open("xb") as file, pa.ipc.new_stream(file, schema) as stream:
                for batch in batches:
                    stream.write_batch(batch)
            final = folder / f"{digest.hexdigest()}.arrow"
            incomplete.replace(final)
        finally:
            incomplete.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror or error})",
            where=folder,
            fix="Set HF_HOME or HF_DATASETS_CACHE to a folder that can be written and has room",
        ) from error
    return MemoryMappedTable.from_file(str(final))


def hash_fraction(sha256: str) -> float:
    """Return where a SHA-256 stands from 0 to below 1, by its first 52 bits."""
    return int(sha256[:13], 16) / 16**13


def assign_splits(
    keys: Sequence[str], given: Sequence[Split | None]
) -> tuple[dict[Split, list[int]], list[str]]:
    """Assign rows to splits, rows of one key together unless they name a split.

    A row without a split takes the one that another row of its key was given, else goes by its key:
    80 % train, 10 % validation, 10 % test. If that leaves a split empty, such rows go to train, and
    each empty split takes a tenth of the training keys, at least one, in the order of the keys.
    With too few keys for that, the training rows stand in for it.

    Args:
        keys: A SHA-256 for each row, of what may not be both learned from and tested on.
        given: The split that each row states, if any.

    Returns:
        The rows of each split (train is empty where only other splits are given), and sentences
        on what was done.
    """
    by_key = {key: split for key, split in zip(keys, given, strict=True) if split is not None}
    chosen = [
        split or by_key.get(key) or _split_of(key) for key, split in zip(keys, given, strict=True)
    ]
    notes = []
    if set(SPLITS) - set(chosen):
        chosen = [
            split or by_key.get(key) or "train" for key, split in zip(keys, given, strict=True)
        ]
        notes += _fill_empty_splits(keys, chosen)
    splits = {name: [row for row, split in enumerate(chosen) if split == name] for name in SPLITS}
    sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in splits.items())
    notes.insert(0, f"{counted(len(keys), 'row', 'rows')}: {sizes}")
    shared = len(set(zip(keys, chosen, strict=True))) - len(set(keys))
    if shared:
        count = counted(shared, "image or text is", "images or texts are")
        notes.append(f"{count} in more than one split, as given by the rows")
    for name in SPLITS[1:]:
        splits[name] = splits[name] or splits["train"]
    return splits, notes


def _split_of(key: str) -> Split:
    fraction = hash_fraction(key)
    if fraction < _TRAIN_SHARE:
        return "train"
    return "validation" if fraction < _TRAIN_SHARE + _HELD_OUT_SHARE else "test"


def _fill_empty_splits(keys: Sequence[str], chosen: list[Split]) -> list[str]:
    """Move training keys into empty splits, in place; return notes."""
    pool = sorted({key for key, split in zip(keys, chosen, strict=True) if split == "train"})
    empty = [name for name in SPLITS[1:] if name not in chosen]
    named = " and ".join(empty)
    if not pool or not empty:
        return []
    if len(pool) <= len(empty):
        return [
            f"too small for a {named} split ({len(pool)} different images or texts to train on):"
            f" the training rows are used for {named} too, and the scores there MEAN NOTHING"
        ]
    size = max(1, int(len(pool) * _HELD_OUT_SHARE))
    moved = {key: name for rank, name in enumerate(empty) for key in pool[rank * size :][:size]}
    for row, key in enumerate(keys):
        if chosen[row] == "train":
            chosen[row] = moved.get(key, "train")
    return [
        f"no row fell into {named}: {size} of {len(pool)} different images or texts went from"
        f" train to {'each' if len(empty) > 1 else 'it'}"
    ]
