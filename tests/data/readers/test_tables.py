"""CSV, TSV, Parquet and JSON: what is written in a table is what is read from it."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.rows import ImageFiles, UnusableRowError
from msd_deploy.data.readers.spec import load_evaluation_source, load_source
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import ConfigError, DataError

Records = Sequence[Mapping[str, str | None]]

# What pandas, Arrow and spreadsheets take for missing, a number, a truth value or a date.
GUESSED = [
    *("NA", "N/A", "n/a", "#N/A", "NaN", "nan", "None", "null", "NULL", "<NA>", "-", "inf"),
    *("01", "1", "1.0", "1e3", "-0", "0x10", "1_000", "True", "false", "yes"),
    *("2020-01-01", "2020-01-01T00:00:00Z", "12:30:00"),
]


def write_csv(path: Path, records: Records, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)


def write_tsv(path: Path, records: Records) -> None:
    write_csv(path, records, "\t")


def write_parquet(path: Path, records: Records) -> None:
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)


def write_lines(path: Path, records: Records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_list(path: Path, records: Records) -> None:
    path.write_text(json.dumps(list(records), indent=1))


WRITERS: dict[str, Callable[[Path, Records], None]] = {
    "jsonl": write_lines,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}
HUB_WRITERS = {**WRITERS, "json": write_list}


def spec_of(folder: Path, suffix: str, records: Records, *, in_hub: bool) -> str:
    """Write a table; return the SPEC of the file, or of its folder as a Hugging Face dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    HUB_WRITERS[suffix](folder / f"train.{suffix}", records)
    return f"hub:{folder}" if in_hub else str(folder / f"train.{suffix}")


def load(spec: str, options: SourceOptions | None = None) -> SourceData:
    return load_source(spec, options=options or SourceOptions())


def labels_by_text(data: SourceData) -> dict[str, str | None]:
    return {
        row["text"]: None if row["label"] is None else data.info.labels[row["label"]]
        for split in data.dataset.values()
        for row in split
    }


FORMS = [(suffix, False) for suffix in WRITERS] + [(suffix, True) for suffix in HUB_WRITERS]


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_labels_and_texts_stay_as_they_are_written(
    tmp_path: Path, suffix: str, in_hub: bool
) -> None:
    records = [
        {"text": word, "label": label} for label in GUESSED for word in (label, f"x {label}")
    ]
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=in_hub))
    assert set(data.info.labels) == set(GUESSED)
    assert labels_by_text(data) == {record["text"]: record["label"] for record in records}


@pytest.mark.parametrize("words", [["01"], ["NA"], ["2020-01-01"], ["7"], ["1.5"], ["True"]])
@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_only_an_empty_cell_is_no_label(
    tmp_path: Path, suffix: str, in_hub: bool, words: list[str]
) -> None:
    """A column of one kind with a hole keeps its values."""
    labels = [*words, "2"]
    records: list[dict[str, str | None]] = [
        {"text": f"t {n}", "label": labels[n % 2]} for n in range(20)
    ]
    records.append({"text": "hole", "label": None})
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=in_hub))
    assert labels_by_text(data) == {record["text"]: record["label"] for record in records}
    assert data.info.skipped == ()


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_a_word_after_many_numbers_is_a_label(tmp_path: Path, suffix: str, in_hub: bool) -> None:
    records = [{"text": f"t {n}", "label": str(n % 2)} for n in range(10_050)]
    records += [{"text": f"w {n}", "label": "word"} for n in range(2)]
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=in_hub))
    assert data.info.labels == ("0", "1", "word")
    assert labels_by_text(data)["w 1"] == "word"


