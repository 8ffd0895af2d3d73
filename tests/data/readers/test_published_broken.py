"""Published data sets that are not as published: every flaw is a named row or a named error.

A variant changes one thing in a correct folder. What is left is used, unless nothing can be.
"""

import json
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import DataError

WriteFolder = Callable[[str], Path]
Change = Callable[[Path], None]

ABSENT = object()
TRAIN = {
    "hateful-memes": "train.jsonl",
    "snli-ve": "snli_ve_train.jsonl",
    "mm-imdb, converted": "train.jsonl",
}
DEV = {
    "hateful-memes": "dev_seen.jsonl",
    "snli-ve": "snli_ve_dev.jsonl",
    "mm-imdb, converted": "dev.jsonl",
}
TEXT = {"hateful-memes": "text", "snli-ve": "sentence2", "mm-imdb, converted": "text"}
IMAGE = {"hateful-memes": "img", "snli-ve": "Flickr30K_ID", "mm-imdb, converted": "image"}
IDENTITY = {"hateful-memes": "id", "snli-ve": "pairID", "mm-imdb, converted": "id"}
LABEL = {"hateful-memes": "label", "snli-ve": "gold_label", "mm-imdb, converted": "label"}
SUFFIX = {"hateful-memes": ".png", "snli-ve": ".jpg", "mm-imdb, converted": ".jpeg"}
PICTURE = {
    "hateful-memes": "img/00100.png",
    "snli-ve": "flickr30k_images/100.jpg",
    "mm-imdb": "dataset/0000100.jpeg",
    "mm-imdb, converted": "dataset/0000100.jpeg",
}
LINE_FORMS = list(TRAIN)
KEY_TABLES = {"TEXT": TEXT, "IMAGE": IMAGE, "ID": IDENTITY, "LABEL": LABEL}


def spec_of(form: str, folder: Path) -> str:
    return f"{form.partition(',')[0]}:{folder}"


def assert_named(form: str, folder: Path, origin: str, reason: str) -> None:
    """One row is named with its place and reason, the others are read; strict refuses it."""
    data = load_source(spec_of(form, folder), options=SourceOptions())
    assert [str(row) for row in data.info.skipped] == [f"{folder}/{origin}: {reason}"]
    assert sum(len(split) for split in data.dataset.values()) == 19
    with pytest.raises(DataError) as caught:
        load_source(spec_of(form, folder), options=SourceOptions(strict=True))
    assert f"{folder}/{origin}: {reason}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def change_record(path: Path, index: int, changes: dict[str, object]) -> None:
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[index]), **changes}
    lines[index] = json.dumps({k: v for k, v in record.items() if v is not ABSENT})
    path.write_text("\n".join(lines) + "\n")


def change_raw(path: Path, index: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().splitlines()
    lines[index] = change(lines[index])
    path.write_bytes(b"\n".join(lines) + b"\n")


def nested(_: bytes) -> bytes:
    return b"[" * 100_000


@pytest.mark.parametrize("form", LINE_FORMS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: b"\xff" + line, "is not UTF-8 (byte 1)"),
        (lambda line: line.decode().encode("utf-16"), "is UTF-16"),
        (lambda line: b"\0" * 40, "is not JSON (Expecting value at column 1)"),
        (lambda line: b"[" + line + b"]", "is a list, not a JSON object"),
        (lambda line: b"null", "is null, not a JSON object"),
        (nested, "is not JSON that can be read (nested too deeply)"),
        (lambda line: line[:-1] + b', "x": NaN}', "is not JSON (NaN is not a JSON value)"),
        (lambda line: line[:-1] + b', "x": 1, "x": 2}', "has the key 'x' twice"),
        (
            lambda line: line[:-1] + b', "x": "' + b"y" * (2 << 20) + b'"}',
            "is longer than 1,048,576 bytes",
        ),
        (lambda line: line + line, "is not JSON (Extra data at column {})"),
    ],
    ids=[
        "not-utf8",
        "utf16",
        "NULs",
        "list",
        "null",
        "nested",
        "NaN",
        "twice",
        "huge",
        "two-objects",
    ],
)
def test_a_line_that_is_no_record_is_named(
    write_published: WriteFolder, form: str, change: Callable[[bytes], bytes], reason: str
) -> None:
    folder = write_published(form)
    length = len((folder / TRAIN[form]).read_bytes().splitlines()[2])
    change_raw(folder / TRAIN[form], 2, change)
    assert_named(form, folder, f"{TRAIN[form]}:3", reason.format(length + 1))


