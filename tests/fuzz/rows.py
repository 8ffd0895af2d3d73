"""What the rows of a file are, by an independent reading of their values, and what was read.

A row is the mapping of its keys, or columns, to plain values; None where the file has something
else in its place. An image in a row is a tuple of its bytes and its path. A sound row is never
lost; any other is reported.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceData, SourceOptions
from tests.fuzz.rule import assert_one_line, read_or_refused

Rows = Mapping[int, Mapping[str, Any] | None]
"""By line, or by position in a Parquet file."""
IMAGE_KEYS = ("image", "img", "file_name", "filename", "image_path", "img_path", "image_file")
IMAGE_KEYS += ("picture", "photo")
IMAGES = {"a.png": b"first image", "in/b.jpg": b"second image", "c.gif": b"third image"}
SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


def write_images(folder: Path) -> None:
    for name, content in IMAGES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def in_lower_case(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose usual keys are in lower case, where that is no key beside it."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        usual = key.strip().lower()
        is_usual = usual in ("text", "label", "labels", "split", *IMAGE_KEYS)
        found[usual if is_usual and usual not in {*row, *found} else key] = value
    return found


def image_key_of(rows: Rows, folder: Path) -> str:
    found = [row for row in rows.values() if row is not None]
    if any("image" in row for row in found):
        return "image"
    for key in IMAGE_KEYS[1:]:
        names = [row[key] for row in found if isinstance(row.get(key), str)]
        if any(Path(n).suffix in (".png", ".jpg", ".gif") and image_of(n, folder) for n in names):
            return key
    return "image"


def is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.encode("utf-8", "replace").decode() == value


def image_of(name: object, folder: Path) -> str:
    """Return the path of an image inside a folder, or ""."""
    if not isinstance(name, str) or not is_text(name):
        return ""
    for spelled in (name, name.replace("\\", "/")):
        path = os.path.realpath(folder / spelled)
        with contextlib.suppress(OSError):  # too long for a name
            if path.startswith(f"{folder}/") and Path(path).is_file():
                return path
    return ""


# As Python, JSON and numpy write lists.
LIST_AS_TEXT = re.compile(r"(?s)\[\s*(|['\"].*['\"]|[^\[]*,.*|[0-9.]+(\s+[0-9.]+)*)\s*\]")


def label_of(value: object) -> str | None:
    """Return a class; None where it is no class."""
    is_name = isinstance(value, str | int) and not isinstance(value, bool) and is_text(str(value))
    if not is_name or not str(value).strip() or LIST_AS_TEXT.fullmatch(str(value)):
        return None
    return str(value)


def labels_in(row: Mapping[str, Any]) -> object:
    """Return what a row has as its label or labels; None for nothing."""
    found = [row[key] for key in ("labels", "label") if row.get(key) not in (None, "")]
    return found[0] if found else None


def takes_lists(rows: Rows) -> bool:
    """Return whether labels are lists: all that there are, or some under the key labels."""
    found = [row for row in rows.values() if row is not None and labels_in(row) is not None]
    are_lists = [isinstance(labels_in(row), list) for row in found]
    return any(are_lists) and (all(are_lists) or any("labels" in row for row in found))


def names_of(labels: object, is_list: bool) -> list[str] | None:
    """Return the classes of a row that has labels; None where they are no classes."""
    if isinstance(labels, list) != is_list:
        return None
    names = [label_of(value) for value in (labels if isinstance(labels, list) else [labels])]
    return None if None in names else sorted({name for name in names if name is not None})


def sound_row(
    row: Mapping[str, Any] | None, image_key: str, folder: Path, is_list: bool
) -> dict[str, Any] | None:
    """Return the example that a row is, as it is written; None if it cannot be used."""
    if row is None:
        return None
    row = {key: value for key, value in row.items() if value != ""}
    text, image = row.get("text"), row.get(image_key)
    labels: list[str] | None = None
    if labels_in(row) is not None:
        labels = names_of(labels_in(row), is_list)
        if labels is None:
            return None
    split = row.get("split")
    if isinstance(split, str):
        split = SPLITS.get(split.strip().lower(), "unknown")
    if split not in (None, *SPLITS.values()) or (labels is None and split not in (None, "train")):
        return None
    encoded, name = image if isinstance(image, tuple) else (None, image)
    path = image_of(name, folder) if encoded is None else ""
    has_image = encoded or path or (encoded is None and name in (None, ""))
    if not (text is None or is_text(text)) or not has_image:
        return None
    text = text if text and text.strip() else None
    if text is None and not path and not encoded:
        return None
    found = {"text": text, "path": path, "bytes": encoded, "labels": labels}
    return {**found, "split": split}


def rows_that_name(rows: Rows) -> Counter[str]:
    """Return in how many rows each class is named; one row alone is taken for a slip."""
    counts: Counter[str] = Counter()
    for row in filter(None, rows.values()):
        if labels_in(row) is not None:
            counts.update(names_of(labels_in(row), takes_lists(rows)) or ())
    return counts


def examples_of(source: SourceData) -> dict[str, dict[str, Any]]:
    """Return what was read, by origin; `in` has the splits of a row."""
    found: dict[str, dict[str, Any]] = {}
    for split, rows in source.dataset.items():
        for row in rows:
            several = row.get("labels", None if row.get("label") is None else [row.get("label")])
            names = None if several is None else sorted(source.info.labels[at] for at in several)
            example = {"text": row["text"], "path": row["image_path"], "labels": names}
            example |= {"sha256": row["image_sha256"], "bytes": row["image_bytes"]}
            place = found.setdefault(row["origin"], {**example, "in": set()})
            assert {**example, "in": place["in"]} == place
            place["in"].add(split)
    return found


def has_two_classes(examples: Iterable[dict[str, Any]]) -> bool:
    """Return whether two classes are left in train when validation and test take an image each."""
    keys: dict[tuple[str, ...], set[object]] = {}
    for example in examples:
        if example["labels"] and example["split"] == "train":
            key = example["bytes"] or example["path"] or example["text"]
            keys.setdefault(tuple(example["labels"]), set()).add(key)
    return sum(len(of_class) > 2 for of_class in keys.values()) > 1


def check_rows(file: Path, rows: Rows | None, may_refuse: Callable[[], bool]) -> None:
    """Read a file; compare with its rows what is kept, reported or refused.

    Args:
        file: Its images lie beside it.
        rows: Of an independent reading; None where it fails, so that the file must be refused.
        may_refuse: Whether the file may be refused for another reason than its classes.
    """
    source = read_or_refused(lambda: load_source(str(file), options=SourceOptions()), file)
    if rows is None:
        assert source is None
        return
    image_key = image_key_of(rows, file.parent)
    named, sound = rows_that_name(rows), {}
    for number, row in rows.items():
        example = sound_row(row, image_key, file.parent, takes_lists(rows))
        if example is not None and all(named[name] > 1 for name in example["labels"] or ()):
            sound[f"{file}:{number}"] = example
    if source is None:
        assert may_refuse() or not has_two_classes(sound.values())
        return
    read = examples_of(source)
    skipped = {row.origin: row.reason for row in source.info.skipped}
    for reason in skipped.values():
        assert_one_line(reason)
    assert not read.keys() & skipped.keys()
    assert not sound.keys() & skipped.keys(), {at: skipped.get(at) for at in sound}
    left_out = sound.keys() - read.keys()
    assert not any(sound[origin]["labels"] for origin in left_out)
    notes = " ".join(source.info.notes)
    assert not left_out or re.search(rf"{len(left_out):,} rows? without a label show", notes)
    assert read.keys() | skipped.keys() | left_out == {f"{file}:{number}" for number in rows}
    for origin, example in read.items():
        check_example(example, sound[origin], notes)


def check_example(example: Mapping[str, Any], expected: Mapping[str, Any], notes: str) -> None:
    for key in ("text", "path", "bytes", "labels"):
        assert example[key] == expected[key]
    content = expected["bytes"] or (Path(example["path"]).read_bytes() if example["path"] else b"")
    assert example["sha256"] == (hashlib.sha256(content).hexdigest() if content else "")
    # A split that no row states is taken from the training rows.
    if expected["split"] in ("validation", "test") or "no row fell into" not in notes:
        assert expected["split"] in (None, *example["in"])
        assert len(example["in"]) == 1 or "too small" in notes