def test_integers_with_a_hole_or_a_word_in_json_lines_of_a_folder_are_labels(
    tmp_path: Path,
) -> None:
    (tmp_path / "d").mkdir()
    rows = [{"text": f"t {n}", "label": n % 2} for n in range(10_050)]
    rows += [{"text": "hole", "label": None}]
    rows += [{"text": f"w {n}", "label": "word"} for n in range(2)]
    (tmp_path / "d" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(f"hub:{tmp_path / 'd'}")
    assert data.info.labels == ("0", "1", "word")
    assert labels_by_text(data)["hole"] is None


def png(number: int) -> bytes:
    """An image that differs by number."""
    return encode_png(np.full((4, 4, 3), number, np.uint8))


def with_pictures(folder: Path, count: int = 40) -> list[dict[str, str | None]]:
    (folder / "p").mkdir(parents=True)
    for number in range(count):
        (folder / "p" / f"{number}.png").write_bytes(png(number))
    return [
        {"image": f"p/{n}.png" if n % 3 else None, "text": f"t {n}", "label": ["NA", "01"][n % 2]}
        for n in range(count)
    ]


def test_the_same_data_has_the_same_digest_in_every_form(
    tmp_path: Path, memes: tuple[PreparedData, Preprocessor]
) -> None:
    records = with_pictures(tmp_path / "images")
    digests = set()
    for suffix, in_hub in FORMS:
        folder = tmp_path / f"{suffix}-{in_hub}"
        folder.mkdir()
        (folder / "p").mkdir()
        for image in (tmp_path / "images" / "p").iterdir():
            (folder / "p" / image.name).write_bytes(image.read_bytes())
        if in_hub:  # beside images, only the table is one
            (folder / "README.md").write_text(
                f"---\nconfigs:\n- config_name: default\n  data_files: train.{suffix}\n---\n"
            )
        spec = spec_of(folder, suffix, records, in_hub=in_hub)
        digests.add(prepare(load(spec), memes[1], cache=tmp_path / "cache").digest)
    encoded = [{**r, "image": png(n) if r["image"] else None} for n, r in enumerate(records)]
    pq.write_table(pa.Table.from_pylist(encoded), tmp_path / "bytes.parquet")
    data = load(str(tmp_path / "bytes.parquet"))
    digests.add(prepare(data, memes[1], cache=tmp_path / "cache").digest)
    assert len(digests) == 1


def test_classes_of_a_folder_of_images_stay_as_its_metadata_has_them(tmp_path: Path) -> None:
    records = with_pictures(tmp_path / "d" / "train")
    for suffix, writer in (("csv", write_csv), ("jsonl", write_lines)):
        path = tmp_path / "d" / "train" / f"metadata.{suffix}"
        named = [
            {"file_name": f"p/{n}.png", "text": "2020-01-01", "label": record["label"]}
            for n, record in enumerate(records)
        ]
        writer(path, named)
        data = load(f"hub:{tmp_path / 'd'}")
        assert data.info.labels == ("01", "NA")
        assert set(data.dataset["train"]["text"]) == {"2020-01-01"}
        path.unlink()


def test_the_examples_of_the_documentation_are_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    lines, table, tabs, code = re.findall(r"^```(?:python)?\n(.*?)^```", page, re.M | re.S)[:4]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("0001.jpg", "0002.png")):
        (tmp_path / "photos" / name).write_bytes(png(number))
    for name, content in (("jsonl", lines), ("csv", table), ("tsv", tabs)):
        (tmp_path / f"products.{name}").write_text(content)
    exec(code, {})
    found = []
    for suffix in ("jsonl", "csv", "tsv", "parquet"):
        data = load_evaluation_source(
            f"products.{suffix}",
            options=SourceOptions(strict=True),
            split="all",
            labels=("furniture", "other", "shoes"),
        )
        found.append(data.dataset["test"].remove_columns("origin").to_list())
    assert len(found[0]) == 3
    assert all(rows == found[0] for rows in found)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_file_has_the_splits_that_its_column_states(tmp_path: Path, suffix: str) -> None:
    parts = ["train"] * 6 + ["val", "test", None, None]
    records = [
        {"text": f"t {n}", "label": "ab"[n % 2], "split": parts[n // 2 % 10]} for n in range(40)
    ]
    records.append({"text": "x", "label": "a", "split": "holdout"})
    spec = spec_of(tmp_path, suffix, records, in_hub=False)
    of_lines = spec_of(tmp_path, "jsonl", records, in_hub=False)
    found, expected = load(spec), load(of_lines)
    for split, rows in expected.dataset.items():
        assert found.dataset[split]["text"][:] == rows["text"][:]
    (skipped,) = found.info.skipped
    assert skipped.origin == f"{spec}:{40 if suffix == 'parquet' else 42}"
    assert skipped.reason == "unknown split 'holdout': use train, validation or test"
    data = load_evaluation_source(spec, options=SourceOptions(), split="test", labels=("a", "b"))
    assert list(data.dataset) == ["test"]


def test_columns_of_a_file_are_named_as_those_of_a_dataset(tmp_path: Path) -> None:
    records = [{"title": f"t {n}", "kind": "ab"[n % 2]} for n in range(20)]
    options = SourceOptions(text_column="title", label_column="kind")
    for suffix in ("csv", "tsv", "parquet"):
        spec = spec_of(tmp_path, suffix, records, in_hub=False)
        assert len(labels_by_text(load(spec, options))) == 20
        with pytest.raises(DataError, match=r"has no column label or labels: it has title"):
            load(spec)
    with pytest.raises(ConfigError, match="text_column does not apply"):
        load(spec_of(tmp_path, "jsonl", records, in_hub=False), options)


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path: Path) -> None:
    good = "".join(f'"t\n {n}",{"ab"[n % 2]}\n' for n in range(20))
    path = tmp_path / "rows.csv"
    path.write_text(f'text,label\n\n{good}x,c,d\ny\nz,"a\0"\n,a\n../up.png, \n')
    reasons = {row.origin: row.reason for row in load(str(path)).info.skipped}
    assert reasons == {
        f"{path}:43": "has 3 cells, and the header has 2",
        f"{path}:44": "has 1 cells, and the header has 2",
        f"{path}:45": "label contains a NUL character",
        f"{path}:46": "has neither image nor text",
        f"{path}:47": "label is empty",
    }


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["../out.png", "/etc/hostname", "link.png"])
def test_an_image_of_a_file_does_not_lie_outside_its_folder(
    tmp_path: Path, suffix: str, name: str
) -> None:
    (tmp_path / "out.png").write_bytes(png(1))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link.png").symlink_to(tmp_path / "out.png")
    records = [{"image": None, "text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)]
    records.append({"image": name, "text": "x", "label": "a"})
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=False))
    assert [row.reason for row in data.info.skipped] == [f"image {name!r} leaves the data folder"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("on_disk", "name", "hint"),
    [
        ("p/e\u0301.png", "p/\u00e9.png", "; its name on disk differs in Unicode form"),
        ("p/\u00e9.png", "p/e\u0301.png", "; its name on disk differs in Unicode form"),
        ("a\u030a/x.png", "\u00e5\\x.png", "; its name on disk differs in Unicode form"),
        ("p/x.JPG", "p/x.jpg", "; its name on disk differs in case: 'p/x.JPG'"),
        ("Photos/x.jpg", "photos\\x.jpg", "; its name on disk differs in case: 'Photos/x.jpg'"),
        ("P/E\u0301.png", "p/\u00e9.png", "; its name on disk differs in case: 'P/E\u0301.png'"),
        ("p/x.jpg", "p/y.jpg", ""),
        ("p/x.jpg", "q/x.jpg", ""),
    ],
)
def test_a_missing_image_is_reported_with_a_file_of_a_similar_name(
    tmp_path: Path, suffix: str, on_disk: str, name: str, hint: str
) -> None:
    (tmp_path / "d" / on_disk).parent.mkdir(parents=True)
    (tmp_path / "d" / on_disk).write_bytes(png(1))
    records = [{"image": None, "text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)]
    records.append({"image": name, "text": "x", "label": "a"})
    data = load(spec_of(tmp_path / "d", suffix, records, in_hub=False))
    assert [row.reason for row in data.info.skipped] == [f"image {name!r} is missing{hint}"]


def test_a_link_to_nothing_is_a_missing_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(UnusableRowError, match=r"image 'x\.png' is missing$"):
        ImageFiles(tmp_path).find("x.png")


def test_a_folder_is_listed_once_for_all_missing_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").mkdir()
    listed: list[Path] = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [listed.append(path), *iterdir(path)][1:])
    files = ImageFiles(tmp_path)
    for number in range(50):
        with pytest.raises(UnusableRowError, match=r"is missing$"):
            files.find(f"p/{number}.png")
    assert listed == [tmp_path / "p"]


def test_a_byte_order_mark_an_index_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = "".join(f"{n},t {n},{n % 2}\r\n" for n in range(20))
    path.write_bytes(b"\xef\xbb\xbf" + f",text,label\r\n{rows}".encode())
    data = load(str(path))
    assert len(labels_by_text(data)) == 20
    assert not any("not read" in note for note in data.info.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"rows\.csv: is empty\. Name the columns in its first line"),
        (
            b"text,label\n",
            r": has no rows",
        ),
        (b"red shoes,a\nblue,b\n", r"has no column label or labels: it has red shoes \(string\)"),
        (b"text,label,text\na,b,c\n", r"rows\.csv:1: names the column 'text' twice"),
        ("text,label\na,b\n\u00e9,b\n".encode("latin-1"), r"rows\.csv:3: is not UTF-8\. Save"),
        ("text,label\na,b\n".encode("utf-16"), r"rows\.csv:1: is UTF-16\. Save the file as UTF-8"),
        ("text,label\na,b\n".encode("utf-16-le"), r"rows\.csv:1: is UTF-16\. Save the file as"),
        ("text,label\na,b\n".encode("utf-16-be"), r"rows\.csv:1: is UTF-16\. Save the file as"),
        ("text\n".encode("utf-16-le"), r"rows\.csv:1: is UTF-16\. Save the file as UTF-8"),
        (b'text,label\na,b\n"c,d\ne,f\n', r"rows\.csv:3: is not CSV \(unexpected end of data\)"),
        (b'text,label\na,b\n"c"d,e\n', r"rows\.csv:3: is not CSV \(',' expected after '\"'\)"),
        (
            b"text,label\na,b\n" + b"c" * (1 << 21) + b",d\n",
            r"rows\.csv:3\)?: has a cell of more than 1,048,576 characters",
        ),
    ],
)
@pytest.mark.parametrize("in_hub", [False, True])
def test_a_damaged_csv_is_one_line_that_names_file_and_line(
    tmp_path: Path, content: bytes, message: str, in_hub: bool
) -> None:
    path = tmp_path / "d" / "rows.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(f"hub:{path.parent}" if in_hub else str(path))
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read .*\. Write it again"):
        load(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("values", [[True, False], [0.5, 1.5]], ids=["bool", "float"])
def test_a_column_of_parquet_that_holds_no_classes_is_named(
    tmp_path: Path, values: list[object]
) -> None:
    pq.write_table(
        pa.table({"text": [f"t {n}" for n in range(20)], "label": values * 10}),
        tmp_path / "rows.parquet",
    )
    expected = r"column 'label' is (bool|float64), not a class, a string or an integer"
    with pytest.raises(DataError, match=expected):
        load(str(tmp_path / "rows.parquet"))


def test_options_of_csv_in_a_card_are_followed_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "x.csv").write_text("text;label\n" + "".join(f"t {n};{n % 2}\n" for n in range(20)))
    card = "---\nconfigs:\n- config_name: default\n  data_files: x.csv\n  sep: ';'\n{}---\n"
    (folder / "README.md").write_text(card.format(""))
    assert load(f"hub:{folder}").info.labels == ("0", "1")
    (folder / "README.md").write_text(card.format("  skiprows: 1\n"))
    with pytest.raises(DataError, match="sets skiprows of CSV to 1, which is not supported"):
        load(f"hub:{folder}")