@pytest.mark.parametrize("form", LINE_FORMS)
def test_a_truncated_file_loses_its_last_row_by_name(
    write_published: WriteFolder, form: str
) -> None:
    folder = write_published(form)
    path = folder / TRAIN[form]
    path.write_bytes(path.read_bytes()[:-20])
    data = load_source(spec_of(form, folder), options=SourceOptions())
    (row,) = data.info.skipped
    assert row.origin == f"{path}:12"
    assert row.reason.startswith("is not JSON (")


@pytest.mark.parametrize("form", LINE_FORMS)
@pytest.mark.parametrize(
    ("table", "value", "reason"),
    [
        ("TEXT", ABSENT, "has no {key}"),
        ("TEXT", 7, "{key} is a number, not a string"),
        ("TEXT", ["a"], "{key} is a list, not a string"),
        ("TEXT", "\ud800", "{key} contains an unpaired surrogate"),
        ("ID", ABSENT, "has no {key}"),
        ("ID", {}, "{key} is an object, not"),
        ("ID", True, "{key} is a boolean, not"),
        ("ID", "9" * 5000, "{key} '9999"),
        ("ID", "", "{key} '' is no"),
        ("LABEL", ABSENT, "has no {key}"),
        ("LABEL", None, "has no {key}"),
        ("LABEL", {"a": 1}, "{key} is an object, not"),
        ("IMAGE", ["a"], "{key} is a list, not a string"),
        ("IMAGE", "", "has no {key}"),
        ("IMAGE", "none", "{key} 'none{suffix}' is missing"),
        ("IMAGE", "../../outside", "{key} '../../outside{suffix}' leaves the data folder"),
        ("IMAGE", "..\\..\\b", "{key} '..\\\\..\\\\b{suffix}' leaves the data folder"),
        ("IMAGE", "/etc/passwd", "{key} '/etc/passwd{suffix}' leaves the data folder"),
        ("IMAGE", "C:\\a", "{key} 'C:\\\\a{suffix}' leaves the data folder"),
        ("IMAGE", "a\0b", "{key} contains a NUL character"),
        ("IMAGE", "\udc80", "{key} contains an unpaired surrogate"),
        ("IMAGE", "x" * 5000, "{key} 'xxxx"),
    ],
    ids=lambda value: repr(value)[:12] if value is not ABSENT else "absent",
)
def test_a_record_with_a_wrong_value_is_named(
    write_published: WriteFolder, form: str, table: str, value: object, reason: str
) -> None:
    folder = write_published(form)
    key, suffix = KEY_TABLES[table][form], SUFFIX[form]
    if table == "IMAGE" and isinstance(value, str) and value and form != "snli-ve":
        value = value + suffix
    change_record(folder / TRAIN[form], 0, {key: value})
    data = load_source(spec_of(form, folder), options=SourceOptions())
    (row,) = data.info.skipped
    assert row.origin == f"{folder / TRAIN[form]}:1"
    assert row.reason.startswith(reason.format(key=key, suffix=suffix))
    assert len(row.reason) < 200
    assert sum(len(split) for split in data.dataset.values()) == 19
    with pytest.raises(DataError, match="1 row cannot be used"):
        load_source(spec_of(form, folder), options=SourceOptions(strict=True))


