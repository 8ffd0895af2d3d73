"""The same rows as JSONL, CSV, TSV, Parquet and a folder of Hugging Face are the same data set."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_deploy.data.prepare import prepare
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceOptions
from tests.fuzz.image_files import IMAGE_FILES
from tests.fuzz.test_csv import AWKWARD, GUESSED

Records = Sequence[dict[str, str | None]]
KEYS = ("image", "text", "label", "split")
IMAGES = {"a.png": IMAGE_FILES["PNG RGB"], "in/b.jpg": IMAGE_FILES["JPEG L"]}
texts = (st.text(max_size=10) | st.sampled_from([*GUESSED, *AWKWARD])).map(
    lambda text: text.replace("\0", "")
)


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Sound rows: each class in two of them, each row with an image or a text."""
    classes = draw(st.lists(texts.filter(str.strip), min_size=2, max_size=4, unique=True))
    rows = []
    for at in range(draw(st.integers(8, 14))):
        text = draw(
            texts.filter(str.strip) if at < 4 else st.none() | texts.map(lambda t: t or None)
        )
        image = draw(st.sampled_from([None, *IMAGES])) if text and text.strip() else "a.png"
        split = "train" if at < 8 else draw(st.sampled_from(["train", "validation", "test", None]))
        label = classes[at % len(classes)]
        rows.append({"image": image, "text": text, "label": label, "split": split})
    return rows


def write_all(folder: Path, rows: Records) -> list[str]:
    """Write rows in every format; return the SPECs."""
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"rows{suffix}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, KEYS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    schema = pa.schema([(key, pa.string()) for key in KEYS])
    table = pa.Table.from_pylist(list(rows), schema)
    pq.write_table(table, folder / "rows.parquet")
    large = pa.schema([(key, pa.large_string()) for key in KEYS])
    pq.write_table(table.cast(large), folder / "large.parquet", row_group_size=3)
    names = ("rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet", "large.parquet")
    return [str(folder / name) for name in names]


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    tokenizer = train_tokenizer(["some words of a text", "1.0 NA null"], vocabulary_size=60)
    return build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=16)


@settings(max_examples=25)
@given(rows=records())
def test_the_same_rows_have_the_same_digest_in_every_format(
    rows: Records, tmp_path: Path, preprocessor: Preprocessor
) -> None:
    for name, content in IMAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    digests = {}
    for spec in write_all(tmp_path, rows):
        source = load_source(spec, options=SourceOptions(strict=True))
        digests[spec] = prepare(source, preprocessor, cache=tmp_path / "cache").digest
    assert len(set(digests.values())) == 1, digests
