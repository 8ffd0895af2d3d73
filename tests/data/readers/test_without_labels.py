"""Data without labelled training rows, from every kind of file: a teacher's classes, and notes."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SPLITS, DatasetInfo, SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import DataError
from msd_deploy.problem import Problem

Rows = list[dict[str, str | None]]
TEACHER = DatasetInfo(("cat", "dog", "fish"), "single_label")
OPTIONS = SourceOptions(teacher=TEACHER, strict=True)


def jsonl(folder: Path, rows: Rows) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table_csv(folder: Path, rows: Rows) -> str:
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def table_parquet(folder: Path, rows: Rows) -> str:
    path = folder / "rows.parquet"
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return str(path)


def hub_folder(folder: Path, rows: Rows) -> str:
    (folder / "hub").mkdir()
    return f"hub:{Path(table_parquet(folder / 'hub', rows)).parent}"


FORMS = [jsonl, table_csv, table_parquet, hub_folder]
each_form = pytest.mark.parametrize("form", FORMS)


def unlabelled(count: int, **more: str | None) -> Rows:
    return [{"text": f"text {number}", **more} for number in range(count)]


def labels_of(data: SourceData, split: str) -> list[int | None]:
    return list(data.dataset[split]["label"])


@each_form
def test_rows_without_any_label_take_the_classes_of_the_teacher(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    data = load_source(form(tmp_path, unlabelled(60)), options=OPTIONS)
    assert (data.info.labels, data.info.problem) == (TEACHER.labels, "single_label")
    assert {name: len(data.dataset[name]) for name in SPLITS} == {
        "train": 48,
        "validation": 6,
        "test": 6,
    }
    assert all(set(labels_of(data, name)) == {None} for name in SPLITS)
    texts = [text for name in SPLITS for text in data.dataset[name]["text"]]
    assert sorted(texts) == sorted(f"text {number}" for number in range(60))
    assert [note.partition(":")[0] for note in data.info.notes if "has a label" in note] == [
        "no training row has a label",
        "no validation row has a label",
        "no test row has a label",
    ]


@each_form
def test_labels_of_test_rows_alone_are_kept_and_never_trained_on(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    rows = unlabelled(40, label=None, split=None)
    # One row of each class: such a class is not taken for a slip, since the teacher names it.
    tested: Rows = [
        {"text": f"seen {name}", "label": name, "split": "test"} for name in ("dog", "fish")
    ]
    # What a test row shows is not trained on.
    rows.append({"text": "seen dog", "label": None, "split": None})
    data = load_source(form(tmp_path, rows + tested), options=OPTIONS)
    assert data.info.labels == TEACHER.labels
    assert sorted(data.dataset["test"]["text"]) == ["seen dog", "seen fish"]
    assert sorted(map(int, filter(None, labels_of(data, "test")))) == [1, 2]
    assert set(labels_of(data, "train")) == set(labels_of(data, "validation")) == {None}
    assert len(data.dataset["train"]) + len(data.dataset["validation"]) == 40
    notes = " ".join(data.info.notes)
    assert "no validation row has a label: models are not scored" in notes
    assert "no test row has a label" not in notes


@each_form
@pytest.mark.parametrize("problem", ["single_label", "multi_label", "soft_label"])
def test_the_problem_is_the_teachers_where_no_label_tells_it(
    tmp_path: Path, form: Callable[[Path, Rows], str], problem: Problem
) -> None:
    options = replace(OPTIONS, teacher=replace(TEACHER, problem=problem))
    assert load_source(form(tmp_path, unlabelled(30)), options=options).info.problem == problem


@each_form
def test_named_classes_go_before_the_teachers(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    options = replace(OPTIONS, labels=("b", "a"), teacher=DatasetInfo((), "single_label"))
    data = load_source(form(tmp_path, unlabelled(30)), options=options)
    assert data.info.labels == ("b", "a")


@each_form
def test_classes_that_nobody_names_are_refused(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    options = replace(OPTIONS, teacher=DatasetInfo((), "single_label"))
    with pytest.raises(DataError, match=r"has no label, and no classes are named.*--labels"):
        load_source(form(tmp_path, unlabelled(30)), options=options)


@each_form
@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ({}, r"has no labelled row|has no column label"),
        ({"test": "dog"}, "has no labelled training row"),
        ({"train": "dog"}, "has a single class 'dog'"),
    ],
)
def test_without_a_teacher_training_labels_are_required(
    tmp_path: Path, form: Callable[[Path, Rows], str], labels: dict[str, str], what: str
) -> None:
    rows = unlabelled(30, label=None, split=None)
    for split, name in labels.items():
        rows += [{"text": f"{name} {n}", "label": name, "split": split} for n in range(4)]
    spec = form(tmp_path, rows)
    with pytest.raises(DataError, match=what) as caught:
        load_source(spec, options=SourceOptions())
    assert "single class" in what or "--teacher" in str(caught.value)
    assert load_source(spec, options=replace(OPTIONS, labels=TEACHER.labels)).info.labels


@each_form
def test_labelled_training_rows_keep_the_data_as_it_is_without_a_teacher(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    rows: Rows = [{"text": f"text {n}", "label": ("cat", "dog")[n % 2]} for n in range(40)]
    rows += [{"text": f"more {n}", "label": None} for n in range(10)]
    spec = form(tmp_path, rows)
    alone, taught = (load_source(spec, options=o) for o in (SourceOptions(), OPTIONS))
    assert taught.info == alone.info
    assert {name: split.to_list() for name, split in taught.dataset.items()} == {
        name: split.to_list() for name, split in alone.dataset.items()
    }


@pytest.mark.parametrize("place", ["", "train"])
def test_a_folder_of_images_needs_no_classes_with_a_teacher(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    for number in range(30):
        image = encode_png(np.full((4, 4, 3), number, np.uint8))
        (tmp_path / place / f"{number}.png").write_bytes(image)
    spec = f"hub:{tmp_path}"
    with pytest.raises(DataError, match=r"has no classes|no column label"):
        load_source(spec, options=SourceOptions())
    data = load_source(spec, options=OPTIONS)
    assert data.info.labels == TEACHER.labels
    assert sum(len(data.dataset[name]) for name in SPLITS) == 30


@each_form
def test_unlabelled_rows_keep_the_split_that_they_state(
    tmp_path: Path, form: Callable[[Path, Rows], str]
) -> None:
    rows = unlabelled(20, split="train") + [
        {"text": f"{split} {number}", "split": split}
        for split in ("validation", "test")
        for number in range(4)
    ]
    # A row without a split follows one of its text.
    rows.append({"text": "test 0", "split": None})
    data = load_source(form(tmp_path, rows), options=OPTIONS)
    assert {name: len(data.dataset[name]) for name in SPLITS} == {
        "train": 20,
        "validation": 4,
        "test": 5,
    }
    assert all(text.startswith("test") for text in data.dataset["test"]["text"])


@each_form
@pytest.mark.parametrize("labelled", ["train", "test"])
def test_a_row_without_the_label_that_others_of_its_split_have_is_skipped(
    tmp_path: Path, form: Callable[[Path, Rows], str], labelled: str
) -> None:
    rows: Rows = unlabelled(20, label=None, split=None)
    rows += [
        {"text": f"{name} {n}", "label": name, "split": labelled}
        for name in ("cat", "dog")
        for n in range(3)
    ]
    rows.append({"text": "bare", "label": None, "split": "test"})
    spec = form(tmp_path, rows)
    data = load_source(spec, options=replace(OPTIONS, strict=False))
    assert [row.reason for row in data.info.skipped] == ["has no label, which the test split needs"]
    assert "bare" not in {text for name in SPLITS for text in data.dataset[name]["text"]}
    with pytest.raises(DataError, match=r"1 row cannot be used.*has no label"):
        load_source(spec, options=OPTIONS)


def test_splits_of_a_dataset_may_all_be_without_labels(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 5)):
        rows: Rows = [{"text": f"{split} {number}"} for number in range(count)]
        path = Path(table_parquet(tmp_path, rows))
        path.rename(tmp_path / f"{split}.parquet")
    data = load_source(f"hub:{tmp_path}", options=OPTIONS)
    sizes = {name: len(split) for name, split in data.dataset.items()}
    assert sizes == {"train": 18, "validation": 2, "test": 5}
