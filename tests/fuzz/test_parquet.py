"""FILE.parquet: every row is read as pyarrow reads it, or reported; odd types are refused."""

import io
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions
from tests.fuzz.mutations import damaged
from tests.fuzz.rows import IMAGE_KEYS, IMAGES, SPLITS, check_rows, write_images
from tests.fuzz.rule import read_or_refused

# Rows that make a file usable whatever stands beside them.
ANCHORS = 6
strings = st.text(max_size=8) | st.sampled_from(
    ["NA", "null", "01", "1.0", "", " ", "a\0b", "\x85"]
)
PLAIN = {
    pa.string(): strings,
    pa.large_string(): strings,
    pa.dictionary(pa.int8(), pa.string()): strings,
    pa.binary(): st.binary(max_size=4),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.bool_(): st.booleans(),
    pa.float16(): st.sampled_from([0.0, 1.0, float("nan"), float("inf")]),
    pa.float64(): st.floats(),
    pa.decimal128(9, 2): st.decimals(-99, 99, places=2),
    pa.date32(): st.dates(date(1970, 1, 1)),
    pa.timestamp("ms"): st.integers(0, 10**12),
    pa.duration("s"): st.integers(0, 10**6),
    pa.uuid(): st.binary(min_size=16, max_size=16),
    pa.null(): st.none(),
}
kinds = st.sampled_from(list(PLAIN))
LISTS = (pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


def values_of(kind: pa.DataType) -> st.SearchStrategy[object]:
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if pa.types.is_map(kind):
        return st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=2)
    if pa.types.is_fixed_size_list(kind):
        return st.none() | st.lists(values_of(kind.value_type), min_size=2, max_size=2)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return st.none() | st.lists(values_of(kind.value_type), max_size=3)
    return st.none() | PLAIN[kind]


@st.composite
def odd_columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """A column of any type, lists and structs of them included."""
    kind = draw(kinds)
    match draw(st.sampled_from(["plain"] * 3 + ["list", "struct", "map"])):
        case "list":
            kind = draw(st.sampled_from(LISTS))(kind)
        case "struct":
            kind = pa.struct([("bytes", kind), ("path", draw(kinds))])
        case "map":
            kind = pa.map_(pa.string(), pa.int64())
    values = draw(st.lists(values_of(kind), min_size=rows, max_size=rows))
    try:
        return pa.array(values, kind)
    except pa.ArrowNotImplementedError:  # lists of some types
        reject()


@st.composite
def usual_columns(draw: st.DrawFn, name: str, rows: int) -> pa.Array:
    """A column as people have it, in which the first rows make the file usable."""
    paths = st.sampled_from([*IMAGES, "", None, "in\\b.jpg", "../a.png", "/etc/hosts", "in"])
    encoded = st.sampled_from([None, b"", b"an image", b"another"])
    anchors = [f"text {at}" for at in range(ANCHORS)]
    others: st.SearchStrategy[object] = st.none() | strings
    types = [pa.string(), pa.large_string()]
    if name == "label":
        form = draw(st.sampled_from(["names", "numbers", "lists"]))
        anchors = [at % 2 if form == "numbers" else f"class {at % 2}" for at in range(ANCHORS)]
        others = st.sampled_from(["class 0", "class 1", None, "NA", "01", ""]) | strings
        if form == "numbers":
            others, types = st.sampled_from([0, 1, None, 2, 99]), [pa.int64(), pa.uint8()]
        if form == "lists":
            anchors, others = [[name] for name in anchors], st.none() | st.lists(others, max_size=3)
            types = [pa.list_(pa.string()), pa.large_list(pa.large_string())]
    elif name == "split":
        anchors, others = ["train"] * ANCHORS, st.sampled_from([*SPLITS, None, "Train", ""])
    elif name == "image":
        anchors, others = [*IMAGES, None, None, None], paths
        form = draw(st.sampled_from(["path", "bytes", "both"]))
        if form == "bytes":
            anchors, others, types = [b"1", b"2", b"3", *[None] * 3], encoded, [pa.binary()]
        if form == "both":
            types = [pa.struct([("bytes", pa.binary()), ("path", pa.string())])]
            anchors = [None if path is None else {"bytes": None, "path": path} for path in anchors]
            others = st.none() | st.fixed_dictionaries({"bytes": encoded, "path": paths})
    size = rows - ANCHORS
    values = [*anchors, *draw(st.lists(others, min_size=size, max_size=size))]
    return pa.array(values, draw(st.sampled_from(types)))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = ANCHORS + draw(st.integers(0, 5))
    names = draw(st.permutations(["image", "text", "label", "split"]))
    columns = {name: draw(usual_columns(name, rows)) for name in names}
    other = draw(st.sampled_from(["none"] * 3 + ["odd", "missing", "extra"]))
    if other == "odd":
        columns[draw(st.sampled_from(names))] = draw(odd_columns(rows))
    elif other == "missing":
        del columns[draw(st.sampled_from(names))]
    elif other == "extra":
        key = draw(st.sampled_from(["id", "labels", *IMAGE_KEYS]) | st.text(max_size=4))
        columns[key] = draw(odd_columns(rows))
    return pa.table(columns)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    table = draw(tables())
    stream = io.BytesIO()
    pq.write_table(
        table if draw(st.integers(0, 19)) else table.slice(0, 0),
        stream,
        compression=draw(st.sampled_from(["snappy", "gzip", "zstd", "none"])),
        row_group_size=draw(st.sampled_from([1, 4, 100])),
        use_dictionary=draw(st.booleans()),
        data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
        write_page_checksum=draw(st.booleans()),
    )
    raw = stream.getvalue()
    return draw(damaged(raw, 3)) if draw(st.integers(0, 3)) == 0 else raw


