"""Prepare a data set: images decoded and resized once, texts tokenized."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import sha256_of_json, sha256_of_json_rows
from msd_deploy.data.pixel_cache import OnCount, cached_pixels, default_cache
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import PixelArray
from msd_deploy.data.source import DatasetInfo, SkippedRow, SourceData, column_of
from msd_deploy.errors import DataError, counted
from msd_deploy.problem import FULL_SCORE_VOTES, NO_LABEL, ExtraMetric, Problem

_MOST_NAMED, _MOST_NAMED_OF_SPLIT, _MOST_LISTED = 10, 3, 20
_PLACE = re.compile(r"(.*):([0-9]+)(?: \(.*\))?", re.DOTALL)
# Classes are unlike in size if one has so many times the rows of another, of rows enough to tell.
_SKEW, _FEWEST_COUNTED = 4, 100


def prepare(
    source: SourceData,
    preprocessor: Preprocessor,
    *,
    cache: Path | None = None,
    strict: bool = False,
    on_count: OnCount = lambda what, done, total: None,
) -> PreparedData:
    """Decode, resize and tokenize a data set; rows with broken images are skipped.

    Args:
        source: What a reader found.
        preprocessor: The specification.
        cache: Where pixels are kept; the libraries' cache if None.
        strict: A broken image is an error instead of a skipped row.
        on_count: Progress of decoding.

    Raises:
        DataError: An image is broken and strict is set, or a split is left without rows.
    """
    pixels, index_of, failures = cached_pixels(
        source, preprocessor, cache or default_cache(), on_count
    )
    splits: dict[str, PreparedSplit] = {}
    broken: dict[str, list[SkippedRow]] = {}
    row_digests, cut = {}, {}
    for name in source.dataset:
        columns = _columns_of(source, name)
        is_broken = np.array([digest in failures for digest in columns.digests], dtype=bool)
        broken[name] = [
            _broken_row(source.dataset[name][row], failures)
            for row in np.flatnonzero(is_broken).tolist()
        ]
        columns = columns.take(np.flatnonzero(~is_broken))
        splits[name], cut[name] = _prepare_split(columns, preprocessor, (pixels, index_of))
        row_digests[name] = sha256_of_json_rows(columns.rows())
    _check_rows(splits, broken, strict=strict)
    info = replace(
        source.info,
        skipped=_in_order([*source.info.skipped, *chain.from_iterable(broken.values())]),
        notes=(
            *source.info.notes,
            *_notes_on_length(cut, splits, preprocessor),
            *_notes_on_unknown(source, splits, preprocessor),
        ),
        further_metrics=(
            *source.info.further_metrics,
            *_metrics_of_skew(source.info.problem, splits),
        ),
    )
    digest = sha256_of_json([info.labels, info.problem, row_digests])
    return PreparedData(splits, info, digest)


def _in_order(skipped: Sequence[SkippedRow]) -> tuple[SkippedRow, ...]:
    """Return rows by the number that ends their places, files in the order in which they appear."""
    places = [_PLACE.fullmatch(row.origin) for row in skipped]
    files = [row.origin if at is None else at[1] for row, at in zip(skipped, places, strict=True)]
    lines = [0 if at is None else int(at[2]) for at in places]
    order = {file: number for number, file in enumerate(dict.fromkeys(files))}
    keys = zip((order[file] for file in files), lines, range(len(skipped)), strict=True)
    return tuple(skipped[at] for _, _, at in sorted(keys))


def _metrics_of_skew(
    problem: Problem, splits: Mapping[str, PreparedSplit]
) -> tuple[ExtraMetric, ...]:
    """Return balanced accuracy where one class outnumbers another so that accuracy hides it."""
    if problem != "single_label":
        return ()
    labels = np.concatenate([split.labels[split.has_label()] for split in splits.values()])
    counts = np.unique(labels, return_counts=True)[1]
    if len(labels) < _FEWEST_COUNTED or counts.max() < _SKEW * counts.min():
        return ()
    return ("balanced_accuracy",)


def notes_of(info: DatasetInfo) -> list[str]:
    """Return the notes on a data set for the user, then its skipped rows by name."""
    skipped = [str(row) for row in info.skipped[:_MOST_LISTED]]
    if len(info.skipped) > _MOST_LISTED:
        more = len(info.skipped) - _MOST_LISTED
        skipped.append(f"... and {more} more, named in run.json and by --dry-run --json")
    rows = "row was" if len(info.skipped) == 1 else "rows were"
    count = [f"{len(info.skipped)} {rows} skipped:"] if skipped else []
    return [*info.notes, *count, *skipped]


def _notes_on_length(
    cut: Mapping[str, int], splits: Mapping[str, PreparedSplit], preprocessor: Preprocessor
) -> list[str]:
    """Return a note with how many texts are truncated."""
    if not any(cut.values()):
        return []
    counts = ", ".join(
        f"{count:,} of {len(splits[name]):,} in {name}" for name, count in cut.items()
    )
    return [
        f"texts are cut after {preprocessor.max_length} tokens ({counts}); a model distilled with a"
        " larger --max-length reads more"
    ]


def _broken_row(row: Mapping[str, Any], failures: Mapping[str, str]) -> SkippedRow:
    """Return a row whose image cannot be decoded, with the image's own path if it is a file."""
    reason = failures[row["image_sha256"]]
    return SkippedRow(
        row["origin"], f"{row['image_path']}: {reason}" if row["image_path"] else reason
    )


