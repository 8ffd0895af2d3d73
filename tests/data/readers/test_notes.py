"""Notes on rows: keys that are not read, other names of the image, missing modalities, classes."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_deploy.data.readers.rows import IMAGE_KEYS
from msd_deploy.data.readers.spec import load_evaluation_source
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import DataError
from tests.data.readers.test_tables import FORMS, load, spec_of, with_pictures

NO_IMAGE = "no row has an image: scores of images alone mean nothing"
NO_TEXT = "no row has a text: scores of texts alone mean nothing"


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_keys_that_are_not_read_are_named_once_with_their_rows(
    tmp_path: Path, suffix: str, in_hub: bool
) -> None:
    records = [
        {"text": f"t {n}", "label": "ab"[n % 2], "id": str(n), "url": "u" if n < 3 else None}
        for n in range(20)
    ]
    if suffix == "jsonl" and not in_hub:
        records = [{k: v for k, v in record.items() if v is not None} for record in records]
    spec = spec_of(tmp_path / "d", suffix, records, in_hub=in_hub)
    note = "not read: 'id' (20 rows), 'url' (3 rows)"
    assert load(spec).info.notes.count(note) == 1
    evaluated = load_evaluation_source(
        spec, options=SourceOptions(), split="all", labels=("a", "b")
    )
    assert evaluated.info.notes.count(note) == 1


def test_of_many_keys_the_first_are_named(tmp_path: Path) -> None:
    records = [
        {"text": f"t {n}", "label": "ab"[n % 2]} | dict.fromkeys("cdefghij", "x") for n in range(9)
    ]
    (note,) = [
        note
        for note in load(spec_of(tmp_path, "jsonl", records, in_hub=False)).info.notes
        if "not read" in note
    ]
    assert note.endswith("'g' (9 rows), ...")


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize(
    ("suffix", "in_hub"), [("jsonl", False), ("csv", False), ("parquet", True)]
)
def test_other_names_of_the_image_are_read_and_noted(
    tmp_path: Path, key: str, suffix: str, in_hub: bool
) -> None:
    records = [
        {key: record["image"], "text": record["text"], "label": record["label"]}
        for record in with_pictures(tmp_path / "d", 20)
    ]
    (tmp_path / "d" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: train.{suffix}\n---\n"
    )
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=in_hub))
    with_image = [row for rows in data.dataset.values() for row in rows if row["image_sha256"]]
    assert len(with_image) == 13
    assert f"{key!r} is read as image, which no row has" in data.info.notes
    assert not any("not read" in note or note == NO_IMAGE for note in data.info.notes)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", ["mails/1.txt", "gone.png", "../out.png", "word", ""])
def test_a_key_that_names_no_image_file_is_not_the_image(
    tmp_path: Path, suffix: str, name: str
) -> None:
    (tmp_path / "d" / "mails").mkdir(parents=True)
    (tmp_path / "d" / "mails" / "1.txt").write_text("a text")
    (tmp_path / "out.png").write_bytes(b"x")
    records = [{"file_name": name, "text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)]
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=False))
    assert sum(len(rows) for rows in data.dataset.values()) == 20
    assert NO_IMAGE in data.info.notes
    assert ("not read: 'file_name' (20 rows)" in data.info.notes) == (bool(name) or suffix != "csv")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_where_a_row_has_an_image_no_other_key_is_one(tmp_path: Path, suffix: str) -> None:
    records = [record | {"img": record["image"]} for record in with_pictures(tmp_path / "d")]
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=False))
    assert [note for note in data.info.notes if "'img'" in note] in (
        [["not read: 'img' (26 rows)"], ["not read: 'img' (40 rows)"]]
    )


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(("missing", "note"), [("image", NO_IMAGE), ("text", NO_TEXT)])
def test_a_data_set_without_images_or_texts_gets_a_note(
    tmp_path: Path, suffix: str, missing: str, note: str
) -> None:
    records = with_pictures(tmp_path / "d")[1:3] * 10
    assert not {NO_IMAGE, NO_TEXT} & set(
        load(spec_of(tmp_path / "d", suffix, records, in_hub=False)).info.notes
    )
    without = [record | {missing: None} for record in records]
    spec = spec_of(tmp_path / "d", suffix, without, in_hub=False)
    assert note in load(spec).info.notes
    evaluated = load_evaluation_source(
        spec, options=SourceOptions(), split="all", labels=("NA", "01")
    )
    assert note in evaluated.info.notes


@pytest.mark.parametrize(
    "pair",
    [("Shoes", "shoes"), ("a b", "a  b"), ("a", "a "), ("caf\u00e9", "cafe\u0301"), ("ß", "SS")],
)
def test_classes_that_differ_only_in_spelling_get_a_note(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    labels = [*pair, "other"]
    records = [{"text": f"t {n}", "label": labels[n % 3]} for n in range(30)]
    data = load(spec_of(tmp_path, "jsonl", records, in_hub=False))
    assert set(data.info.labels) == set(labels)
    (note,) = [note for note in data.info.notes if "kept apart" in note]
    first, second = sorted(pair)
    look_alike = unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second)
    show = ascii if look_alike else repr
    assert note.endswith(f": {show(first)} and {show(second)}")


@pytest.mark.parametrize(
    "names",
    [
        ("1", "1.0"),
        ("01", "1"),
        ("+1", "1e0"),
        ("-0", "0"),
        (".5", "0.50"),
        ("7.", "7"),
        ("9" * 40, "9" * 40 + ".0"),
        ("1", "1.00", "01"),
    ],
)
def test_classes_that_are_the_same_number_get_a_note(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    labels = [*names, "1_0", "10", "9" * 39 + "8", "nan", "1 a", "a1", "a01"]
    records = [{"text": f"t {n}", "label": labels[n % len(labels)]} for n in range(80)]
    data = load(spec_of(tmp_path, "jsonl", records, in_hub=False))
    assert set(data.info.labels) == set(labels)
    (note,) = [note for note in data.info.notes if "kept apart" in note]
    listed = " and ".join(map(repr, sorted(names)))
    assert note == f"classes that are the same number are kept apart: {listed}"


def test_classes_that_differ_in_form_and_are_numbers_get_one_note(tmp_path: Path) -> None:
    records = [{"text": f"t {n}", "label": "1\uff11"[n % 2]} for n in range(30)]
    data = load(spec_of(tmp_path, "jsonl", records, in_hub=False))
    (note,) = [note for note in data.info.notes if "kept apart" in note]
    assert "Unicode form" in note


def test_a_name_with_windows_separators_is_found(tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv", "parquet"):
        records = with_pictures(tmp_path / suffix)
        (tmp_path / suffix / "a\\b.png").write_bytes(
            (tmp_path / suffix / "p" / "1.png").read_bytes()
        )
        written = [
            record | {"image": record["image"] and record["image"].replace("/", "\\")}
            for record in records
        ]
        written[0]["image"] = "a\\b.png"  # where such a file exists, it is meant
        written.append({"image": "p\\gone.png", "text": "x", "label": "NA"})
        data = load(spec_of(tmp_path / suffix, suffix, written, in_hub=False))
        assert [row.reason for row in data.info.skipped] == ["image 'p\\\\gone.png' is missing"]
        paths = {row["image_path"] for rows in data.dataset.values() for row in rows}
        assert str(tmp_path / suffix / "p" / "1.png") in paths
        assert str(tmp_path / suffix / "a\\b.png") in paths


def test_a_name_of_an_image_that_is_not_utf8_does_not_end_the_reading(tmp_path: Path) -> None:
    records = with_pictures(tmp_path / "d", 20)
    names = [b"a\xff.png", *((record["image"] or "").encode() for record in records[1:])]
    table = pa.table(
        {
            "file_name": pa.array(names).cast(pa.binary()).view(pa.string()),
            "text": [record["text"] for record in records],
            "label": [record["label"] for record in records],
        }
    )
    pq.write_table(table, tmp_path / "d" / "rows.parquet")
    data = load(str(tmp_path / "d" / "rows.parquet"))
    assert "'file_name' is read as image, which no row has" in data.info.notes
    assert sum(len(split) for split in data.dataset.values()) == 19
    assert "is not UTF-8" in str(data.info.skipped[0])


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "is_noted"),
    [
        (["a|c", "b|c"], True),
        (["a", "a;b"], True),
        (["a, b", "b"], True),
        (["red, green", "blue"], False),
        (["a-b", "b"], False),
    ],
)
def test_classes_that_look_like_lists_get_a_note(
    tmp_path: Path, suffix: str, labels: list[str], is_noted: bool
) -> None:
    records = [{"text": f"t {n}", "label": labels[n % 2]} for n in range(20)]
    data = load(spec_of(tmp_path, suffix, records, in_hub=False))
    assert set(data.info.labels) == set(labels)
    (named,) = [label for label in labels if len(label) > 1][:1]
    note = f"classes such as {named!r} are one class each: for several classes in a row"
    assert any(found.startswith(note) for found in data.info.notes) == is_noted


def test_names_from_data_are_short_in_notes_and_errors(tmp_path: Path) -> None:
    long = "long name " * 20_000
    records = [
        {"text": f"t {n}", "label": f"{long}{n % 2}", long: "x", "split": ["train", "test"][n < 4]}
        for n in range(20)
    ]
    records += [{"text": f"u {n}", "label": f"{long}of test", "split": "test"} for n in range(2)]
    records += [{"text": "v", "label": "once", "split": long}]
    for suffix in ("jsonl", "csv", "parquet"):
        spec = spec_of(tmp_path, suffix, records, in_hub=False)
        data = load(spec)
        texts = [*data.info.notes, *map(str, data.info.skipped)]
        assert len(texts) > 3
        assert max(map(len, texts)) < 600
        with pytest.raises(DataError) as caught:
            load_evaluation_source(spec, options=SourceOptions(), split="test", labels=("a", long))
        assert len(str(caught.value)) < 1000
        if suffix != "jsonl":
            with pytest.raises(DataError, match="has no column") as caught:
                load(spec, SourceOptions(text_column="no such"))
            assert len(str(caught.value)) < 600