@pytest.mark.parametrize(
    ("form", "changes", "reason"),
    [
        ("hateful-memes", {"label": 2}, "label is 2, not 0 or 1"),
        ("hateful-memes", {"label": "1"}, "label is a string, not 0 or 1"),
        ("hateful-memes", {"label": True}, "label is a boolean, not 0 or 1"),
        ("hateful-memes", {"label": 1.0}, "label is a number, not 0 or 1"),
        ("hateful-memes", {"id": -1}, "id -1 is not an integer or string of digits"),
        ("hateful-memes", {"id": "0x1"}, "id '0x1' is not an integer or string of digits"),
        ("hateful-memes", {"id": 101}, "repeats the id 101 of train.jsonl:2"),
        ("hateful-memes", {"id": "00101"}, "repeats the id 101 of train.jsonl:2"),
        ("snli-ve", {"gold_label": "-"}, "has no gold_label (its annotators disagree)"),
        ("snli-ve", {"gold_label": "Neutral"}, "unknown gold_label 'Neutral'"),
        ("snli-ve", {"sentence2": "  "}, "sentence2 is empty"),
        (
            "snli-ve",
            {"pairID": "101.jpg#0r1n"},
            "repeats the id 101.jpg#0r1n of snli_ve_train.jsonl:2",
        ),
        (
            "snli-ve",
            {"Flickr30K_ID": ABSENT, "pairID": "x"},
            "has no Flickr30K_ID, and its pairID names no image",
        ),
        (
            "snli-ve",
            {"Flickr30K_ID": ABSENT, "pairID": "../../x.jpg#0"},
            "pairID '../../x.jpg' leaves the data folder",
        ),
        ("mm-imdb, converted", {"label": "Drama"}, "label is a string, not a list"),
        ("mm-imdb, converted", {"label": []}, "label is empty"),
        ("mm-imdb, converted", {"label": [1]}, "an entry of label is a number, not a string"),
        ("mm-imdb, converted", {"label": ["drama"]}, "unknown genre 'drama'"),
        ("mm-imdb, converted", {"id": "0000101"}, "repeats the id 101 of train.jsonl:2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_set_does_not_have_is_named(
    write_published: WriteFolder, form: str, changes: dict[str, object], reason: str
) -> None:
    folder = write_published(form)
    # The last row, so that the id that it repeats is one of those before it.
    change_record(folder / TRAIN[form], 11, changes)
    assert_named(form, folder, f"{TRAIN[form]}:12", reason)


@pytest.mark.parametrize("form", LINE_FORMS)
def test_an_id_of_another_split_is_named(write_published: WriteFolder, form: str) -> None:
    folder = write_published(form)
    record = json.loads((folder / TRAIN[form]).read_text().splitlines()[0])
    change_record(folder / DEV[form], 3, {IDENTITY[form]: record[IDENTITY[form]]})
    identity = str(record[IDENTITY[form]]).lstrip("0")
    reason = f"repeats the id {identity} of {TRAIN[form]}:1"
    assert_named(form, folder, f"{DEV[form]}:4", reason)


def link_out(folder: Path, path: Path) -> None:
    outside = folder.parent / f"outside{path.suffix}"
    path.rename(outside)
    path.symlink_to(outside)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NO_FILE_OF_THE_FOLDER = pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "is missing"),
        (folder_instead, "is a folder"),
        (pipe_instead, "is not a regular file"),
        (loop, "cannot be read (a loop of links)"),
        (None, "leaves the data folder"),  # a link
    ],
    ids=["missing", "folder", "pipe", "loop", "link out"],
)


@pytest.mark.parametrize("form", PICTURE)
@NO_FILE_OF_THE_FOLDER
def test_an_image_that_is_not_a_file_of_the_folder_is_named(
    write_published: WriteFolder, form: str, change: Change | None, reason: str
) -> None:
    folder = write_published(form)
    picture = folder / PICTURE[form]
    (change or partial(link_out, folder))(picture)
    (row,) = load_source(spec_of(form, folder), options=SourceOptions()).info.skipped
    key, name = IMAGE.get(form, "image"), PICTURE[form].removeprefix("flickr30k_images/")
    assert row.reason == f"{key} {name!r} {reason}"
    place = "dataset/0000100.json" if form == "mm-imdb" else TRAIN[form]
    assert row.origin == f"{folder}/{place}:1"


def bomb() -> bytes:
    """A PNG of 100 bytes that says it has 10 gigapixels."""
    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("form", PICTURE)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image cannot be decoded ("),
        (b"not an image", "image cannot be decoded ("),
        (b"\x89PNG\r\n\x1a\n", "image cannot be decoded ("),
        (bomb(), "image has 10,000,000,000 pixels, more than the limit of 89,478,485"),
    ],
    ids=["empty", "text", "truncated", "bomb"],
)
def test_an_image_that_cannot_be_decoded_is_named_when_it_is_prepared(
    write_published: WriteFolder,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path: Path,
    form: str,
    content: bytes,
    reason: str,
) -> None:
    folder = write_published(form)
    (folder / PICTURE[form]).write_bytes(content)
    source = load_source(spec_of(form, folder), options=SourceOptions())
    (row,) = prepare(source, memes[1], cache=tmp_path / "cache").info.skipped
    assert row.origin.endswith(":1")
    assert row.reason.startswith(f"{folder / PICTURE[form]}: {reason}")
    with pytest.raises(DataError, match="1 broken image"):
        prepare(source, memes[1], cache=tmp_path / "cache", strict=True)