def rows_of(table: pa.Table) -> dict[int, dict[str, Any] | None]:
    rows: dict[int, dict[str, Any] | None] = {}
    for at, row in enumerate(table.to_pylist()):
        for key in ("image", *IMAGE_KEYS):
            image = row.get(key)
            if isinstance(image, dict):
                row[key] = (image.get("bytes"), image.get("path"))
            elif isinstance(image, bytes):
                row[key] = (image, None)
        several = row.get("labels")
        if "label" not in row and not isinstance(several, list):
            row["label"] = row.pop("labels", None)
        elif isinstance(row.get("label"), list):
            row["labels"] = row.pop("label")
        if isinstance(row.get("split"), bytes):
            row["split"] = row["split"].decode("utf-8", "replace")
        if isinstance(row.get("text"), int):
            row["text"] = str(row["text"])
        rows[at] = row
    return rows


def may_refuse(table: pa.Table) -> bool:
    """Return whether a column is missing, or of a type that cannot be what it is called."""
    kinds = {field.name: field.type for field in table.schema}
    label = kinds.get("label", kinds.get("labels", pa.null()))
    if pa.types.is_list(label) or pa.types.is_large_list(label):
        label = label.value_type
    text, image = kinds.get("text", pa.null()), kinds.get("image", pa.null())
    strings = (pa.string(), pa.large_string())
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return (
        {"label", "labels"} <= kinds.keys()
        or not (label in strings or pa.types.is_integer(label))
        or not (text in (*strings, pa.null()) or pa.types.is_integer(text))
        or image not in (*strings, pa.null(), pa.binary(), struct)
        or text == image == pa.null()
        or len(table) == 0
        or any("\0" in name for name in kinds)
    )


def written(rows: int) -> bytes:
    """A file of texts and labels whose pages have checksums."""
    columns = {
        "text": [f"text {at}" for at in range(rows)],
        "label": [at % 2 for at in range(rows)],
    }
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    stream = io.BytesIO()
    table = pa.table(columns, schema)
    pq.write_table(table, stream, write_page_checksum=True, compression="none")
    return stream.getvalue()


@example(raw=written(9).replace(b"text 3", b"test 3"))  # a page that is not what was written
@example(raw=written(0))  # datasets logged an error on stderr
@given(raw=files())
def test_every_row_is_read_as_pyarrow_reads_it_or_reported(raw: bytes, folder: Path) -> None:
    file = folder / "rows.parquet"
    file.write_bytes(raw)
    try:
        check(raw, file)
    finally:
        shutil.rmtree(Path(os.environ["HF_HOME"]) / "datasets", ignore_errors=True)


def check(raw: bytes, file: Path) -> None:
    try:
        table = pq.read_table(io.BytesIO(raw), page_checksum_verification=True)
    except Exception:  # whatever its parser meets
        check_rows(file, None, lambda: True)
        return
    try:
        table.validate(full=True)
        rows = rows_of(table)
    except (pa.ArrowException, ValueError):  # strings that are not UTF-8, dates out of range
        read_or_refused(lambda: load_source(str(file), options=SourceOptions()), file)
        return
    check_rows(file, rows, lambda: may_refuse(table))
