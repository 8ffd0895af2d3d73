"""The rows of a FILE.jsonl: each line parsed and checked, its picture found and hashed.

A row that cannot be used is named with its reason, never a crash. What the rows make together
(classes, splits, what is refused as a whole) is `jsonl`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msd_deploy.data.picture_files import PictureFiles
from msd_deploy.data.rows import (
    SPLIT_NAMES,
    Row,
    UnusableRowError,
    parse_class,
    parse_object,
    parse_text,
    read_lines,
    shown,
    type_name,
)
from msd_deploy.data.source_types import Split


@dataclass(slots=True)
class Scan:
    """What one pass over the file found.

    Attributes:
        rows: The usable rows, in the file's order.
        skipped: By line, why a row cannot be used.
        class_rows: By class name, how many rows name it, unusable ones included.
        first_line_with: By key, the first line that has `label` or `labels`.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    class_rows: Counter[str] = field(default_factory=Counter)
    first_line_with: dict[str, int] = field(default_factory=dict)


def scan_rows(path: Path) -> Scan:
    """Read every row of a file; each picture that it names is hashed once.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    scan, pictures = Scan(), PictureFiles(path.parent)
    for line, raw in read_lines(path):
        _scan_line(scan, (path, line), raw, pictures)
    return scan


def _scan_line(scan: Scan, place: tuple[Path, int], raw: bytes, pictures: PictureFiles) -> None:
    path, line = place
    try:
        values = parse_object(raw)
        for key in ("label", "labels"):
            if values.get(key) is not None:
                scan.first_line_with.setdefault(key, line)
        labels = _parse_labels(values)
        scan.class_rows.update(labels or ())
        split = _parse_split(values.get("split"))
        if labels is None and split not in (None, "train"):
            raise UnusableRowError(f"has no label, and the {split} split is judged by labels")
        text = parse_text(values.get("text"), "text")
        image_path, image_sha256 = pictures.find(values.get("image"))
        if not image_path and text is None:
            raise UnusableRowError("has neither image nor text")
    except UnusableRowError as error:
        scan.skipped[line] = str(error)
    else:
        scan.rows.append(Row(path, line, image_path, image_sha256, text, labels, split))


def _parse_labels(values: Mapping[str, object]) -> tuple[str, ...] | None:
    several = values.get("labels")
    if several is None:
        return None if values.get("label") is None else (parse_class(values["label"]),)
    if not isinstance(several, list):
        raise UnusableRowError(f"labels is {type_name(several)}, not a list")
    return tuple(sorted({parse_class(value, "an entry of labels") for value in several}))


def _parse_split(value: object) -> Split | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in SPLIT_NAMES:
        raise UnusableRowError(f"unknown split {shown(value)}: use train, validation or test")
    return SPLIT_NAMES[value]
