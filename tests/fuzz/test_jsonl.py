"""FILE.jsonl: every line is read as json reads it, or reported with its number."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import damaged
from tests.fuzz.rows import IMAGE_KEYS, IMAGES, SPLITS, check_rows, in_lower_case, write_images

# Rows that make a file usable whatever stands beside them.
ANCHORS = tuple(
    json.dumps({"image": image, "text": f"text {at}", "label": f"class {at % 2}", "split": "train"})
    for at, image in enumerate(["a.png", "in/b.jpg", "c.gif", "", "", ""])
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
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
            *(*IMAGES, "", None, "in\\b.jpg", "./a.png", "in/../a.png", "../a.png", "/etc/hosts"),
            *("none.png", "in", "."),
        ]
    ),
    "text": st.text(max_size=12),
    "label": st.sampled_from(["class 0", "class 1", "NA", "null", "01", 1, -1, "a", " "]),
    "labels": st.lists(st.sampled_from(["class 0", "class 1", 1]), max_size=3)
    | st.sampled_from(["class 0", "class 1"]),
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


@given(raw=files())
def test_every_line_is_read_as_json_reads_it_or_reported(raw: bytes, folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(raw)
    rows = rows_of(raw)
    keys = {key for row in filter(None, rows.values()) for key in row if row[key] is not None}
    check_rows(folder / "rows.jsonl", rows, lambda: {"label", "labels"} <= keys)