@pytest.mark.parametrize("name", ["set [v1]", "a*b", "what?", "[", "x]"])
def test_a_path_with_wildcards_names_one_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "d"
    records = with_pictures(folder / "train")
    write_csv(
        folder / "train" / "metadata.csv",
        [{"file_name": f"p/{n}.png", "label": r["label"]} for n, r in enumerate(records)],
    )
    for other in ("set v", "ab", "aXb", "whatX", "x"):  # what the name matches as a pattern
        (tmp_path / other / "d").mkdir(parents=True, exist_ok=True)
        (tmp_path / other / "d" / "other.csv").write_text("text,label\n")
    data = load(f"hub:{folder}")
    assert sum(len(rows) for rows in data.dataset.values()) == 40
    paths = [row["image_path"] for rows in data.dataset.values() for row in rows]
    assert all(Path(path).is_relative_to(folder) for path in paths)
    write_csv(
        tmp_path / name / "rows.csv", [{"text": r["text"], "label": r["label"]} for r in records]
    )
    assert len(labels_by_text(load(str(tmp_path / name / "rows.csv")))) == 40
    write_parquet(folder / "train" / "rows.parquet", records)
    of_parquet = load(str(folder / "train" / "rows.parquet"))
    assert sum(len(rows) for rows in of_parquet.dataset.values()) == 40


