"""FILE.jsonl: every line is read as json reads it, or reported with its number."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceData, SourceOptions
from tests.fuzz.mutations import damaged
from tests.fuzz.rule import assert_one_line, read_or_refused

IMAGE_KEYS = ("image", "img", "file_name", "filename", "image_path", "img_path", "image_file")
IMAGE_KEYS += ("picture", "photo")
IMAGES = {"a.png": b"first image", "in/b.jpg": b"second image", "c.gif": b"third image"}
SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
# Rows that make a file usable whatever stands beside them.
ANCHORS = tuple(
    json.dumps({"image": image, "text": f"text {at}", "label": f"class {at % 2}", "split": "train"})
    for at, image in enumerate(["a.png", "in/b.jpg", "c.gif", "", "", ""])
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in IMAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


odd_tokens = st.sampled_from(
    [
        *("NaN", "-Infinity", "1e400", "-0", "01", "1.0", "0x1", "1_0", "True", "undefined", ""),
        *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u202e"', '"\\x"', '"\x01"', "'a'"),
        *("9" * 5000, "[" * 5000, '{"a":' * 3000, '"' + "x" * (1 << 20) + '"', "[[]]", '["a", 1]'),
    ]
)
plain_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    plain_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
usual_values = {
    "image": st.sampled_from(
        [
            *IMAGES,
            "",
            None,
            "in\\b.jpg",
            "./a.png",
            "in/../a.png",
            "../a.png",
            "/etc/hosts",
            "none.png",
            "in",
            ".",
        ]
    ),
    "text": st.text(max_size=12),
    "label": st.sampled_from(["class 0", "class 1", "NA", "null", "01", 1, -1, "a", " "]),
    "labels": st.lists(st.sampled_from(["class 0", "class 1", 1]), max_size=3),
    "split": st.sampled_from([*SPLITS, None, "Train", ""]),
}


@st.composite
def pairs(draw: st.DrawFn, key: str) -> str:
    usual = usual_values.get("image" if key in IMAGE_KEYS else key, values)
    kind = draw(st.sampled_from(["usual"] * 6 + ["any", "odd"]))
    if kind == "odd":
        token = draw(odd_tokens)
    else:
        token = json.dumps(draw(usual if kind == "usual" else values))
    return f"{json.dumps(key)}: {token}"


@st.composite
def lines(draw: st.DrawFn, image_key: str) -> str:
    key = st.sampled_from([image_key, "text", "text", "label", "label", "label", "split"])
    key |= st.sampled_from(["labels", "id", *IMAGE_KEYS]) | st.text(max_size=4)
    names = draw(st.lists(key, min_size=2, max_size=5, unique=draw(st.integers(0, 9)) > 0))
    row = ", ".join(draw(pairs(name)) for name in names)
    forms = ["{%s}"] * 12 + ["[%s]", "{%s", "%s", "{%s},", "", " ", "[1, {%s}]"]
    return draw(st.sampled_from(forms)).replace("%s", row)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    image_key = draw(st.sampled_from(["image"] * 4 + ["img", "photo"]))
    anchors = [anchor.replace('"image"', json.dumps(image_key)) for anchor in ANCHORS]
    rows = draw(st.permutations([*anchors, *draw(st.lists(lines(image_key), max_size=6))]))
    end = draw(st.sampled_from(["\n"] * 8 + ["\r\n", "\r", "\n\n"]))
    text = end.join(rows) + draw(st.sampled_from(["", end]))
    encoding = draw(st.sampled_from(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1"]))
    raw = text.encode(encoding, "replace")
    return draw(damaged(raw, 3)) if draw(st.booleans()) else raw


def _refuse(token: str) -> None:
    raise ValueError(token)


def _without_repeats(found: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(found)) < len(found):
        raise ValueError("a key twice")
    return dict(found)


def rows_of(raw: bytes) -> dict[int, dict[str, Any] | None]:
    """Return the object in each line that is not blank, by number; None for anything else."""
    rows: dict[int, dict[str, Any] | None] = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        rows[number] = None
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        try:
            row = json.loads(
                line.rstrip().decode(),
                parse_constant=_refuse,
                parse_int=str,  # a class or text is what the digits spell
                object_pairs_hook=_without_repeats,
            )
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and len(line) < 1 << 20:
            rows[number] = in_lower_case(row)
    return rows


def in_lower_case(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose usual keys are in lower case, where that is no key beside it."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        usual = key.strip().lower()
        is_usual = usual in ("text", "label", "labels", "split", *IMAGE_KEYS)
        found[usual if is_usual and usual not in {*row, *found} else key] = value
    return found


def image_key_of(rows: Mapping[int, dict[str, Any] | None], folder: Path) -> str:
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
        if path.startswith(f"{folder}/") and Path(path).is_file():
            return path
    return ""


def label_of(value: object) -> str | None:
    """Return a class; None where it is no class."""
    is_name = isinstance(value, str | int) and not isinstance(value, bool) and is_text(str(value))
    return str(value) if is_name and str(value).strip() else None


def sound_row(row: dict[str, Any] | None, image_key: str, folder: Path) -> dict[str, Any] | None:
    """Return the example that a row is, as it is written; None if it cannot be used."""
    if row is None:
        return None
    row = {key: value for key, value in row.items() if value != ""}
    text, image = row.get("text"), row.get(image_key)
    labels: list[str] | None = None
    if row.get("labels") is not None:
        if not isinstance(row["labels"], list) or None in map(label_of, row["labels"]):
            return None
        labels = sorted({str(value) for value in row["labels"]})
    elif row.get("label") is not None:
        if label_of(row["label"]) is None:
            return None
        labels = [str(row["label"])]
    split = row.get("split")
    if isinstance(split, str):
        split = SPLITS.get(split.strip().lower(), "unknown")
    if split not in (None, *SPLITS.values()) or (labels is None and split not in (None, "train")):
        return None
    path = image_of(image, folder)
    if not (text is None or is_text(text)) or not (image in (None, "") or path):
        return None
    text = text if text and text.strip() else None
    if text is None and not path:
        return None
    return {"text": text, "path": path, "labels": labels, "split": split}


def rows_that_name(rows: Mapping[int, dict[str, Any] | None]) -> Counter[str]:
    """Return in how many rows each class is named; one row alone is taken for a slip."""
    counts: Counter[str] = Counter()
    for row in filter(None, rows.values()):
        row = {key: value for key, value in row.items() if value != ""}
        several = row.get("labels")
        one = [] if row.get("label") is None else [row["label"]]
        names = one if several is None else several if isinstance(several, list) else []
        if None not in map(label_of, names):
            counts.update({str(name) for name in names})
    return counts


def examples_of(source: SourceData) -> dict[str, dict[str, Any]]:
    """Return what was read, by origin; `in` has the splits of a row."""
    found: dict[str, dict[str, Any]] = {}
    for split, rows in source.dataset.items():
        for row in rows:
            several = row.get("labels", None if row.get("label") is None else [row.get("label")])
            names = None if several is None else sorted(source.info.labels[at] for at in several)
            example = {"text": row["text"], "path": row["image_path"], "labels": names}
            example["sha256"] = row["image_sha256"]
            place = found.setdefault(row["origin"], {**example, "in": set()})
            assert {**example, "in": place["in"]} == place
            place["in"].add(split)
    return found


def has_two_classes(examples: Iterable[dict[str, Any]]) -> bool:
    """Return whether two classes are left in train when validation and test take an image each."""
    keys: dict[tuple[str, ...], set[str]] = {}
    for example in examples:
        if example["labels"] and example["split"] == "train":
            key = example["path"] or example["text"]
            keys.setdefault(tuple(example["labels"]), set()).add(key)
    return sum(len(of_class) > 2 for of_class in keys.values()) > 1


@given(raw=files())
def test_every_line_is_read_as_json_reads_it_or_reported(raw: bytes, folder: Path) -> None:
    file = folder / "rows.jsonl"
    file.write_bytes(raw)
    rows = rows_of(raw)
    image_key = image_key_of(rows, folder)
    named = rows_that_name(rows)
    sound = {}
    for number, row in rows.items():
        example = sound_row(row, image_key, folder)
        if example is not None and all(named[name] > 1 for name in example["labels"] or ()):
            sound[f"{file}:{number}"] = example
    source = read_or_refused(lambda: load_source(str(file), options=SourceOptions()), file)
    if source is None:
        keys = {key for row in filter(None, rows.values()) for key in row if row[key] is not None}
        assert {"label", "labels"} <= keys or not has_two_classes(sound.values())
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
    assert not left_out or f"{len(left_out):,} rows without a label show" in notes
    assert read.keys() | skipped.keys() | left_out == {f"{file}:{number}" for number in rows}
    for origin, example in read.items():
        expected = sound[origin]
        assert {key: example[key] for key in ("text", "path", "labels")} == {
            key: expected[key] for key in ("text", "path", "labels")
        }
        content = Path(example["path"]).read_bytes() if example["path"] else b""
        assert example["sha256"] == (hashlib.sha256(content).hexdigest() if content else "")
        # A split that no row states is taken from the training rows.
        if expected["split"] in ("validation", "test") or "no row fell into" not in notes:
            assert expected["split"] in (None, *example["in"])
            assert len(example["in"]) == 1 or "too small" in notes
