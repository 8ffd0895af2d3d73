"""A data set made ready for models: pictures decoded and resized once, texts tokenized.

Pixels come from `pixel_cache`. Every consumer (training, export, bench) reads `PreparedSplit`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts import sha256_of_json, sha256_of_json_rows
from msd_deploy.data.encoded import EncodedSplit
from msd_deploy.data.pixel_cache import OnImage, cached_pixels, default_cache
from msd_deploy.data.preprocess import IdArray, Preprocessor
from msd_deploy.data.resize import PixelArray
from msd_deploy.data.source_types import SkippedRow, SourceData, column_of
from msd_deploy.errors import DataError
from msd_deploy.problem import FULL_SCORE_VOTES, NO_LABEL, FurtherMetric, Problem
from msd_deploy.views import View

_NAMED_ROWS, _TOLD_ROWS = 10, 20
# Classes are unlike in size if one has so many times the rows of another, of rows enough to tell.
_SKEW, _FEWEST_COUNTED = 4, 100


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One split as arrays.

    Attributes:
        pixels: uint8 [images, height, width, 3], memory-mapped, each distinct picture once.
        image_index: int64 [rows], the row's picture; -1 where it has none.
        input_ids: int32 [rows, max_length].
        attention_mask: int32 [rows, max_length].
        labels: int64 [rows] (single label) or float32 [rows, classes] (multi-label: 0 or 1; soft
            label: 0, 1/3, 2/3 or 1); NO_LABEL or NaN where a row has none.
        source_rows: int64 [rows], the rows' positions in the source's split.
        encoded: What the frozen parts of a model made of it, which is read instead of pixels.
    """

    pixels: PixelArray
    image_index: NDArray[np.int64]
    input_ids: IdArray
    attention_mask: IdArray
    labels: NDArray[np.int64] | NDArray[np.float32]
    source_rows: NDArray[np.int64]
    encoded: EncodedSplit | None = None

    def __len__(self) -> int:
        return len(self.image_index)

    def has_label(self) -> NDArray[np.bool_]:
        """Return which rows have a label, bool [rows]."""
        if self.labels.ndim == 2:
            return np.asarray(~np.isnan(self.labels).any(axis=1), bool)
        present: NDArray[np.bool_] = np.not_equal(self.labels, NO_LABEL)
        return present

    def blank_pixels(self) -> PixelArray:
        """Return one black picture, uint8 [1, height, width, 3], for rows that have none."""
        return np.zeros((1, *self.pixels.shape[1:]), np.uint8)

    def inputs(
        self, rows: NDArray[np.int64] | slice, view: View = View.MULTIMODAL
    ) -> dict[str, NDArray[np.generic]]:
        """Return rows under a view, in the signature of every exported model.

        Returns:
            image uint8 [rows, height, width, 3], image_present int32 [rows], input_ids and
            attention_mask int32 [rows, max_length].
        """
        image_index = self.image_index[rows]
        present = (image_index >= 0) & view.has_image
        image = np.zeros((len(image_index), *self.pixels.shape[1:]), np.uint8)
        image[present] = self.pixels[image_index[present]]
        attention_mask = self.attention_mask[rows].copy()
        if not view.has_text:
            attention_mask[:, 1:] = 0
        return {
            "image": image,
            "image_present": present.astype(np.int32),
            "input_ids": self.input_ids[rows],
            "attention_mask": attention_mask,
        }

    def head(self, rows: int) -> "PreparedSplit":
        """Return the first rows of the split."""
        cut = slice(0, rows)
        return PreparedSplit(
            self.pixels,
            self.image_index[cut],
            self.input_ids[cut],
            self.attention_mask[cut],
            self.labels[cut],
            self.source_rows[cut],
            self.encoded,
        )