def test_images_of_bytes_whose_paths_are_all_missing_are_read(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": png(n), "path": None}, "text": f"t {n}", "label": "ab"[n % 2]}
        for n in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    data = load(str(tmp_path / "rows.parquet"))
    images = [row["image_sha256"] for split in data.dataset.values() for row in split]
    assert len(images) == 40
    assert all(images)


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("labels", ['["a", "b"]', "[]", "['a' 'b']", "[a, b]", "[1.0 2.0]"])
def test_a_list_that_is_written_as_text_is_not_a_class(
    tmp_path: Path, labels: str, key: str
) -> None:
    records = [{"text": f"t {n}", key: "ab"[n % 2]} for n in range(40)]
    write_csv(tmp_path / "rows.csv", [*records, {"text": "last", key: labels}])
    data = load(str(tmp_path / "rows.csv"))
    assert data.info.labels == ("a", "b")
    assert f"rows.csv:42: {key} is a list written as text" in str(data.info.skipped[0])


def test_a_class_may_be_called_by_a_word_in_brackets(tmp_path: Path) -> None:
    names = ("[unknown]", "[a b]")
    records = [{"text": f"t {n}", "label": names[n % 2]} for n in range(40)]
    write_csv(tmp_path / "rows.csv", records)
    assert load(str(tmp_path / "rows.csv")).info.labels == ("[a b]", "[unknown]")


@pytest.mark.parametrize("last", [9, 13])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_rows_between_two_quotation_marks_of_texts_are_not_lost_silently(
    tmp_path: Path, separator: str, last: int
) -> None:
    texts = {8: '"new: a mug', last: 'monitor 27"'}
    rows = [(texts.get(n, f"t {n}"), "ab"[n % 2], f"r{n}") for n in range(40)]
    lines = [separator.join(row) for row in (("text", "label", "id"), *rows)]
    path = tmp_path / f"rows.{'csv' if separator == ',' else 'tsv'}"
    path.write_text("".join(f"{line}\n" for line in lines))
    (skipped,) = load(str(path)).info.skipped
    assert skipped.origin == f"{path}:10"
    assert skipped.reason.startswith(f"has {last - 7} lines that are rows: a text begins with")
    with pytest.raises(DataError, match=r":10: has \d lines that are rows"):
        load(str(path), SourceOptions(strict=True))


def test_a_text_of_several_lines_with_separators_is_read(tmp_path: Path) -> None:
    texts = [f"Hello, you {n}\nbye, all" for n in range(40)]
    write_csv(tmp_path / "a.csv", [{"text": t, "label": "ab"[n % 2]} for n, t in enumerate(texts)])
    data = load(str(tmp_path / "a.csv"))
    assert data.info.skipped == ()
    assert {text for rows in data.dataset.values() for text in rows["text"]} == set(texts)


UNKNOWN = [
    pa.map_(pa.string(), pa.int32()),
    pa.uuid(),
    pa.list_(pa.uuid()),
    pa.struct([("a", pa.map_(pa.string(), pa.string()))]),
    pa.decimal32(5, 2),
]


def parquet_with(folder: Path, name: str, column: pa.Array, *, in_hub: bool) -> str:
    folder.mkdir()
    columns = {"text": [f"t {n}" for n in range(20)], "label": ["a", "b"] * 10, name: column}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return f"hub:{folder}" if in_hub else str(folder / "train.parquet")


@pytest.mark.parametrize("in_hub", [False, True])
@pytest.mark.parametrize("kind", UNKNOWN, ids=str)
def test_a_column_that_is_not_read_may_have_any_type(
    tmp_path: Path, kind: pa.DataType, in_hub: bool
) -> None:
    with_value = pa.nulls(20, kind)
    if kind == UNKNOWN[0]:
        with_value = pa.array([[("k", 1)]] * 12 + [None] * 8, kind)
    spec = parquet_with(tmp_path / "d", "more", with_value, in_hub=in_hub)
    for _ in range(2):  # read, and from the cache
        data = load(spec)
        assert sum(len(rows) for rows in data.dataset.values()) == 20
        noted = "not read: 'more' (12 rows)" in data.info.notes
        assert noted == (kind == UNKNOWN[0])
    refused = parquet_with(tmp_path / "e", "labels", with_value, in_hub=in_hub)
    with pytest.raises(DataError, match=r"'labels' is .*, not a class") as caught:
        load(refused, SourceOptions(label_column="labels"))
    assert f"labels ({str(kind).partition('<')[0]}" in str(caught.value)


@pytest.mark.parametrize("in_hub", [False, True])
def test_views_and_lists_of_fixed_length_are_strings_bytes_and_lists(
    tmp_path: Path, in_hub: bool
) -> None:
    images = [png(n) for n in range(20)]
    columns = {
        "image": pa.array(images, pa.binary_view()),
        "text": pa.array([f"t {n}" for n in range(20)], pa.string_view()),
        "label": pa.array([["a", "c"], ["b", "c"]] * 10, pa.list_(pa.string_view(), 2)),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    plain = {
        "image": pa.array(images),
        "text": columns["text"].cast(pa.string()),
        "label": pa.array([["a", "c"], ["b", "c"]] * 10),
    }
    pq.write_table(pa.table(plain), tmp_path / "b.parquet")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.parquet").rename(tmp_path / name / "train.parquet")
    found, expected = (
        load(f"hub:{tmp_path / name}" if in_hub else str(tmp_path / name / "train.parquet"))
        for name in "ab"
    )
    assert found.info.labels == ("a", "b", "c")
    for split, rows in expected.dataset.items():
        assert (
            found.dataset[split].remove_columns("origin")[:] == (rows.remove_columns("origin")[:])
        )


def test_a_column_that_parquet_names_twice_is_named(tmp_path: Path) -> None:
    texts, labels = [f"t {n}" for n in range(20)], ["a", "b"] * 10
    table = pa.table([texts, labels, labels], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: names the column 'label' twice\. Rename"):
        load(str(tmp_path / "a.parquet"))


def test_a_nul_in_the_name_of_a_column_of_parquet_is_named(tmp_path: Path) -> None:
    columns = {"text": [f"t {n}" for n in range(20)], "label": ["a", "b"] * 10, "\0x": [1] * 20}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has a NUL character in the name of a column"):
        load(str(tmp_path / "a.parquet"))


def test_of_a_damaged_file_nothing_but_our_error_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in (("a.parquet", b"PAR1 nothing"), ("a.jsonl", b"a\n")):
        folder = tmp_path / name[2:]
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError):
            load(f"hub:{folder}")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "separator", "message"),
    [
        ("csv", ";", "has semicolons between columns, not commas. Save it with commas."),
        ("csv", "\t", "has tabs between columns, not commas. Save it with commas, or rename it"),
        ("csv", "|", "has vertical bars between columns, not commas. Save it with commas."),
        ("tsv", ",", "has commas between columns, not tabs. Save it with tabs, or rename it"),
        ("tsv", ";", "has semicolons between columns, not tabs. Save it with tabs."),
    ],
)
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("in_hub", [False, True])
def test_a_wrong_separator_is_named_with_the_way_out(
    tmp_path: Path, name: str, separator: str, message: str, quote: str, in_hub: bool
) -> None:
    path = tmp_path / "d" / f"rows.{name}"
    path.parent.mkdir()
    row = f"{quote}{{}}{quote}{separator}{quote}{{}}{quote}\n".format
    path.write_text(row("text", "label") + row("t", "a") * 20)
    with pytest.raises(DataError, match=re.escape(f"rows.{name}:1: {message}")):
        load(f"hub:{path.parent}" if in_hub else str(path))


