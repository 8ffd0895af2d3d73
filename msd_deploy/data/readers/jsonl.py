"""FILE.jsonl: one JSON object per line with image, text, label or labels, and an optional split.

A row that cannot be used is named with its reason and left out. Images are hashed here, not
decoded: a broken one is found when the data is prepared. Rows without a label are trained on with
the teacher's predictions alone. Splits and classes are assigned by `assemble`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msd_deploy.data.labels import other_classes
from msd_deploy.data.readers.assemble import ReaderRows, evaluation_source, source_from_rows
from msd_deploy.data.readers.rows import (
    IMAGE_KEYS,
    LABEL_KEYS,
    Digits,
    ImageFiles,
    Row,
    UnusableRowError,
    notes_on_keys,
    parse_class,
    parse_object,
    parse_split,
    parse_text,
    read_lines,
    reason_against_labels,
    type_name,
    usual_keys,
)
from msd_deploy.data.source import (
    DatasetInfo,
    EvaluationSplit,
    SkippedRow,
    SourceData,
    SourceOptions,
)
from msd_deploy.errors import DataError


@dataclass(slots=True)
class Scan:
    """The content of the file after one pass over it.

    Attributes:
        rows: The usable rows, in the file's order.
        skipped: By line, why a row cannot be used.
        class_rows: By class name, how many rows name it, unusable ones included.
        first_line_with: By key, the first line that has `label` or `labels`.
        key_rows: By key, how many rows have it.
        image_key: The key of the image.
        renamed: What keys in another case are read as.
        other_image_keys: Those of `IMAGE_KEYS` that name an image file in some row.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    class_rows: Counter[str] = field(default_factory=Counter)
    first_line_with: dict[str, int] = field(default_factory=dict)
    key_rows: Counter[str] = field(default_factory=Counter)
    image_key: str = "image"
    other_image_keys: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)


def scan_rows(path: Path) -> Scan:
    """Read every row of a file; each image that it names is hashed once.

    Where no row has the key `image`, the first of `IMAGE_KEYS` that names an image file is read.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    scan, images = Scan(), ImageFiles(path.parent)
    for line, raw in read_lines(path):
        _scan_line(scan, (path, line), raw, images)
    if "image" in scan.key_rows or not scan.other_image_keys:
        return scan
    scan = Scan(image_key=min(scan.other_image_keys, key=IMAGE_KEYS.index))
    for line, raw in read_lines(path):
        _scan_line(scan, (path, line), raw, images)
    return scan


def _scan_line(scan: Scan, place: tuple[Path, int], raw: bytes, images: ImageFiles) -> None:
    path, line = place
    try:
        values = parse_object(raw, parse_int=Digits)
        if renamed := usual_keys(values):
            scan.renamed.update(renamed)
            values = {renamed.get(key, key): value for key, value in values.items()}
        scan.key_rows.update(values.keys())
        if "image" not in scan.key_rows:
            new = set(IMAGE_KEYS).intersection(values) - scan.other_image_keys
            scan.other_image_keys |= {key for key in new if images.has(values[key])}
        for key in LABEL_KEYS:
            if values.get(key) not in (None, ""):
                scan.first_line_with.setdefault(key, line)
        labels = _parse_labels(values)
        scan.class_rows.update(labels or ())
        split = parse_split(values.get("split"))
        if labels is None and split not in (None, "train"):
            raise UnusableRowError(f"has no label, which the {split} split needs")
        text = parse_text(values.get("text"), "text")
        image_path, image_sha256 = images.find(values.get(scan.image_key), key=scan.image_key)
        if not image_path and text is None:
            raise UnusableRowError("has neither image nor text")
    except UnusableRowError as error:
        scan.skipped[line] = str(error)
    else:
        scan.rows.append(Row(path, line, image_path, image_sha256, text, labels, split))


def _parse_labels(values: Mapping[str, object]) -> tuple[str, ...] | None:
    single, several = (None if values.get(key) == "" else values.get(key) for key in LABEL_KEYS)
    if several is None:
        return None if single is None else (parse_class(single),)
    if not isinstance(several, list):
        raise UnusableRowError(f"labels is {type_name(several)}, not a list")
    return tuple(sorted({parse_class(value, "an entry of labels") for value in several}))


_FORM = "Write one JSON object a line with image or text, and label"


def load_jsonl(path: Path, options: SourceOptions) -> SourceData:
    """Read a FILE.jsonl.

    `image` is relative to the file's folder and may not leave it; "" and null are absent, as is a
    text of white space. A class is its name: the label 1 equals the label "1". Without a closed
    list of labels, a class that one single row carries is taken for a slip. Rows without `split`
    go 80/10/10 by the SHA-256 of their image's bytes, else of their text; a row whose image has
    a split in another row follows it.

    Args:
        path: The file.
        options: `labels` and `strict` are used.

    Raises:
        DataError: The file is missing, holds no usable row, mixes `label` and `labels`, has one
            single class or no training rows; with strict, any row cannot be used.
    """
    return source_from_rows(_find(path, scan_rows(path), options.labels), strict=options.strict)


def load_jsonl_for_evaluation(
    path: Path, options: SourceOptions, *, split: EvaluationSplit, labels: tuple[str, ...]
) -> SourceData:
    """Read the rows of a FILE.jsonl to evaluate a model on.

    Nothing is trained on them: they may all say test, or show one class.

    Args:
        path: The file.
        options: With `labels`, rows of other classes are named and left out; `strict` is used.
        split: Which rows; see `load_jsonl` for those that state none.
        labels: The model's classes.

    Raises:
        DataError: As `load_jsonl`; or a class is not the model's, or the split has no rows.
    """
    scan = scan_rows(path)
    unknown = sorted(set(options.labels or scan.class_rows) - set(labels))
    if unknown:
        raise other_classes(unknown, labels, path)
    found = _find(path, scan, options.labels or labels)
    return evaluation_source(found, labels, split, strict=options.strict)


def _find(path: Path, scan: Scan, labels: tuple[str, ...] | None) -> ReaderRows:
    _refuse_mixed_labels(path, scan)
    rows = _rows_with_known_labels(scan, labels)
    read = ("text", "label", "labels", "split", scan.image_key)
    image_key = None if scan.image_key == "image" else scan.image_key
    return ReaderRows(
        where=path,
        rows=rows,
        info=DatasetInfo(
            labels or (),
            "multi_label" if "labels" in scan.first_line_with else "single_label",
            tuple(SkippedRow(f"{path}:{at}", scan.skipped[at]) for at in sorted(scan.skipped)),
            tuple(notes_on_keys(scan.key_rows, read, image_key, scan.renamed)),
        ),
        form=_FORM,
    )


def _refuse_mixed_labels(path: Path, scan: Scan) -> None:
    if len(scan.first_line_with) == 2:
        raise DataError(
            f"mixes label (line {scan.first_line_with['label']}) and labels"
            f" (line {scan.first_line_with['labels']})",
            where=path,
            fix="Give every row a label, or every row a list of labels",
        )


def _rows_with_known_labels(scan: Scan, closed: tuple[str, ...] | None) -> list[Row]:
    """Return the rows whose classes are known; name the others in `scan.skipped`."""
    known = []
    for row in scan.rows:
        reason = reason_against_labels(row.labels, closed, scan.class_rows)
        if reason is None:
            known.append(row)
        else:
            scan.skipped[int(row.line)] = reason
    return known