def empty(path: Path) -> None:
    path.write_bytes(b"\n \n")


def no_good_row(path: Path) -> None:
    path.write_bytes(b"{}\n")


@pytest.mark.parametrize("form", LINE_FORMS)
@pytest.mark.parametrize("table", [TRAIN, DEV], ids=["train", "dev"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "{folder}: holds no .*{name}. Use the folder as published"),
        (folder_instead, "{folder}: file '{name}' is a folder"),
        (pipe_instead, "{folder}: file '{name}' is not a regular file"),
        (loop, "{folder}: file '{name}' cannot be read \\(a loop of links\\)"),
        (None, "{folder}: file '{name}' leaves the data folder"),
        (empty, "{folder}/{name}: is empty"),
        (no_good_row, "{folder}/{name}: has no usable row: {folder}/{name}:1: has no "),
    ],
    ids=["missing", "folder", "pipe", "loop", "link out", "empty", "no good row"],
)
def test_a_folder_without_one_of_its_files_is_refused(
    write_published: WriteFolder,
    form: str,
    table: dict[str, str],
    change: Change | None,
    message: str,
) -> None:
    folder = write_published(form)
    (change or partial(link_out, folder))(folder / table[form])
    with pytest.raises(DataError, match=message.format(folder=folder, name=table[form])):
        load_source(spec_of(form, folder), options=SourceOptions())


@pytest.mark.parametrize("form", ["hateful-memes", "snli-ve", "mm-imdb"])
def test_an_empty_folder_and_a_file_in_its_place_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: holds no .*Use the folder as published"):
        load_source(f"{form}:{tmp_path}", options=SourceOptions())
    (tmp_path / "file").write_text("{}")
    with pytest.raises(DataError, match="is not a folder"):
        load_source(f"{form}:{tmp_path / 'file'}", options=SourceOptions())


def test_images_of_snli_ve_in_a_folder_outside_are_refused(
    write_published: WriteFolder, tmp_path: Path
) -> None:
    folder = write_published("snli-ve")
    (folder / "flickr30k_images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="holds no folder flickr30k_images or flickr30k-images"):
        load_source(f"snli-ve:{folder}", options=SourceOptions())
    (folder / "flickr30k_images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="folder 'flickr30k_images' leaves the data folder"):
        load_source(f"snli-ve:{folder}", options=SourceOptions())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda film: b"", "is not JSON (Expecting value at column 1)"),
        (lambda film: film[:-9], "is not JSON (Expecting ',' delimiter at column 77)"),
        (
            lambda film: b'{"plot":\n["a"}',
            "is not JSON (Expecting ',' delimiter at line 2, column 5)",
        ),
        (lambda film: b"[" + film + b"]", "is a list, not a JSON object"),
        (lambda film: b"\xff" + film, "is not UTF-8 (byte 1)"),
        (nested, "is not JSON that can be read (nested too deeply)"),
        (lambda film: film[:-1] + b" " * (16 << 20) + b"}", "is longer than 16,777,216 bytes"),
        (lambda film: film.replace(b'"plot"', b'"story"'), "has no plot"),
        (
            lambda film: film.replace(b'"short", ', b"3, "),
            "an entry of plot is a number, not a string",
        ),
        (lambda film: b'{"plot": "a", "genres": ["War"]}', "plot is a string, not a list"),
        (lambda film: b'{"plot": [], "genres": ["War"]}', "plot is empty"),
        (
            lambda film: b'{"plot": ["\\ud800"], "genres": ["War"]}',
            "plot contains an unpaired surrogate",
        ),
        (lambda film: b'{"plot": ["a"], "genres": "War"}', "genres is a string, not a list"),
        (lambda film: b'{"plot": ["a"], "genres": []}', "genres is empty"),
        (
            lambda film: b'{"plot": ["a"], "genres": [["War"]]}',
            "an entry of genres is a list, not a string",
        ),
        (lambda film: b'{"plot": ["a"], "genres": ["Wra"]}', "unknown genre 'Wra'"),
        (lambda film: b'{"plot": ["a"]}', "has no genres"),
    ],
)
def test_a_films_file_that_cannot_be_used_is_named(
    write_published: WriteFolder, change: Callable[[bytes], bytes], reason: str
) -> None:
    folder = write_published("mm-imdb")
    file = folder / "dataset/0000100.json"
    file.write_bytes(change(file.read_bytes()))
    assert_named("mm-imdb", folder, "dataset/0000100.json:1", reason)


