"""FILE.jsonl: one JSON object per line with image, text, label or labels, and an optional split.

A row that cannot be used is named with its reason and left out. Images are hashed here, not
decoded: a broken one is found when the data is prepared. Rows without a label are trained on with
the teacher's predictions alone. Splits and classes are assigned by `assemble`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from msd_deploy.data.labels import other_classes
from msd_deploy.data.readers.assemble import (
    ReaderRows,
    evaluation_source,
    known_classes,
    source_from_rows,
)
from msd_deploy.data.readers.rows import (
    IMAGE_KEYS,
    LABEL_KEYS,
    Digits,
    ImageFiles,
    Row,
    UnusableRowError,
    is_multi_label,
    notes_on_keys,
    parse_labels,
    parse_object,
    parse_split,
    parse_text,
    read_lines,
    reason_against_labels,
    usual_keys,
    without_label,
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
        is_multi_label: Whether rows have lists of classes; None: each as it is.
        are_lists: Whether labels are lists, of all that are not missing.
        class_rows: By class name, how many rows name it, unusable ones included.
        first_line_with: By key, the first line that has `label` or `labels`.
        key_rows: By key, how many rows have it.
        image_key: The key of the image.
        renamed: What keys in another case are read as.
        has_teacher: Whether rows of validation and test may be without a label; see `assemble`.
        other_image_keys: Those of `IMAGE_KEYS` that name an image file in some row.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    is_multi_label: bool | None = None
    are_lists: set[bool] = field(default_factory=set)
    class_rows: Counter[str] = field(default_factory=Counter)
    first_line_with: dict[str, int] = field(default_factory=dict)
    key_rows: Counter[str] = field(default_factory=Counter)
    image_key: str = "image"
    other_image_keys: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    has_teacher: bool = False


def scan_rows(path: Path, *, has_teacher: bool = False) -> Scan:
    """Read every row of a file; each image that it names is hashed once.

    Where no row has the key `image`, the first of `IMAGE_KEYS` that names an image file is read.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    images = ImageFiles(path.parent)
    scan = _scan(path, images, Scan(has_teacher=has_teacher))
    keys = {"image"} if "image" in scan.key_rows else scan.other_image_keys or {"image"}
    image_key = min(keys, key=("image", *IMAGE_KEYS).index)
    key = "labels" if "labels" in scan.first_line_with else "label"
    several = is_multi_label(scan.are_lists, key)
    if image_key == "image" and len(scan.are_lists) < 2:
        return replace(scan, is_multi_label=several)
    again = Scan(image_key=image_key, is_multi_label=several, has_teacher=has_teacher)
    return _scan(path, images, again)


def _scan(path: Path, images: ImageFiles, scan: Scan) -> Scan:
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
        labels = _labels(scan, line, values)
        scan.class_rows.update(labels or ())
        split = parse_split(values.get("split"))
        if labels is None and split not in (None, "train") and not scan.has_teacher:
            raise UnusableRowError(without_label(split))
        text = parse_text(values.get("text"), "text")
        image_path, image_sha256 = images.find(values.get(scan.image_key), key=scan.image_key)
        if not image_path and text is None:
            raise UnusableRowError("has neither image nor text")
    except UnusableRowError as error:
        scan.skipped[line] = str(error)
    else:
        scan.rows.append(Row(path, line, image_path, image_sha256, text, labels, split))


def _labels(scan: Scan, line: int, values: Mapping[str, object]) -> tuple[str, ...] | None:
    found = {key: values[key] for key in LABEL_KEYS if values.get(key) not in (None, "")}
    if not found:
        return None
    for key, value in found.items():
        scan.first_line_with.setdefault(key, line)
        scan.are_lists.add(isinstance(value, list))
    several = isinstance(value, list) if scan.is_multi_label is None else scan.is_multi_label
    return parse_labels(value, key, is_multi_label=several)


_FORM = "Write one JSON object a line with image or text, and label"


def load_jsonl(path: Path, options: SourceOptions) -> SourceData:
    """Read a FILE.jsonl.

    Labels that are lists make a multi-label problem, under `label` as under `labels`. `image` is
    relative to the file's folder and may not leave it; "" and null are absent, as is a text of
    white space. A class is its name: the label 1 equals the label "1". Without a closed list of
    labels, a class that one single row carries is taken for a slip. Rows without `split` go
    80/10/10 by the SHA-256 of their image's bytes, else of their text; a row whose image has a
    split in another row follows it.

    Args:
        path: The file.
        options: `labels`, `strict` and `teacher` are used.

    Raises:
        DataError: The file is missing, holds no usable row, or mixes `label` and `labels`; or as
            `source_from_rows`.
    """
    scan = scan_rows(path, has_teacher=options.teacher is not None)
    found = _find(path, scan, known_classes(options, scan.rows))
    return source_from_rows(found, strict=options.strict, teacher=options.teacher)


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
            "multi_label" if scan.is_multi_label else "single_label",
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