def _notes_on_unknown(
    source: SourceData, splits: Mapping[str, PreparedSplit], preprocessor: Preprocessor
) -> list[str]:
    """Return a note with how much of the texts the vocabulary lacks."""
    unknown, counts = preprocessor.unknown_id, []
    characters: set[str] = set()
    for name, split in splits.items():
        places = (split.input_ids == unknown) & (split.attention_mask == 1)
        rows = np.flatnonzero(places.any(axis=1))
        if unknown is not None and len(rows):
            counts.append(f"{places.sum() / split.attention_mask.sum():.1%} in {name}")
            texts = column_of(source.dataset[name], "text")
            characters.update(*(texts[row] for row in split.source_rows[rows].tolist()))
    if unknown is None or not counts:
        return []
    lacking = preprocessor.count_unknown(characters, unknown)
    if lacking == 0:  # words that are too long for the tokenizer
        return [f"some words are unknown to the tokenizer: {', '.join(counts)}"]
    return [
        f"the vocabulary lacks {lacking:,} characters of the texts: so many of the tokens are"
        f" unknown: {', '.join(counts)}; a model distilled with a larger --vocab-size reads them"
    ]


def _check_rows(
    splits: Mapping[str, PreparedSplit], broken: Mapping[str, list[SkippedRow]], *, strict: bool
) -> None:
    """Refuse broken images with strict, and a split that is left without rows."""
    of_all = list(chain.from_iterable(broken.values()))
    if of_all and strict:
        named = "; ".join(str(row) for row in of_all[:_MOST_NAMED])
        what = f"{counted(len(of_all), 'broken image', 'broken images')}: {named}"
        raise DataError(what, fix="Fix them, or run without --strict")
    for name, split in splits.items():
        if len(split) == 0:
            named = "; ".join(str(row) for row in broken[name][:_MOST_NAMED_OF_SPLIT])
            more = ", the first of them" if len(broken[name]) > _MOST_NAMED_OF_SPLIT else ""
            raise DataError(
                f"no usable rows are left in the {name} split"
                f" ({counted(len(broken[name]), 'broken image', 'broken images')}{more}: {named})",
                fix="Fix the images or add rows",
            )


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a split that decide a model's inputs and targets.

    Attributes:
        digests: Of the images, "" for none.
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
    split, is_single = source.dataset[name], source.info.problem == "single_label"
    return _Columns(
        column_of(split, "image_sha256"),
        column_of(split, "text"),
        column_of(split, "label" if is_single else "labels"),
        None if is_single else len(source.info.labels),
        FULL_SCORE_VOTES if source.info.problem == "soft_label" else 1,
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