@dataclass(frozen=True, slots=True)
class PreparedData:
    """All splits of a data set, ready for models.

    Attributes:
        splits: train, validation and test; to judge a model by, those that its source has.
        labels: Names of the classes.
        problem: What a classifier is asked.
        digest: SHA-256 over every row that is used: pictures' contents, texts, labels.
        skipped: Rows left out, each with its place and reason.
        notes: What the user should know of how the data was read.
        further_metrics: What is reported beside the metric.
        class_weights: Weight of each class in the labels' loss; None: all alike. See
            `class_weights`.
    """

    splits: Mapping[str, PreparedSplit]
    labels: tuple[str, ...]
    problem: Problem
    digest: str
    skipped: tuple[SkippedRow, ...]
    notes: tuple[str, ...]
    further_metrics: tuple[FurtherMetric, ...] = ()
    class_weights: tuple[float, ...] | None = None


def prepare(
    source: SourceData,
    preprocessor: Preprocessor,
    *,
    cache: Path | None = None,
    strict: bool = False,
    on_image: OnImage = lambda done, total: None,
) -> PreparedData:
    """Decode, resize and tokenize a data set; broken pictures take their rows out of it.

    Args:
        source: What a reader found.
        preprocessor: The specification.
        cache: Where pixels are kept; the libraries' cache if None.
        strict: A broken picture is an error instead of a skipped row.
        on_image: Progress of decoding.

    Raises:
        DataError: A picture is broken and strict is set, or a split is left without rows.
    """
    pixels, index_of, failures = cached_pixels(
        source, preprocessor, cache or default_cache(), on_image
    )
    splits: dict[str, PreparedSplit] = {}
    skipped, row_digests, cut = list(source.skipped), {}, {}
    for name in source.dataset:
        columns = _columns_of(source, name)
        broken = np.array([digest in failures for digest in columns.digests], dtype=bool)
        origins = column_of(source.dataset[name], "origin") if broken.any() else []
        skipped += [
            SkippedRow(origins[row], failures[columns.digests[row]])
            for row in np.flatnonzero(broken).tolist()
        ]
        columns = columns.take(np.flatnonzero(~broken))
        splits[name], cut[name] = _prepare_split(columns, preprocessor, (pixels, index_of))
        row_digests[name] = sha256_of_json_rows(columns.rows())
    _check_rows(splits, skipped[len(source.skipped) :], strict=strict)
    return PreparedData(
        splits,
        source.labels,
        source.problem,
        sha256_of_json([source.labels, source.problem, row_digests]),
        tuple(skipped),
        (*source.notes, *_notes_on_length(cut, splits, preprocessor)),
        (*source.further_metrics, *_metrics_of_skew(source.problem, splits)),
    )


def _metrics_of_skew(
    problem: Problem, splits: Mapping[str, PreparedSplit]
) -> tuple[FurtherMetric, ...]:
    """Return balanced accuracy where one class outnumbers another so that accuracy hides it."""
    if problem != "single_label":
        return ()
    labels = np.concatenate([split.labels[split.has_label()] for split in splits.values()])
    counts = np.unique(labels, return_counts=True)[1]
    if len(labels) < _FEWEST_COUNTED or counts.max() < _SKEW * counts.min():
        return ()
    return ("balanced_accuracy",)


def notes_of(data: PreparedData) -> list[str]:
    """Return what a user should know of a data set: its notes, then its skipped rows by name."""
    skipped = [str(row) for row in data.skipped[:_TOLD_ROWS]]
    if len(data.skipped) > _TOLD_ROWS:
        skipped.append(f"... and {len(data.skipped) - _TOLD_ROWS} more, named in run.json")
    rows = "row was" if len(data.skipped) == 1 else "rows were"
    count = [f"{len(data.skipped)} {rows} skipped:"] if skipped else []
    return [*data.notes, *count, *skipped]


