"""FILE.csv and FILE.tsv: every row is read as csv reads it, or reported with its line."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import damaged
from tests.fuzz.rows import IMAGE_KEYS, IMAGES, SPLITS, check_rows, in_lower_case, write_images

DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Rows that make a file usable whatever stands beside them.
ANCHORS = [
    {"image": image, "text": f"text {at}", "label": f"class {at % 2}", "split": "train"}
    for at, image in enumerate(["a.png", "in/b.jpg", "c.gif", "", "", ""])
]
# What pandas, Arrow and spreadsheets take for something else, and what CSV has to quote.
GUESSED = ["NA", "null", "None", "nan", "01", "1.0", "1e400", "True", "2020-01-01", "-0", "9" * 400]
AWKWARD = ['"', '""', "a,b", "a\tb", "a\nb", "a\rb", "a\r\nb", " a ", "'", "\0", "\ufeff", "\x85"]
texts = st.text(max_size=8) | st.sampled_from([*GUESSED, *AWKWARD, "", " "])
cells = {
    "image": st.sampled_from(
        [*IMAGES, "", "in\\b.jpg", "../a.png", "/etc/hosts", "none.png", "in"]
    ),
    "label": st.sampled_from(["class 0", "class 1", "", "NA", "01", " ", '["a"]']) | texts,
    "split": st.sampled_from([*SPLITS, "", "", "Train", " train"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


@st.composite
def files(draw: st.DrawFn, delimiter: str) -> bytes:
    label_key = draw(st.sampled_from(["label"] * 4 + ["labels"]))
    image_key = draw(st.sampled_from(["image"] * 4 + ["img", "photo"]))
    names = {"image": image_key, "label": label_key, "text": "text", "split": "split"}
    extra = draw(
        st.lists(
            st.sampled_from(["", "id", "id", "text", "label", *IMAGE_KEYS]) | texts, max_size=1
        )
    )
    keys = draw(st.permutations([*draw(st.sampled_from([list(names), ["text", "label"]])), *extra]))
    rows = [[anchor.get(key, "x") for key in keys] for anchor in ANCHORS]
    for _ in range(draw(st.integers(0, 6))):
        row = [draw(cells.get(key, texts)) for key in keys]
        change = draw(st.sampled_from(["none"] * 6 + ["more", "fewer", "empty"]))
        row = {"more": [*row, "x"], "fewer": row[:-1], "empty": []}.get(change, row)
        rows.insert(draw(st.integers(0, len(rows))), row)
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=delimiter,
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL] * 3 + [csv.QUOTE_ALL])),
        lineterminator=draw(st.sampled_from(["\n"] * 3 + ["\r\n"] * 3 + ["\r", "\n\n"])),
    )
    writer.writerow([names.get(key, key) for key in keys])
    writer.writerows(rows)
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig"] * 4 + ["utf-16", "latin-1"]))
    raw = text.getvalue().encode(encoding, "replace")
    return draw(damaged(raw, 3)) if draw(st.booleans()) else raw


def rows_of(raw: bytes, delimiter: str) -> dict[int, dict[str, Any] | None] | None:
    """Return the rows by the line in which each begins; None if the file cannot be read."""
    try:
        text = raw.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next((cells for cells in reader if cells), [])
        rows: dict[int, dict[str, Any] | None] = {}
        line, written = reader.line_num + 1, io.StringIO(text, newline="").readlines()
        records: dict[int, tuple[list[str], list[str]]] = {}
        for found in reader:
            if found:
                rows[line] = row_of(header, found)
                records[line] = found, written[line - 1 : reader.line_num]
            line = reader.line_num + 1
        rows |= dict.fromkeys(lines_of_rows(records, delimiter, len(header)))
    except (csv.Error, UnicodeError):
        return None
    repeated = [name for name, count in Counter(header).items() if count > 1 and name.strip()]
    return None if repeated or not header or any("\0" in name for name in header) else rows


def lines_of_rows(
    records: dict[int, tuple[list[str], list[str]]], delimiter: str, width: int
) -> list[int]:
    """Return the records whose lines are rows themselves, as other rows have a cell of each."""
    usual = [cells for cells, lines in records.values() if len(lines) == 1 and len(cells) == width]
    known = [{cells[at] for cells in usual} - {""} for at in range(width)]
    found = []
    for line, (_, lines) in records.items():
        inside = [row.rstrip("\r\n").split(delimiter) for row in lines]
        if len(lines) > 1 and all(len(cells) == width for cells in inside):
            columns = [{cells[at].strip('"') for cells in inside} for at in range(width)]
            if any(column <= values for column, values in zip(columns, known, strict=True)):
                found.append(line)
    return found


def row_of(header: list[str], found: list[str]) -> dict[str, Any] | None:
    if len(found) != len(header):
        return None
    row = in_lower_case(
        {name: cell or None for name, cell in zip(header, found, strict=True) if name.strip()}
    )
    if "labels" in row and "label" not in row:  # a column of strings has one class in a row
        label = row.pop("labels")
        row["label"] = False if label and label[0] == "[" and label[-1] == "]" else label
    return row


def lacks_a_column(rows: dict[int, dict[str, Any] | None]) -> bool:
    names = {name for row in filter(None, rows.values()) for name in row}
    return (
        "label" not in names
        or "labels" in names
        or not names.intersection(["text", *IMAGE_KEYS])
        or not any(rows.values())
    )


named_files = st.sampled_from(list(DELIMITERS)).flatmap(
    lambda suffix: st.tuples(st.just(suffix), files(DELIMITERS[suffix]))
)


@settings(max_examples=120)
@example(file=(".csv", b"\0,text,label\n1,a,b\n"))  # Arrow cuts a name at NUL
@example(file=(".csv", b"a\xc2\x9bb,text\n1,a\n"))  # a control of terminals in an error
@given(file=named_files)
def test_every_row_is_read_as_csv_reads_it_or_reported(
    file: tuple[str, bytes], folder: Path
) -> None:
    suffix, raw = file
    (folder / f"rows{suffix}").write_bytes(raw)
    rows = rows_of(raw, DELIMITERS[suffix])
    check_rows(folder / f"rows{suffix}", rows, lambda: lacks_a_column(rows or {}))
