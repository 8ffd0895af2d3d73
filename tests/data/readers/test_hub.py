"""Hugging Face datasets, saved into folders here and opened from there: nothing asks a hub."""

import io
import json
import os
import re
import shutil
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data import source
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers import table_rows
from msd_deploy.data.readers.hub_dataset import cache_of_names, hub_name
from msd_deploy.data.readers.spec import (
    kind_of_spec,
    load_evaluation_source,
    load_source,
    path_of_spec,
)
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import ConfigError, DataError
from msd_deploy.run.output import with_absolute_paths

CLASSES = datasets.ClassLabel(names=["benign", "hateful"])
FEATURES = datasets.Features(
    {"image": datasets.Image(), "text": datasets.Value("string"), "label": CLASSES}
)


def png(number: int) -> bytes:
    """An image that differs by number."""
    return encode_png(np.full((4, 4, 3), number, np.uint8))


def columns(first: int, count: int) -> dict[str, list[object]]:
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": png(number), "path": None} for number in numbers],
        "text": [f"text {number}" for number in numbers],
        "label": [number % 2 for number in numbers],
    }


def write_parquet(folder: Path, name: str, first: int, count: int) -> None:
    folder.mkdir(exist_ok=True)
    split = datasets.Dataset.from_dict(columns(first, count), features=FEATURES)
    split.to_parquet(folder / f"{name}.parquet")


def write_table(folder: Path, table: pa.Table, name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{name}.parquet")
    return folder


def write_lines(folder: Path, name: str, records: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def load(folder: Path, options: SourceOptions | None = None, configuration: str = "") -> SourceData:
    return load_source(f"hub:{folder}{configuration}", options=options or SourceOptions())


def sizes(data: SourceData) -> dict[str, int]:
    return {name: len(split) for name, split in data.dataset.items()}


def test_a_dataset_keeps_its_splits_images_texts_and_classes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name, first, count in (("train", 0, 20), ("validation", 100, 6), ("test", 200, 8)):
        write_parquet(folder, name, first, count)
    data = load(folder)
    assert sizes(data) == {"train": 20, "validation": 6, "test": 8}
    assert (data.info.labels, data.info.problem, data.info.skipped) == (
        ("benign", "hateful"),
        "single_label",
        (),
    )
    row = data.dataset["test"][3]
    assert row["image_bytes"] == png(203)
    assert (row["image_path"], row["text"], row["label"]) == ("", "text 203", 1)
    assert row["origin"] == f"hub:{folder} test:3"


def test_other_names_of_the_validation_split_are_known(tmp_path: Path) -> None:
    for name in ("dev", "valid", "val"):
        records = [{"text": f"{part} {n}", "label": "ab"[n % 2]} for part in "tv" for n in range(9)]
        folder = write_lines(tmp_path / name, "train.jsonl", records[:9])
        write_lines(folder, "v.jsonl", records[9:])
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n"
            f"  - split: train\n    path: train.jsonl\n  - split: {name}\n    path: v.jsonl\n---\n"
        )
        validation = load(folder).dataset["validation"]["text"]
        assert set(validation) == {f"v {n}" for n in range(9)}


def test_without_other_splits_rows_go_by_their_images_as_those_of_a_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", "train", 0, 60)
    lines = []
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        label = CLASSES.names[number % 2]
        lines.append({"image": f"{number}.png", "text": f"text {number}", "label": label})
    write_lines(tmp_path, "rows.jsonl", lines)
    of_file = load_source(str(tmp_path / "rows.jsonl"), options=SourceOptions())
    of_hub = load(tmp_path / "data")
    for name in ("train", "validation", "test"):
        assert of_hub.dataset[name]["image_sha256"][:] == of_file.dataset[name]["image_sha256"][:]


def test_a_missing_validation_split_is_taken_from_training_images(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", "train", 0, 40)
    write_parquet(tmp_path / "data", "test", 100, 6)
    data = load(tmp_path / "data")
    assert sizes(data) == {"train": 36, "validation": 4, "test": 6}


def test_a_test_split_without_labels_is_left_out_and_said(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", "train", 0, 60)
    hidden = {**columns(100, 6), "label": [-1] * 6}
    split = datasets.Dataset.from_dict(hidden, features=FEATURES)
    split.to_parquet(tmp_path / "data" / "test.parquet")
    data = load(tmp_path / "data")
    assert "the split 'test' has no labels and is left out" in data.info.notes
    assert data.info.skipped == ()
    assert png(100) not in data.dataset["test"]["image_bytes"][:]


def test_training_rows_without_a_label_are_kept_for_the_teachers_predictions(
    tmp_path: Path,
) -> None:
    table = {**columns(0, 40), "label": [-1 if n < 5 else n % 2 for n in range(40)]}
    folder = tmp_path / "data"
    folder.mkdir()
    split = datasets.Dataset.from_dict(table, features=FEATURES)
    split.to_parquet(folder / "train.parquet")
    labels = load(folder).dataset["train"]["label"][:]
    assert labels.count(None) >= 3


NAMES = ["a", "b"] * 10


@pytest.mark.parametrize("files", [("train", "test"), ("train-0", "train-1")])
@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        ({"label": NAMES}, {"label": NAMES, "id": range(20)}, ("a", "b")),
        ({"label": NAMES, "id": range(20)}, {"label": NAMES}, ("a", "b")),
        ({"label": [0, 1] * 10}, {"label": NAMES}, ("0", "1", "a", "b")),
        ({"label": NAMES}, {"label": [0, 1] * 10}, ("0", "1", "a", "b")),
        ({"label": NAMES, "id": [None] * 20}, {"label": NAMES, "id": NAMES}, ("a", "b")),
    ],
)
def test_files_of_parquet_need_not_have_the_same_columns(
    tmp_path: Path, files: tuple[str, str], one: object, other: object, labels: tuple[str, ...]
) -> None:
    for name, found in zip(files, (one, other), strict=True):
        texts = [f"{name} {number}" for number in range(20)]
        write_table(tmp_path, pa.table({"text": texts, **found}), name)
    assert load(tmp_path, SourceOptions(labels=labels)).info.skipped == ()


def test_columns_of_parquet_that_cannot_be_one_are_named(tmp_path: Path) -> None:
    texts = [f"t {number}" for number in range(20)]
    write_table(tmp_path, pa.table({"text": texts, "label": NAMES}), "train")
    write_table(tmp_path, pa.table({"text": texts, "label": [[x] for x in NAMES]}), "test")
    expected = r"different types: 'label' \(list<.*, and string elsewhere\) .*\. Write all files"
    with pytest.raises(DataError, match=expected):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["class", "string", "integer"])