@NO_FILE_OF_THE_FOLDER
def test_a_film_without_its_file_is_named(
    write_published: WriteFolder, change: Change | None, reason: str
) -> None:
    folder = write_published("mm-imdb")
    (change or partial(link_out, folder))(folder / "dataset/0000100.json")
    reason = f"file 'dataset/0000100.json' {reason}"
    assert_named("mm-imdb", folder, "dataset/0000100.json:1", reason)


@pytest.mark.parametrize(
    ("film", "origin", "reason"),
    [
        (100, "split.json:train[11]", "id 100 is not a string of 7 digits"),
        (None, "split.json:train[11]", "id None is not a string of 7 digits"),
        ("100", "split.json:train[11]", "id '100' is not a string of 7 digits"),
        ("../../a", "split.json:train[11]", "id '../../a' is not a string of 7 digits"),
        ("00000\0", "split.json:train[11]", "id '00000\\x00' is not a string of 7 digits"),
        ("\ud800", "split.json:train[11]", "id '\\ud800' is not a string of 7 digits"),
        ("٠٠٠٠١٠٠", "split.json:train[11]", "id '٠٠٠٠١٠٠' is not a string of 7 digits"),
        ("0000100", "dataset/0000100.json:1", "repeats the id 100 of 0000100.json:1"),
        ("9999999", "dataset/9999999.json:1", "file 'dataset/9999999.json' is missing"),
    ],
)
def test_a_film_that_split_json_misnames_is_named(
    write_published: WriteFolder, film: object, origin: str, reason: str
) -> None:
    folder = write_published("mm-imdb")
    splits = json.loads((folder / "split.json").read_text())
    splits["train"][11] = film
    (folder / "split.json").write_text(json.dumps(splits))
    assert_named("mm-imdb", folder, origin, reason)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "{folder}: holds no train.jsonl"),
        (folder_instead, "{folder}: file 'split.json' is a folder"),
        (pipe_instead, "{folder}: file 'split.json' is not a regular file"),
        (None, "{folder}: file 'split.json' leaves the data folder"),
        (lambda path: path.write_text(""), "split.json: is not JSON"),
        (lambda path: path.write_text(path.read_text()[:-9]), "split.json: is not JSON"),
        (lambda path: path.write_text("[]"), "split.json: is a list, not a JSON object"),
        (lambda path: path.write_text('{"train": ["a"]}'), "split.json: has no films in dev"),
        (lambda path: path.write_text('{"train": []}'), "split.json: has no films in train"),
        (
            lambda path: path.write_text('{"train": "0000100"}'),
            "split.json: has a string instead of films in train",
        ),
        (lambda path: path.write_text('{"val": []}'), "split.json: unknown split 'val'"),
        (
            lambda path: path.write_text('{"train": ["a"], "dev": ["b"], "test": ["c"]}'),
            r"split.json: has no usable row: .*split.json:train\[0\]: id 'a' is not a string",
        ),
    ],
    ids=[
        "missing",
        "folder",
        "pipe",
        "link-out",
        "empty",
        "truncated",
        "list",
        "no-dev",
        "none",
        "string",
        "val",
        "misnamed",
    ],
)
def test_a_split_json_of_no_use_is_refused(
    write_published: WriteFolder, change: Change | None, message: str
) -> None:
    folder = write_published("mm-imdb")
    (change or partial(link_out, folder))(folder / "split.json")
    with pytest.raises(DataError, match=message.format(folder=folder)):
        load_source(f"mm-imdb:{folder}", options=SourceOptions())