@pytest.mark.parametrize(
    "first",
    ["sep={}", "\ufeffsep={}\r", '"sep={}"', "SEP={}", "sep={0}{0}", '"sep={0}"{0}', "sep={} "],
)
@pytest.mark.parametrize("separator", [*",;|\t"])
@pytest.mark.parametrize("in_hub", [False, True])
def test_the_first_line_of_excel_states_the_separator(
    tmp_path: Path, separator: str, first: str, in_hub: bool
) -> None:
    path = tmp_path / "rows.csv"
    rows = [f"t {n}{separator}{n % 2}" for n in range(20)]
    lines = [first.format(separator), f"text{separator}label", *rows, "too few"]
    path.write_text("".join(f"{line}\n" for line in lines))
    data = load(f"hub:{tmp_path}" if in_hub else str(path))
    assert labels_by_text(data) == {f"t {n}": str(n % 2) for n in range(20)}
    assert "rows.csv:23" in str(data.info.skipped[0])


@pytest.mark.parametrize("separator", [*",;|\t"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_after_a_stated_separator_quoted_cells_hold_any_other(
    tmp_path: Path, separator: str, suffix: str
) -> None:
    """Also cells of several lines each of which would be a row with another separator."""
    path = tmp_path / f"rows.{suffix}"
    texts = [f"a, b; c| {n}" for n in range(20)] + [
        f"{n},a\n{n},b\n{n};a\n{n};b" for n in range(20)
    ]
    with path.open("w", newline="") as file:
        file.write(f"sep={separator}\r\n")
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "label"])
        writer.writerows([text, "ab"[n % 2]] for n, text in enumerate(texts))
    data = load(str(path))
    assert labels_by_text(data) == {text: "ab"[n % 2] for n, text in enumerate(texts)}
    assert data.info.skipped == ()


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_separator_that_is_stated_and_not_used_is_named(tmp_path: Path, quote: str) -> None:
    path = tmp_path / "rows.csv"
    row = f"{quote}{{}}{quote};{quote}{{}}{quote}\n".format
    path.write_text("sep=|\n" + row("text", "label") + row("t", "a") * 20)
    said = "rows.csv:2: has semicolons between columns, not vertical bars. Save it with vertical"
    with pytest.raises(DataError, match=said):
        load(str(path))


def test_a_cell_above_the_limit_is_a_row_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = "".join(f"t {n},{n % 2}\n" for n in range(20))
    path.write_text(f"text,label\n{'x' * (1 << 21)},a\n{rows}")
    (skipped,) = load(str(path)).info.skipped
    assert str(skipped) == f"{path}:2: has a cell of more than 1,048,576 characters"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8"])
def test_a_byte_order_mark_is_no_part_of_a_column_whatever_the_card_says(
    tmp_path: Path, encoding: str
) -> None:
    rows = "".join(f"t {n},{n % 2}\n" for n in range(20))
    (tmp_path / "x.csv").write_bytes(f"\ufefftext,label\n{rows}".encode())
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: x.csv\n  encoding: {encoding}\n---\n"
    )
    assert load(f"hub:{tmp_path}").info.labels == ("0", "1")
