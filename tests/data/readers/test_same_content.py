"""Equal content is the same data in every format: one rule for each odd value, one reason."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import DataError

Record = Mapping[str, str | None]
KEYS = ("image", "text", "label", "split")
FORMS = [
    *(("jsonl", False), ("csv", False), ("tsv", False), ("parquet", False)),
    *(("jsonl", True), ("json", True), ("csv", True), ("tsv", True), ("parquet", True)),
]


def text_of(value: str | None) -> str | None:
    return value and value.removeprefix("#")


def json_of(record: Record) -> str:
    """A record as JSON; "#5" is the number 5."""
    return re.sub(r'"#(-?[0-9]+)"', r"\1", json.dumps(record))


def write(folder: Path, suffix: str, records: Sequence[Record], *, in_hub: bool) -> str:
    """Write 20 images and records; return the SPEC."""
    (folder / "p").mkdir(parents=True)
    for number in range(20):
        image = np.full((4, 4, 3), number, np.uint8)
        (folder / "p" / f"{number}.png").write_bytes(encode_png(image))
    path = folder / f"train.{suffix}"
    here = [
        {key: value and value.replace("HERE", str(folder)) for key, value in record.items()}
        for record in records
    ]
    names = list(dict.fromkeys(name for record in here for name in record))
    if suffix == "jsonl":
        path.write_text("".join(f"{json_of(record)}\n" for record in here))
    elif suffix == "json":
        path.write_text(f"[{','.join(map(json_of, here))}]")
    elif suffix == "parquet":
        columns = {name: [text_of(record.get(name)) for record in here] for name in names}
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if suffix == "csv" else "\t")
            writer.writerow(names)
            writer.writerows([text_of(record.get(name)) for name in names] for record in here)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: train.{suffix}\n---\n"
    )
    return f"hub:{folder}" if in_hub else str(path)


def load(spec: str) -> SourceData:
    return load_source(spec, options=SourceOptions())


def rows_of(data: SourceData) -> Counter[tuple[str, str | None, str | None]]:
    return Counter(
        (
            row["image_sha256"],
            row["text"],
            None if row["label"] is None else data.info.labels[row["label"]],
        )
        for split in data.dataset.values()
        for row in split
    )


GOOD: list[Record] = [
    {"image": f"p/{n}.png", "text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)
]
READ: dict[str, Record] = {
    "a number as text": {"text": "#5", "label": "a"},
    "a large number as text": {"text": "#" + "9" * 30, "label": "a"},
    "minus nought": {"text": "u", "label": "#-0"},
    "minus nought again": {"text": "v", "label": "#-0"},
    "a number and a word": {"text": "w", "label": "#7"},
    "the same as a string": {"text": "x", "label": "7"},
    "an empty label": {"text": "y", "label": ""},
    "an empty image": {"image": "", "text": "z", "label": "a"},
    "a path from the root": {"image": "HERE/p/1.png", "text": "k", "label": "b"},
    "a path that returns": {"image": "p/../p/2.png", "text": "l", "label": "b"},
    "a path that leaves and returns": {"image": "../d/p/3.png", "text": "m", "label": "b"},
}
REFUSED: dict[str, Record] = {
    "text contains a NUL character": {"text": "a\0b", "label": "a"},
    "label contains a NUL character": {"text": "c", "label": "a\0"},
    "image contains a NUL character": {"image": "p/\0.png", "text": "d", "label": "a"},
    "label is empty": {"text": "e", "label": " "},
    "image '../out.png' leaves the data folder": {"image": "../out.png", "label": "a"},
    "image 'HTTP://a.org/1.png' is a URL, not a file of the data folder": {
        "image": "HTTP://a.org/1.png",
        "label": "a",
    },
}


def test_odd_values_are_read_or_refused_alike_in_every_form(
    tmp_path: Path, memes: tuple[PreparedData, Preprocessor]
) -> None:
    records = [*GOOD, *READ.values(), *REFUSED.values()]
    found = {}
    for suffix, in_hub in FORMS:
        folder = tmp_path / f"{suffix}-{in_hub}" / "d"
        data = load(write(folder, suffix, records, in_hub=in_hub))
        prepared = prepare(data, memes[1], cache=tmp_path / "cache")
        reasons = tuple(row.reason for row in data.info.skipped)
        found[suffix, in_hub] = (rows_of(data), data.info.labels, reasons, prepared.digest)
    rows, labels, reasons, _ = found["jsonl", False]
    assert reasons == tuple(REFUSED)
    assert labels == ("-0", "7", "a", "b")
    assert rows.total() == len(GOOD) + len(READ)
    assert {text for _, text, label in rows if label is None} == {"y"}
    assert all(form == found["jsonl", False] for form in found.values())


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_the_name_of_a_split_may_have_another_case_and_blanks(
    tmp_path: Path, suffix: str, in_hub: bool
) -> None:
    names = ["train", "Train", " TEST", "Validation ", "", None]
    records = [{**record, "split": names[n % 6]} for n, record in enumerate(GOOD)]
    data = load(write(tmp_path / "d", suffix, records, in_hub=in_hub))
    assert data.info.skipped == ()
    assert {"t 0", "t 1", "t 6", "t 7"} <= set(data.dataset["train"]["text"])
    assert {"t 2", "t 8"} <= set(data.dataset["test"]["text"])
    assert {"t 3", "t 9"} <= set(data.dataset["validation"]["text"])


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_a_key_in_another_case_is_read_with_a_note(
    tmp_path: Path, suffix: str, in_hub: bool
) -> None:
    names = {"image": "File_Name", "text": " Text", "label": "LABEL"}
    records = [{names[key]: value for key, value in record.items()} for record in GOOD]
    records = [{**record, "note": "x"} for record in records]
    data = load(write(tmp_path / "d", suffix, records, in_hub=in_hub))
    usual = load(write(tmp_path / "e", suffix, GOOD, in_hub=in_hub))
    assert rows_of(data) == rows_of(usual)
    for note in (
        "'File_Name' is read as file_name",
        "' Text' is read as text",
        "'LABEL' is read as label",
        "'file_name' is read as image, which no row has",
        "not read: 'note' (20 rows)",
    ):
        assert note in data.info.notes


def test_a_key_beside_the_usual_one_is_not_read(tmp_path: Path) -> None:
    records = [{**record, "Text": "x"} for record in GOOD]
    for suffix in ("jsonl", "csv"):
        data = load(write(tmp_path / suffix, suffix, records, in_hub=False))
        assert "not read: 'Text' (20 rows)" in data.info.notes
        assert set(data.dataset["train"]["text"]) <= {record["text"] for record in GOOD}


IN_FOLDERS = sorted({suffix for suffix, in_hub in FORMS if in_hub})


@pytest.mark.parametrize("suffix", IN_FOLDERS)
@pytest.mark.parametrize("second", ["b", "test"])  # of one split, and of another
@pytest.mark.parametrize(
    ("one", "other"),
    [("label", "Label"), ("LABEL", "label "), ("Text", "text"), ("Image", "IMAGE")],
)
def test_files_whose_columns_differ_by_case_are_refused_with_both_names(
    tmp_path: Path, suffix: str, one: str, other: str, second: str
) -> None:
    usual = one.strip().lower()
    for place, name in (("a", one), (second, other)):
        renamed = [{name if key == usual else key: row[key] for key in row} for row in GOOD]
        path = Path(write(tmp_path / place, suffix, renamed, in_hub=False))
        path.with_name("README.md").unlink()
        path.rename(tmp_path / "a" / f"{'train-a' if place == 'a' else place}.{suffix}")
    if second == "b":
        (tmp_path / "a" / f"b.{suffix}").rename(tmp_path / "a" / f"train-b.{suffix}")
    with pytest.raises(DataError) as caught:
        load(f"hub:{tmp_path / 'a'}")
    message = str(caught.value)
    for part in (repr(one), repr(other), f"train-a.{suffix}", f"{second}.{suffix}"):
        assert part in message
    assert message.endswith(". Write the name in one way.")


def test_rows_of_a_folder_whose_keys_differ_by_case_are_refused_with_both_lines(
    tmp_path: Path,
) -> None:
    records = [*GOOD, {"text": "t", "Label": "a"}]
    folder = Path(write(tmp_path / "d", "jsonl", records, in_hub=False)).parent
    with pytest.raises(DataError, match=r"has '(L|l)abel', which is '(L|l)abel' in ") as caught:
        load(f"hub:{folder}")
    assert "train.jsonl:1" in str(caught.value)
    assert "train.jsonl:21" in str(caught.value)


def test_a_column_that_a_card_declares_in_another_case_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", "csv", GOOD, in_hub=True)
    with (tmp_path / "d" / "README.md").open("a") as card:
        names = ("image", "text", "Label")
        features = "".join(f"  - name: {name}\n    dtype: string\n" for name in names)
        card.write(f"---\ndataset_info:\n  features:\n{features}---\n")
    card_text = (tmp_path / "d" / "README.md").read_text().replace("---\n---\n", "")
    (tmp_path / "d" / "README.md").write_text(card_text)
    with pytest.raises(
        DataError, match=r"train\.csv: has 'label', which is 'Label' in the dataset's card\. "
    ):
        load(f"hub:{tmp_path / 'd'}")


WRONG = {
    "text is a number, not a string": {"text": 2.5, "label": "a"},
    "text is a boolean, not a string": {"text": True, "label": "a"},
    "text is an object, not a string": {"text": {"a": [1]}, "label": "a"},
    "label is a boolean, not a string or integer": {"text": "b", "label": False},
    "label is a list, not a string or integer": {"text": "b", "label": ["a"]},
    "label is a number, not a string or integer": {"text": "b", "label": 1.0},
    "text contains an unpaired surrogate": {"text": "\ud800", "label": "a"},
    "image is a list, not a string": {"image": ["p/1.png"], "text": "b", "label": "a"},
}


LABELS: dict[str, Sequence[object]] = {
    "single_label": ["a", "b", 3, "", None],
    "multi_label": [["a"], ["a", "b"], [], ["b", 3], "", None],
}


def in_arrow(label: object) -> object:
    """A label of one type: strings, or lists of them."""
    if isinstance(label, list):
        return [str(name) for name in label]
    return None if label in (None, "") else str(label)


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("problem", LABELS)
def test_whether_labels_are_lists_decides_the_problem_in_every_form(
    tmp_path: Path, problem: str, key: str, memes: tuple[PreparedData, Preprocessor]
) -> None:
    kinds = LABELS[problem]
    texts, labels = zip(*((f"t {n}", kinds[n % len(kinds)]) for n in range(40)), strict=True)
    rows = [{"text": text, key: label} for text, label in zip(texts, labels, strict=True)]
    found = []
    for suffix in ("jsonl", "json", "parquet", *(("csv",) if problem == "single_label" else ())):
        path = tmp_path / suffix / f"rows.{suffix}"
        path.parent.mkdir()
        if suffix == "parquet":
            pq.write_table(pa.table({"text": texts, key: list(map(in_arrow, labels))}), path)
        elif suffix == "csv":
            with path.open("w") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            path.write_text(text if suffix == "jsonl" else json.dumps(rows))
        for spec in (f"hub:{path.parent}", *([str(path)] if suffix != "json" else [])):
            data = load(spec)
            assert (data.info.problem, data.info.skipped) == (problem, ())
            found.append(prepare(data, memes[1], cache=tmp_path / "cache").digest)
    assert len(set(found)) == 1


@pytest.mark.parametrize("in_hub", [False, True])
@pytest.mark.parametrize(
    ("key", "problem", "reason"),
    [
        ("label", "single_label", "label is a list, not a string or integer"),
        ("labels", "multi_label", "labels is a string, not a list"),
    ],
)
def test_where_some_labels_are_lists_the_key_decides(
    tmp_path: Path, key: str, problem: str, reason: str, in_hub: bool
) -> None:
    rows = [{"text": f"t {n}", key: ("a", ["b"], "c", ["d"])[n % 4]} for n in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = load(f"hub:{tmp_path}" if in_hub else str(path))
    assert data.info.problem == problem
    assert [row.reason for row in data.info.skipped] == [reason] * 20


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("in_hub", [False, True])
def test_a_wrong_type_in_json_is_a_matter_of_its_row(
    tmp_path: Path, in_hub: bool, late: bool
) -> None:
    """Whether it is among the first rows or after ten thousand of another type."""
    good = [{**GOOD[n % 20], "text": f"t {n}"} for n in range(10_010 if late else 30)]
    records: list[object] = [*good, *WRONG.values()]
    write(tmp_path / "d", "jsonl", [], in_hub=True)
    path = tmp_path / "d" / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = load(f"hub:{tmp_path / 'd'}" if in_hub else str(path))
    assert [row.reason for row in data.info.skipped] == list(WRONG)
    line = f"{path}:{len(good) + 1}"
    place = f"hub:{path.parent} train:{len(good)} (train.jsonl:{len(good) + 1})"
    assert data.info.skipped[0].origin == (place if in_hub else line)
    assert rows_of(data).total() == len(good)


BROKEN = {
    "jsonl": [
        ('{"text": "a" "label": "b"}', "is not JSON (Expecting ',' delimiter at column 14)"),
        ("{", "is not JSON (Expecting property name enclosed in double quotes at column 2)"),
        ("[1]", "is a list, not a JSON object"),
        ('{"text": NaN, "label": "a"}', "is not JSON (NaN is not a JSON value)"),
        ('{"text": "t", "label": "a", "label": "b"}', "has the key 'label' twice"),
        ('{"text": "' + "x" * (1 << 20) + '"}', "is longer than 1,048,576 bytes"),
        ("\udcff", "is not UTF-8 (byte 1)"),
    ],
    "csv": [
        ("a", "has 1 cells, and the header has 3"),
        ("a,b,c,d", "has 4 cells, and the header has 3"),
        ("x" * (1 << 21) + ",,a", "has a cell of more than 1,048,576 characters"),
    ],
}


@pytest.mark.parametrize("at", [0, 1, 20])
@pytest.mark.parametrize(
    ("suffix", "broken"), [(suffix, broken) for suffix, kinds in BROKEN.items() for broken in kinds]
)
def test_a_broken_line_costs_its_row_alone_in_every_form(
    tmp_path: Path, suffix: str, broken: tuple[str, str], at: int
) -> None:
    """In a file, in a file of a folder, and in the metadata of a folder of images."""
    line, reason = broken
    found = []
    for form in ("file", "folder", "metadata"):
        spec = write(tmp_path / form, suffix, GOOD, in_hub=form != "file")
        name, header = f"train.{suffix}", suffix == "csv"
        lines = (tmp_path / form / name).read_text().splitlines()
        lines.insert(at + header, line)
        if form == "metadata":
            (tmp_path / form / "README.md").unlink()
            (tmp_path / form / name).unlink()
            name, lines = f"metadata.{suffix}", [x.replace("image", "file_name", 1) for x in lines]
        text = "".join(f"{one}\n" for one in lines)
        (tmp_path / form / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        data = load(spec)
        (skipped,) = data.info.skipped
        assert skipped.reason == reason
        of_folder = f"{spec} train:{at} ({name}:{at + 1 + header})"
        assert skipped.origin == (of_folder if form != "file" else f"{spec}:{at + 1 + header}")
        found.append(rows_of(data))
    assert found == [rows_of(load(write(tmp_path / "good", suffix, GOOD, in_hub=False)))] * 3


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_image_that_metadata_names_and_is_missing_is_shown_as_written(
    tmp_path: Path, suffix: str
) -> None:
    records = [*GOOD, {"image": "p/gone.png", "label": "a"}]
    path = Path(write(tmp_path / "d", suffix, records, in_hub=False))
    content = path.read_text().replace("image", "file_name")
    path.with_name(f"metadata.{suffix}").write_text(content)
    path.unlink()
    path.with_name("README.md").unlink()
    (skipped,) = load(f"hub:{path.parent}").info.skipped
    place = f"hub:{path.parent} train:20 (metadata.{suffix}:{21 + (suffix == 'csv')})"
    assert str(skipped) == f"{place}: image 'p/gone.png' is missing"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_column_that_some_rows_or_splits_lack_is_read(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "d"
    late = [{"text": f"l {n}", "label": "b", "image": f"p/{n}.png", "new": "x"} for n in range(9)]
    early = [{"text": f"e {n}", "label": "a"} for n in range(10_005)]
    write(folder, suffix, [*early, *late], in_hub=True)
    write(tmp_path / "other", suffix, [{**row, "of test": "y"} for row in late], in_hub=True)
    (tmp_path / "other" / f"train.{suffix}").rename(folder / f"test.{suffix}")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        f"    path: train.{suffix}\n  - split: test\n    path: test.{suffix}\n---\n"
    )
    data = load(f"hub:{folder}")
    images = [row["image_sha256"] for split in data.dataset.values() for row in split]
    assert len(images) - images.count("") == 18
    assert "not read: 'new' (18 rows), 'of test' (9 rows)" in data.info.notes


@pytest.mark.parametrize(("suffix", "in_hub"), FORMS)
def test_a_file_without_rows_is_one_line_that_names_it(
    tmp_path: Path, suffix: str, in_hub: bool
) -> None:
    spec = write(tmp_path / "d", suffix, [], in_hub=in_hub)
    if suffix in ("csv", "tsv"):
        separator = "," if suffix == "csv" else "\t"
        (tmp_path / "d" / f"train.{suffix}").write_text(separator.join(KEYS) + "\n")
    with pytest.raises(DataError, match=r"/d/train\.\w+: has no rows\. ") as caught:
        load(spec)
    assert "\n" not in str(caught.value)