def _notes_on_length(
    cut: Mapping[str, int], splits: Mapping[str, PreparedSplit], preprocessor: Preprocessor
) -> list[str]:
    """Say how many texts lose their end: what was cut can neither be learned nor judged."""
    if not any(cut.values()):
        return []
    told = ", ".join(f"{count:,} of {len(splits[name]):,} in {name}" for name, count in cut.items())
    return [
        f"texts are cut after {preprocessor.max_length} tokens ({told}); a model distilled with a"
        " larger --max-length reads more"
    ]


def _check_rows(
    splits: Mapping[str, PreparedSplit], broken: list[SkippedRow], *, strict: bool
) -> None:
    if broken and strict:
        named = "; ".join(f"{row.origin}: {row.reason}" for row in broken[:_NAMED_ROWS])
        raise DataError(
            f"{len(broken)} broken pictures: {named}", fix="Mend them, or leave out --strict"
        )
    for name, split in splits.items():
        if len(split) == 0:
            raise DataError(
                f"no usable rows are left in the {name} split ({len(broken)} broken pictures)",
                fix="Mend the pictures or add rows",
            )


@dataclass(frozen=True, slots=True)
class _Columns:
    """What of a split's rows decides a model's inputs, and what they should answer.

    Attributes:
        digests: Of the pictures, "" for none.
        texts: None for none.
        targets: A class index, or a list of them; None for none.
        classes: How many there are where a row may have several; None in a single-label problem.
        full_score: How often a row must name a class for it to be wholly true.
        source_rows: int64 [rows], their positions in the source's split.
    """

    digests: list[str]
    texts: list[str | None]
    targets: list[int | list[int] | None]
    classes: int | None
    full_score: int
    source_rows: NDArray[np.int64]

    def take(self, kept: NDArray[np.int64]) -> "_Columns":
        """Return some of the rows."""
        if len(kept) == len(self.source_rows):
            return self
        rows = kept.tolist()
        return _Columns(
            [self.digests[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.targets[row] for row in rows],
            self.classes,
            self.full_score,
            self.source_rows[kept],
        )

    def rows(self) -> Iterator[tuple[str, str | None, int | list[int] | None]]:
        """Yield each row's digest, text and target."""
        return zip(self.digests, self.texts, self.targets, strict=True)

    def label_array(self) -> NDArray[np.int64] | NDArray[np.float32]:
        """Return `PreparedSplit.labels`."""
        if self.classes is None:
            labels = [NO_LABEL if label is None else label for label in self.targets]
            return np.array(labels, np.int64).reshape(-1)
        # No copy of thousands of classes by hundreds of thousands of rows: 5.6 GB in VQA v2.
        scores = np.zeros((len(self.targets), self.classes), np.float32)
        for row, found in enumerate(self.targets):
            if found is None:
                scores[row] = np.nan
            else:
                np.add.at(scores[row], found, 1)
        np.divide(scores, self.full_score, out=scores)
        return np.minimum(scores, 1, out=scores)


def _columns_of(source: SourceData, name: str) -> _Columns:
    split, is_single = source.dataset[name], source.problem == "single_label"
    return _Columns(
        column_of(split, "image_sha256"),
        column_of(split, "text"),
        column_of(split, "label" if is_single else "labels"),
        None if is_single else len(source.labels),
        FULL_SCORE_VOTES if source.problem == "soft_label" else 1,
        np.arange(len(split)),
    )


def _prepare_split(
    columns: _Columns, preprocessor: Preprocessor, store: tuple[PixelArray, Mapping[str, int]]
) -> tuple[PreparedSplit, int]:
    """Return a split as arrays, and how many of its texts were cut."""
    pixels, index_of = store
    image_index = np.array([index_of[d] if d else -1 for d in columns.digests], np.int64)
    input_ids, attention_mask, cut = preprocessor.tokens_and_cut([t or "" for t in columns.texts])
    split = PreparedSplit(
        pixels,
        image_index.reshape(-1),
        input_ids,
        attention_mask,
        columns.label_array(),
        columns.source_rows,
    )
    return split, cut