def test_lists_of_labels_make_a_multi_label_problem(tmp_path: Path, kind: str) -> None:
    values: list[object] = {"string": ["x", "y"], "integer": [3, 7], "class": [0, 1]}[kind]
    lists = [[[values[0]], [values[1]], values, []][n % 4] for n in range(40)]
    feature = {"string": datasets.Value("string"), "integer": datasets.Value("int64")}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(feature.get(kind, CLASSES)),
        }
    )
    table = {"text": [f"t {n}" for n in range(40)], "labels": lists}
    (tmp_path / "data").mkdir()
    split = datasets.Dataset.from_dict(table, features=features)
    split.to_parquet(tmp_path / "data" / "train.parquet")
    data = load(tmp_path / "data")
    expected = {"string": ("x", "y"), "integer": ("3", "7"), "class": ("benign", "hateful")}
    assert (data.info.problem, data.info.labels) == ("multi_label", expected[kind])
    found = {row["text"]: row["labels"] for split in data.dataset.values() for row in split}
    assert [found[f"t {n}"] for n in range(4)] == [[0], [1], [0, 1], []]


def test_a_folder_of_images_by_class_is_read(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "data" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    data = load(tmp_path / "data")
    assert data.info.labels == ("cat", "dog")
    row = data.dataset["train"][0]
    assert Path(row["image_path"]).read_bytes() == png(int(Path(row["image_path"]).stem))
    assert (row["image_bytes"], row["text"]) == (None, None)


def save_photo(path: Path, value: int) -> None:
    """Save an image in the format of its name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpe": "JPEG", ".pnm": "PPM", ".icb": "TGA"}.get(path.suffix.lower())
    Image.new("RGB", (16, 16), (value, 80, 0)).save(path, kind)


READ_ENDINGS = ("avif", "AVIF", "avifs", "mpo", "webp", "tif", "BMP", "jpe", "qoi", "PNG", "icb")


@pytest.mark.parametrize(
    ("stray", "side"),
    [("x.png", "less deep"), ("b/more/x.png", "deeper"), ("b/more/still/x.webp", "deeper")],
)
def test_an_image_at_another_depth_than_those_by_class_is_named(
    tmp_path: Path, stray: str, side: str
) -> None:
    names = [*(f"{kind}/{number}.png" for kind in "ab" for number in range(6)), stray]
    for number, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / "data" / name)
    with pytest.raises(
        DataError, match=rf"{tmp_path / 'data'}: '{stray}' lies {side} than .* Move"
    ):
        load(tmp_path / "data")


@pytest.mark.parametrize("ending", READ_ENDINGS)
def test_a_folder_takes_every_format_that_a_file_of_rows_takes(tmp_path: Path, ending: str) -> None:
    for index in range(12):
        save_photo(tmp_path / "data" / "red" / f"{index}.png", index)
        save_photo(tmp_path / "data" / "green" / f"{index}.{ending}", 100 + index)
    data = load(tmp_path / "data")
    assert data.info.labels == ("green", "red")
    assert sum(len(split) for split in data.dataset.values()) == 24
    (tmp_path / "data" / "red").rename(tmp_path / "red")
    for index in range(12):
        save_photo(tmp_path / "data" / "other" / f"{index}.{ending}", 200 + index)
    assert load(tmp_path / "data").info.labels == ("green", "other")


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_what_is_left_out_of_a_folder_is_counted_and_named(tmp_path: Path, kind: str) -> None:
    for index in range(12):
        for name in ("red", "green"):
            save_photo(tmp_path / "data" / name / f"{index}.{kind}", index + len(name))
        (tmp_path / "data" / "blue").mkdir(exist_ok=True)
        (tmp_path / "data" / "blue" / f"{index}.heic").write_bytes(b"heic")
    (tmp_path / "data" / "red" / "Thumbs.db").write_bytes(b"x")
    data = load(tmp_path / "data")
    assert data.info.labels == ("green", "red")
    assert (
        "13 files are left out, of formats that are not read: 12 .heic in blue,"
        " 1 .db in red" in data.info.notes
    )


def test_a_folder_without_any_file_that_is_read_names_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "0.heic").write_bytes(b"heic")
    with pytest.raises(
        DataError, match=r"1 file is left out, of formats that are not read: 1 \.heic in a"
    ):
        load(tmp_path / "data")


@pytest.mark.parametrize("folders", [["."], ["a"], ["train"], ["train", "test"], ["train/a"]])
def test_images_without_classes_are_refused_with_two_ways_out(
    tmp_path: Path, folders: list[str]
) -> None:
    for place in folders:
        for number in range(12):
            save_photo(tmp_path / "data" / place / f"{number}.png", number)
    with pytest.raises(
        DataError, match=r"has no classes: .* Move them into folders .* metadata\.csv with columns"
    ) as caught:
        load(tmp_path / "data")
    assert "--label-column" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "has_metadata"),
    [
        ("rows.xlsx", False),
        ("rows.rar", False),
        ("a.tar", False),
        ("a.tar", True),
        ("a.tar.gz", False),
        ("a.mp4", False),
    ],
)
def test_a_folder_of_formats_that_are_not_read_states_which_are(
    tmp_path: Path, name: str, has_metadata: bool
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"rows")
    if has_metadata:
        (tmp_path / "data" / "metadata.csv").write_text("file_name,label\na.png,a\n")
    with pytest.raises(DataError, match=r"Unpack archives, and save tables as \.csv") as caught:
        load(tmp_path / "data")
    ending = Path(name).suffix
    assert f"1 file is left out, of formats that are not read: 1 {ending} in data" in str(
        caught.value
    )


def test_an_archive_of_images_by_class_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images", 12)
    (folder / "p").rename(folder / "a")
    folder_of_images(folder, 11)
    (tmp_path / "data").mkdir()
    shutil.make_archive(str(tmp_path / "data" / "images"), "zip", folder)
    with pytest.raises(DataError, match=r"Unpack archives"):
        load(tmp_path / "data")


def test_the_files_that_a_card_names_are_read_alone(tmp_path: Path) -> None:
    for index in range(12):
        save_photo(tmp_path / "data" / "used" / ("a", "b")[index % 2] / f"{index}.png", index)
        save_photo(tmp_path / "data" / "other" / "c" / f"{index}.avif", index)
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: used/**\n---\n"
    )
    assert load(tmp_path / "data").info.labels == ("a", "b")


def test_columns_of_other_names_are_named(tmp_path: Path) -> None:
    table = pa.table(
        {
            "photo": [png(n) for n in range(40)],
            "title": [f"t {n}" for n in range(40)],
            "kind": ["ab"[n % 2] for n in range(40)],
        }
    )
    folder = write_table(tmp_path / "data", table)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "has no column label or labels: it has photo (binary), title (string), kind" in str(
        caught.value
    )
    assert "--label-column" in str(caught.value)
    options = SourceOptions(image_column="photo", text_column="title", label_column="kind")
    row = load(folder, options).dataset["train"][0]
    assert row["image_bytes"] == png(int(row["text"].removeprefix("t ")))
    with pytest.raises(DataError, match=r"has no column 'name': it has photo \(binary\)"):
        load(folder, SourceOptions(label_column="name"))
    with pytest.raises(DataError, match="column 'kind' would be read as two things"):
        load(folder, SourceOptions(text_column="kind", label_column="kind"))


@pytest.mark.parametrize(
    ("column", "values", "kind", "way"),
    [
        ("image", [1.5] * 4, "float64", "--image-column"),
        ("image", [{"bytes": "0", "path": None}] * 4, "", "--image-column"),
        ("image", [{"bytes": None, "path": b"0.png"}] * 4, "", "--image-column"),
        ("text", [1.5] * 4, "float64", r".astype(str)"),
        ("text", [date(2020, 1, 1)] * 4, "date32", r".astype(str)"),
        ("label", [date(2020, 1, 1)] * 4, "date32", r".astype(str)"),
        ("label", [0.5] * 4, "float64", r".astype(str)"),
        ("label", [True] * 4, "bool", r".astype(str)"),
        ("label", [{"a": 1}] * 4, "struct", "one of its fields"),
    ],
)
def test_a_column_of_another_type_is_refused_with_its_type_and_the_way_out(
    tmp_path: Path, column: str, values: list[object], kind: str, way: str
) -> None:
    table = {"image": [png(n) for n in range(4)], "text": list("abcd"), "label": [0, 1, 0, 1]}
    folder = write_table(tmp_path / "data", pa.table({**table, column: values}))
    expected = f"column '{column}' is {kind or '.*'}, not (a class, )?(a string|an image).*"
    with pytest.raises(DataError, match=f"{expected}--{column}-column") as caught:
        load(folder)
    assert way in str(caught.value)


def test_columns_apply_to_hugging_face_datasets_alone(tmp_path: Path) -> None:
    path = write_lines(tmp_path, "rows.jsonl", [{"text": "a", "label": 1}]) / "rows.jsonl"
    with pytest.raises(ConfigError, match="text_column does not apply"):
        load_source(str(path), options=SourceOptions(text_column="x"))


def bomb() -> bytes:
    """An image of 1,600 pixels in few bytes."""
    encoded = io.BytesIO()
    Image.new("RGB", (40, 40)).save(encoded, "png")
    return encoded.getvalue()


OUTSIDE = "leaves the data folder"
HOSTILE: dict[str, tuple[object, bytes | None, object, str]] = {
    "a path that climbs": ("../outside.png", b"t", 1, OUTSIDE),
    "an absolute path": ("/etc/hostname", b"t", 1, OUTSIDE),
    "a drive": ("C:\\secret.png", b"t", 1, OUTSIDE),
    "a link that leaves": ("link.png", b"t", 1, OUTSIDE),
    "a NUL in a path": ("a\0.png", b"t", 1, "image contains a NUL character"),
    "a path that is a folder": ("folder", b"t", 1, "is a folder"),
    "a missing file": ("missing.png", b"t", 1, "is missing"),
    "an endless path": ("x" * 5000, b"t", 1, "cannot be read"),
    "a NUL in a text": (None, b"a\0b", 1, "text contains a NUL character"),
    "half a surrogate pair": (None, b"a \xed\xa0\x80", 1, "text is not UTF-8 (byte 3)"),
    "a text of other bytes": (None, b"\xff\xfe", 1, "text is not UTF-8 (byte 1)"),
    "a huge text": (None, b"a" * ((1 << 20) + 1), 1, "text is longer than 1,048,576 bytes"),
    "nothing": (None, b" ", 1, "has neither image nor text"),
    "no image at all": (b"", b"t", 1, "image is empty"),
    "a huge image": (b"x" * 3000, b"t", 1, "image is larger than 2,000 bytes"),
    "a class beyond the last": (None, b"t", 2, "label is 2, and there are 2 classes"),
    "a class before the first": (None, b"t", -2, "label is -2, and there are 2 classes"),
    # Named when they are decoded:
    "a truncated image": (png(7)[:60], b"t", 1, "image cannot be decoded"),
    "no image but text": (b"<script>", b"t", 1, "image cannot be decoded"),
    "a decompression bomb": (bomb(), b"t", 1, "more than the limit of 1,000"),
}


def hostile_folder(folder: Path) -> Path:
    """Write a dataset with 40 good rows, then the hostile ones, as its own file of Arrow rows."""
    (folder / "folder").mkdir(parents=True)
    (folder.parent / "outside.png").write_bytes(png(1))
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    images: list[dict[str, object]] = [{"bytes": png(n), "path": None} for n in range(40)]
    texts: list[bytes | None] = [f"good {n}".encode() for n in range(40)]
    labels: list[object] = [n % 2 for n in range(40)]
    for image, text, label, _ in HOSTILE.values():
        is_path = isinstance(image, str)
        images.append({"bytes": None if is_path else image, "path": image if is_path else None})
        texts.append(text)
        labels.append(label)
    # Arrow takes any bytes for a string that come as one.
    as_text = pa.array(texts, pa.binary()).view(pa.string())
    table = pa.table(
        {
            "image": pa.array(images, FEATURES.arrow_schema.field("image").type),
            "text": as_text,
            "label": pa.array(labels, pa.int64()),
        }
    )
    info = {"info": {"features": FEATURES.to_dict()}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, folder / "train.parquet")
    return folder


def test_every_hostile_row_is_named_and_the_others_are_kept(
    tmp_path: Path,
    memes: tuple[PreparedData, Preprocessor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_rows, "MOST_PICTURE_BYTES", 2000)
    folder = hostile_folder(tmp_path / "data")
    small = replace(memes[1], image=replace(memes[1].image, max_pixels=1000))
    data = prepare(load(folder), small, cache=tmp_path / "cache")
    named = {row.origin: row.reason for row in data.info.skipped}
    assert len(named) == len(HOSTILE)
    for at, (what, (*_, reason)) in enumerate(HOSTILE.items(), start=40):
        assert reason in named[f"hub:{folder} train:{at}"], what
    assert sum(len(split) for split in data.splits.values()) == 40


def test_with_strict_a_row_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    folder = hostile_folder(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        load(folder, SourceOptions(strict=True))
    assert f"hub:{folder} train:40: image '../outside.png' leaves the data folder" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"data.py": "raise SystemExit('ran')"}, "needs a loading script, and scripts are not run"),
        (
            {"data.py": "raise SystemExit('ran')", "train.jsonl": '{"text": "a", "label": 1}\n'},
            "needs a loading script, and scripts are not run",
        ),
        ({"train.pkl": "x"}, "No (supported) data files found"),
        ({"train.txt": "x\n"}, "has data of a kind that is not read (text): 1 file is left out"),
        (
            {"train.jsonl": '{"text": "\\ud800", "label": 1}\n'},
            "train:0 (train.jsonl:1): text contains an unpaired surrogate",
        ),
        (
            {"train.jsonl": '{"text": "a", "label": 1}\n{"text": {"b": 2}}\n'},
            "train:1 (train.jsonl:2): text is an object, not a string",
        ),
        ({"train.parquet": "PAR1 nothing"}, "cannot be read"),
        ({}, "doesn't contain any data files"),
        (
            {"README.md": "---\nconfigs:\n- config_name: a\n  data_files: ../other/x.jsonl\n---\n"},
            "names data outside its folder",
        ),
    ],
)
def test_a_folder_that_is_no_plain_dataset_is_refused_by_name(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    write_lines(tmp_path / "other", "x.jsonl", [{"text": "a", "label": 1}] * 4)
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert reason in str(caught.value)
    assert f"hub:{folder}" in str(caught.value)


def test_a_data_file_that_links_outside_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "other", "x.jsonl", [{"text": "a", "label": 1}] * 4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").symlink_to(tmp_path / "other" / "x.jsonl")
    with pytest.raises(DataError, match="names data outside its folder"):
        load(tmp_path / "data")


def test_a_name_unknown_to_the_hub_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"hub:nobody/nothing: cannot be read"):
        load_source("hub:nobody/nothing", options=SourceOptions())
    with pytest.raises(DataError, match=r"'./nowhere': no such folder"):
        load_source("hub:./nowhere", options=SourceOptions())


def test_of_a_name_only_what_was_read_as_written_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub cannot be reached, `datasets` finds what it cached of a name."""
    rows = [{"text": f"t {number}", "label": "ab"[number % 2]} for number in range(20)]
    write_lines(tmp_path, "train.jsonl", rows)
    cache = tmp_path / "cache"
    files = str(tmp_path / "train.jsonl")
    datasets.load_dataset("json", data_files=files, cache_dir=str(cache / "of json"))
    (cached,) = (cache / "of json" / "json").iterdir()
    (arrow,) = cached.rglob("*.arrow")
    arrow.rename(arrow.with_name("name-train.arrow"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (cache / "owner___name").mkdir()
    cached = cached.rename(cache / "owner___name" / "default")
    with pytest.raises(DataError, match=r"hub:owner/name: cannot be read"):
        load_source("hub:owner/name", options=SourceOptions())
    (cache_of_names() / "owner___name").mkdir(parents=True)
    cached.rename(cache_of_names() / "owner___name" / "default")
    assert load_source("hub:owner/name", options=SourceOptions()).info.labels == ("a", "b")


@pytest.mark.parametrize("is_file", [False, True])
def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_file: bool
) -> None:
    write_table(tmp_path / "d", pa.table({"text": ["a", "b"], "label": ["a", "b"]}))
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    spec = str(tmp_path / "d" / "train.parquet") if is_file else f"hub:{tmp_path / 'd'}"
    with pytest.raises(DataError, match=r"cache.*\. Set HF_DATASETS_CACHE to a folder"):
        load_source(spec, options=SourceOptions())


def test_a_configuration_is_chosen_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("red", "blue"):
        records = [{"text": f"{name} {n}", "label": "ab"[n % 2]} for n in range(30)]
        write_lines(folder, f"{name}.jsonl", [dict(record) for record in records])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: red\n  data_files: red.jsonl\n"
        "- config_name: blue\n  data_files: blue.jsonl\n---\n"
    )
    texts = load(folder, configuration=":blue").dataset["train"]["text"][:]
    assert texts[0].startswith("blue ")
    with pytest.raises(DataError, match=r"pick one among the available configs: \['red', 'blue'\]"):
        load(folder)


def test_a_table_written_again_is_read_again_whatever_its_time(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for word in ("old", "new"):
        records: list[dict[str, object]] = [
            {"text": f"{word} {n}", "label": "ab"[n % 2]} for n in range(30)
        ]
        write_lines(folder, "train.jsonl", records)
        os.utime(folder / "train.jsonl", (1, 1))
        assert load(folder).dataset["train"]["text"][0].startswith(word)


def test_a_model_is_evaluated_on_a_split_or_on_all_rows(tmp_path: Path) -> None:
    for name, first, count in (("train", 0, 20), ("validation", 100, 6), ("test", 200, 8)):
        write_parquet(tmp_path / "data", name, first, count)
    spec, labels = f"hub:{tmp_path / 'data'}", ("benign", "hateful", "other")
    for split, count in (("test", 8), ("validation", 6), ("all", 34)):
        data = load_evaluation_source(spec, options=SourceOptions(), split=split, labels=labels)
        assert [len(rows) for rows in data.dataset.values()] == [count]
        assert data.info.labels == labels
    with pytest.raises(DataError, match="has other classes than the model"):
        load_evaluation_source(spec, options=SourceOptions(), split="test", labels=("benign", "x"))


def test_a_relative_folder_becomes_absolute_and_a_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for stated, absolute in (
        ("hub:data", f"hub:{tmp_path / 'data'}"),
        ("hub:data:red", f"hub:{tmp_path / 'data'}:red"),
        ("hub:owner/name:red", "hub:owner/name:red"),
    ):
        config = with_absolute_paths(RunConfig(data=DataConfig(spec=stated)))
        assert config.data.spec == absolute
    assert path_of_spec("hub:owner/name") is None
    assert path_of_spec("hub:data:red") == Path("data")
    assert (kind_of_spec("hub:data"), kind_of_spec("hub:a/b:c")) == ("hub", "hub:a/b:c")
    assert hub_name("owner/name:red").configuration == "red"


def test_rows_of_images_are_written_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows there are, few encoded images are in memory at once."""
    write_parquet(tmp_path / "data", "train", 0, 60)
    whole = load(tmp_path / "data")
    monkeypatch.setattr(source, "_BYTES_PER_BATCH", 300)
    pieces = load(tmp_path / "data")
    assert pieces.dataset["train"][:] == whole.dataset["train"][:]
    assert len(pieces.dataset["train"].data.column("text").chunks) > 10


def folder_of_images(folder: Path, count: int, metadata: str | None = None) -> Path:
    for number in range(count):
        (folder / "p").mkdir(parents=True, exist_ok=True)
        (folder / "p" / f"{number:02d}.png").write_bytes(png(number))
    if metadata is not None:
        (folder / metadata).write_text(
            "file_name,text,label\n"
            + "".join(f"p/{n:02d}.png,t {n},{'ab'[n % 2]}\n" for n in range(20))
        )
    return folder


def test_images_without_a_row_in_the_metadata_are_counted_and_named(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "a", 25, "metadata.csv")
    note = "5 images have no row in the folder's metadata: left out: "
    for _ in range(2):  # read, and from the cache
        notes = load(folder).info.notes
        assert f"{note}'p/20.png', 'p/21.png', 'p/22.png', ..." in notes
    whole = load(folder_of_images(tmp_path / "b", 20, "metadata.csv"))
    assert not any("metadata" in text for text in whole.info.notes)


@pytest.mark.parametrize("by_class", [False, True])
def test_a_table_beside_images_is_not_passed_over_in_silence(
    tmp_path: Path, by_class: bool
) -> None:
    folder = folder_of_images(tmp_path / "data", 20, "data.csv")
    said = "to read data.csv, which is beside images, pass its path to --data, or call it metadata"
    if not by_class:
        with pytest.raises(DataError, match=said):
            load(folder)
        return
    (folder / "p").rename(folder / "a")
    folder_of_images(folder, 15)
    assert any(said in note for note in load(folder).info.notes)


@pytest.mark.parametrize("metadata", [None, "metadata.csv"])
def test_a_folder_is_searched_for_data_once(
    tmp_path: Path, metadata: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of_images(tmp_path / "data", 20, metadata)
    if metadata is None:
        (folder / "p").rename(folder / "a")
        folder_of_images(folder, 15)
    found = []
    search = datasets.load.get_data_patterns

    def counted(*arguments: object, **options: object) -> object:
        found.append(arguments)
        return search(*arguments, **options)

    monkeypatch.setattr(datasets.load, "get_data_patterns", counted)
    assert len(load(folder).dataset["train"]) > 0
    assert len(found) == 1


@pytest.mark.parametrize("name", ["metadata.jsonl", "train.jsonl", "train.json"])
def test_of_a_file_without_a_row_that_can_be_read_the_first_reasons_are_named(
    tmp_path: Path, name: str
) -> None:
    folder = folder_of_images(tmp_path / "data", 2) if "meta" in name else tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text('{"text": \n\n3\n{"a": 1, "a": 2}\n' + "{\n" * 20)
    with pytest.raises(DataError, match=f"data/{name}: has no row that can be read: ") as caught:
        load(folder)
    path = folder / name
    for reason in (
        f"{path}:1: is not JSON (Expecting value at column",
        f"{path}:3: is a number, not a JSON object; ",
        f"{path}:4: has the key 'a' twice; ",
        "; and 13 more. Write one JSON object a line.",
    ):
        assert reason in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n", "file_name,label\n"])
def test_metadata_without_rows_is_one_line_that_names_it(tmp_path: Path, content: str) -> None:
    folder = folder_of_images(tmp_path / "data", 2)
    name = "metadata.csv" if "," in content else "metadata.jsonl"
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"data/{name}: has no rows. Add rows, or remove the file"):
        load(folder)


def of_card(folder: Path, dtype: str) -> None:
    """Write a dataset card that declares two columns."""
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n"
        f"    dtype:{dtype}\n---\n"
    )


@pytest.mark.parametrize("dtype", [None, " string", "\n      class_label:\n        names: [x, y]"])
@pytest.mark.parametrize(
    ("broken", "line", "reason"),
    [
        ('{"text": "t" "label": "x"}', 8, "is not JSON (Expecting ',' delimiter at "),
        ('{"text": "t', 8, "is not JSON (Invalid control character at "),
        ("]", 8, "is not JSON ("),
        ('{"text": "\udcff", "label": "x"}', None, "is not UTF-8 (byte "),
    ],
)
def test_a_list_of_json_that_is_broken_at_one_place_is_refused_with_it(
    tmp_path: Path, broken: str, line: int | None, reason: str, dtype: str | None
) -> None:
    entries = [json.dumps({"text": f"t {n}", "label": "xy"[n % 2]}) for n in range(12)]
    entries[7] = broken
    folder = tmp_path / "data"
    folder.mkdir()
    content = "[" + ",\n".join(entries) + "]"
    (folder / "train.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    if dtype is not None:
        of_card(folder, dtype)
    with pytest.raises(DataError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/train.json: {reason}")
    assert line is None or f"line {line}" in message
    assert message.endswith(" Fix it, or write FILE.jsonl.")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"text": NaN, "label": "x"}', "is not JSON (NaN is not a JSON value)"),
        ('{"text": "t", "text": "u", "label": "x"}', "has the key 'text' twice"),
        ('{"text": {"a": 1, "a": 2}, "label": "x"}', "has the key 'a' twice"),
    ],
)
def test_an_entry_of_a_list_that_json_should_not_hold_is_named_by_its_number(
    tmp_path: Path, broken: str, reason: str
) -> None:
    entries = [json.dumps({"text": f"t, [{n}]", "label": "xy"[n % 2]}) for n in range(12)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.json").write_text(f"\ufeff [ {' , '.join([*entries, broken, *entries])}]")
    with pytest.raises(DataError, match=re.escape(f"{folder}/train.json:13: {reason}. Fix it, or")):
        load(folder)


@pytest.mark.parametrize("dtype", [" string", "\n      class_label:\n        names: [x, y]"])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_broken_line_of_columns_that_a_card_declares_is_named(
    tmp_path: Path, suffix: str, dtype: str
) -> None:
    records = [{"text": f"t {n}", "label": "xy"[n % 2]} for n in range(12)]
    folder = write_lines(tmp_path / "data", f"train.{suffix}", records)
    of_card(folder, dtype)
    assert len(load(folder).dataset["train"]) > 0
    with (folder / f"train.{suffix}").open("a") as file:
        file.write('{"text": "t" "label": "x"}\n')
    said = (
        f"{folder}/train.{suffix}:13: is not JSON (Expecting ',' delimiter at column 14). Fix the"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        load(folder)


def test_columns_that_a_card_declares_and_files_do_not_have_are_an_error_of_the_card(
    tmp_path: Path,
) -> None:
    records: list[dict[str, object]] = [{"text": "t", "label": "x", "more": 1}] * 12
    folder = write_lines(tmp_path / "data", "train.jsonl", records)
    of_card(folder, " string")
    with pytest.raises(
        DataError, match=r"README\.md: declares features that .* Correct dataset_inf"
    ):
        load(folder)


def write_metadata(
    folder: Path, kind: str, names: list[object], column: str = "file_name"
) -> tuple[Path, int]:
    """Write a folder of images and its metadata; return it and the line of its first row."""
    folder_of_images(folder, len(names))
    labels = ["ab"[n % 2] for n in range(len(names))]
    records = [{column: n, "label": c} for n, c in zip(names, labels, strict=True)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), folder / "metadata.parquet")
    elif kind == "jsonl":
        write_lines(folder, "metadata.jsonl", records)
    else:
        cells = [f"{record[column]},{record['label']}\n" for record in records]
        (folder / "metadata.csv").write_text(f"{column},label\n" + "".join(cells))
    return folder, 2 if kind == "csv" else 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["File_Name", "image", "filename"])
def test_metadata_without_a_column_of_names_is_named_with_its_columns(
    tmp_path: Path, kind: str, column: str
) -> None:
    names: list[object] = [f"p/{n:02d}.png" for n in range(12)]
    folder, _ = write_metadata(tmp_path / "data", kind, names, column)
    place = f"metadata.{kind}" + (":1" if kind != "parquet" else "")
    said = f"/{place}: has no column file_name: it has '{column}', 'label'. Name the column of"
    with pytest.raises(DataError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize(
    ("other", "beside"),
    [("image", "file_name"), ("image_file_name", "file_name"), ("label_file_name", "label")],
)
def test_of_metadata_file_name_is_the_image_and_a_column_beside_it_is_not(
    tmp_path: Path, kind: str, is_first: bool, other: str, beside: str
) -> None:
    folder = folder_of_images(tmp_path / "data", 12)
    rows = [
        {"file_name": f"p/{n:02d}.png", "label": "ab"[n % 2], other: f"p/{11 - n:02d}.png"}
        for n in range(12)
    ]
    table = pa.Table.from_pylist(rows)
    table = table.select(table.column_names[:: -1 if is_first else 1])
    if kind == "parquet":
        pq.write_table(table, folder / "metadata.parquet")
    elif kind == "jsonl":
        write_lines(folder, "metadata.jsonl", table.to_pylist())
    else:
        pa.csv.write_csv(table, folder / "metadata.csv")
    for _ in range(2):  # read, and from the cache
        data = load(folder)
        found = {
            row["image_sha256"]: data.info.labels[row["label"]]
            for split in data.dataset.values()
            for row in split
        }
        assert found == {sha256(png(n)).hexdigest(): "ab"[n % 2] for n in range(12)}
        assert f"not read: '{other} (beside {beside})' (12 rows)" in data.info.notes
        assert not any("no row in the folder's metadata" in note for note in data.info.notes)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["/p/00.png", "../p/00.png", "p/../../x.png", r"..\x.png", "C:/x"])
def test_a_name_of_metadata_that_leaves_the_folder_is_a_row_with_its_reason(
    tmp_path: Path, kind: str, name: str
) -> None:
    names: list[object] = [f"p/{n:02d}.png" for n in range(12)]
    folder, first = write_metadata(tmp_path / "data", kind, [*names, name])
    reason = f"file_name {name!r} leaves the data folder; write paths relative to metadata.{kind}"
    if kind == "parquet":
        with pytest.raises(DataError, match=re.escape(f"metadata.parquet: row 12: {reason}")):
            load(folder)
        return
    (skipped,) = load(folder).info.skipped
    assert str(skipped).endswith(f"(metadata.{kind}:{first + 12}): {reason}")


@pytest.mark.parametrize("value", [True, ["p/00.png"], "\ud800.png", "http://a/b.png"])
def test_a_value_of_metadata_that_is_no_path_is_a_row_with_its_reason(
    tmp_path: Path, value: object
) -> None:
    names: list[object] = [f"p/{n:02d}.png" for n in range(12)]
    folder, _ = write_metadata(tmp_path / "data", "jsonl", [*names, value])
    (skipped,) = load(folder).info.skipped
    assert "(metadata.jsonl:13): file_name " in str(skipped)
