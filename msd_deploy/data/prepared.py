"""A data set made ready for models: pictures decoded and resized once, texts tokenized.

Pixels come from `pixel_cache`. Every consumer (training, export, bench) reads `PreparedSplit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts import sha256_of_json
from msd_deploy.data.encoded import EncodedSplit
from msd_deploy.data.pixel_cache import OnImage, cached_pixels, default_cache
from msd_deploy.data.preprocess import IdArray, Preprocessor
from msd_deploy.data.resize import PixelArray
from msd_deploy.data.source_types import SkippedRow, SourceData
from msd_deploy.errors import DataError
from msd_deploy.problem import NO_LABEL, FurtherMetric, Problem
from msd_deploy.views import View

_NAMED_ROWS, _TOLD_ROWS = 10, 20


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One split as arrays.

    Attributes:
        pixels: uint8 [images, height, width, 3], memory-mapped, each distinct picture once.
        image_index: int64 [rows], the row's picture; -1 where it has none.
        input_ids: int32 [rows, max_length].
        attention_mask: int32 [rows, max_length].
        labels: int64 [rows] (single label) or float32 [rows, classes] (multi-label); NO_LABEL or
            NaN where a row has none.
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
        problem: single_label or multi_label.
        digest: SHA-256 over every row that is used: pictures' contents, texts, labels.
        skipped: Rows left out, each with its place and reason.
        notes: What the user should know of how the data was read.
        further_metrics: What the data set's paper reports beside accuracy or micro F1.
    """

    splits: Mapping[str, PreparedSplit]
    labels: tuple[str, ...]
    problem: Problem
    digest: str
    skipped: tuple[SkippedRow, ...]
    notes: tuple[str, ...]
    further_metrics: tuple[FurtherMetric, ...] = ()


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
    skipped, row_digests = list(source.skipped), {}
    for name in source.dataset:
        rows = source.dataset[name]
        digests = np.array(rows["image_sha256"], dtype=object)
        broken = np.array([digest in failures for digest in digests], dtype=bool)
        origins = rows["origin"] if broken.any() else []
        skipped += [
            SkippedRow(origins[row], failures[digests[row]]) for row in np.flatnonzero(broken)
        ]
        kept = np.flatnonzero(~broken)
        splits[name] = _prepare_split(source, name, kept, preprocessor, (pixels, index_of))
        row_digests[name] = _digest_rows(source, name, kept)
    _check_rows(splits, skipped[len(source.skipped) :], strict=strict)
    return PreparedData(
        splits,
        source.labels,
        source.problem,
        sha256_of_json([source.labels, source.problem, row_digests]),
        tuple(skipped),
        (*source.notes, *_notes_on_length(source, splits, preprocessor)),
        source.further_metrics,
    )


def notes_of(data: PreparedData) -> list[str]:
    """Return what a user should know of a data set: its notes, then its skipped rows by name."""
    skipped = [str(row) for row in data.skipped[:_TOLD_ROWS]]
    if len(data.skipped) > _TOLD_ROWS:
        skipped.append(f"... and {len(data.skipped) - _TOLD_ROWS} more, named in run.json")
    rows = "row was" if len(data.skipped) == 1 else "rows were"
    count = [f"{len(data.skipped)} {rows} skipped:"] if skipped else []
    return [*data.notes, *count, *skipped]


def _notes_on_length(
    source: SourceData, splits: Mapping[str, PreparedSplit], preprocessor: Preprocessor
) -> list[str]:
    """Say how many texts lose their end: what was cut can neither be learned nor judged."""
    cut = {}
    for name, split in splits.items():
        full = split.source_rows[split.attention_mask[:, -1] == 1]
        texts = source.dataset[name].select(full)["text"]
        cut[name] = preprocessor.count_cut([text or "" for text in texts])
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


def _prepare_split(
    source: SourceData,
    name: str,
    kept: NDArray[np.int64],
    preprocessor: Preprocessor,
    store: tuple[PixelArray, Mapping[str, int]],
) -> PreparedSplit:
    pixels, index_of = store
    rows = source.dataset[name].select(kept)
    digests = rows["image_sha256"]
    image_index = np.array([index_of[d] if d else -1 for d in digests], np.int64).reshape(-1)
    input_ids, attention_mask = preprocessor.tokens([text or "" for text in rows["text"]])
    return PreparedSplit(
        pixels, image_index, input_ids, attention_mask, _label_array(source, name, kept), kept
    )


def _label_array(
    source: SourceData, name: str, kept: NDArray[np.int64]
) -> NDArray[np.int64] | NDArray[np.float32]:
    rows = source.dataset[name]
    if source.problem == "single_label":
        labels = [NO_LABEL if label is None else label for label in rows["label"]]
        return np.array(labels, np.int64).reshape(-1)[kept]
    hot = np.zeros((len(rows), len(source.labels)), np.float32)
    for row, classes in enumerate(rows["labels"]):
        hot[row, slice(None) if classes is None else classes] = np.nan if classes is None else 1.0
    return hot[kept]


def _digest_rows(source: SourceData, name: str, kept: NDArray[np.int64]) -> str:
    rows = source.dataset[name]
    target = "label" if source.problem == "single_label" else "labels"
    columns = (rows["image_sha256"], rows["text"], rows[target])
    digests, texts, targets = (list(column) for column in columns)
    return sha256_of_json([[digests[row], texts[row], targets[row]] for row in kept.tolist()])
