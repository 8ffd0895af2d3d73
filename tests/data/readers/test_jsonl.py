import json
import os
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.data import source
from msd_deploy.data.readers.jsonl import load_jsonl, load_jsonl_for_evaluation
from msd_deploy.data.readers.rows import shown
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import DataError


def write_picture(folder: Path, name: str, seed: int) -> str:
    """Write an image that differs by seed; return its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.full((2, 2, 3), seed, np.uint8)))
    return name


def write_rows(folder: Path, *rows: object) -> Path:
    """Write rows.jsonl; bytes stand as they are, everything else as JSON."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def good_rows(count: int) -> list[object]:
    return [{"text": f"text {index}", "label": "ab"[index % 2]} for index in range(count)]


def reasons(folder: Path, row: object, options: SourceOptions | None = None) -> list[str]:
    """Return why one row beside good ones was skipped."""
    path = write_rows(folder, row, *good_rows(20))
    data = load_jsonl(path, options or SourceOptions())
    assert all(skipped.origin == f"{path}:1" for skipped in data.info.skipped)
    return [skipped.reason for skipped in data.info.skipped]


def all_rows(data: SourceData) -> list[dict[str, object]]:
    return [row for split in data.dataset.values() for row in split]


def keys(data: SourceData, split: str) -> set[str]:
    rows = data.dataset[split]
    return {row["image_sha256"] or row["text"] for row in rows}


def test_rows_keep_their_image_text_label_and_place(tmp_path: Path) -> None:
    rows = [
        {"image": write_picture(tmp_path, f"pictures/{n}.png", n), "text": f"t{n}", "label": n % 2}
        for n in range(30)
    ]
    path = write_rows(tmp_path, *rows)
    data = load_jsonl(path, SourceOptions())
    assert (data.info.labels, data.info.problem, data.info.skipped) == (
        ("0", "1"),
        "single_label",
        (),
    )
    by_origin = {row["origin"]: row for row in all_rows(data)}
    assert len(by_origin) == 30
    row = by_origin[f"{path}:4"]
    assert row["image_path"] == str(tmp_path / "pictures" / "3.png")
    assert row["image_bytes"] is None
    assert (row["text"], row["label"]) == ("t3", 1)
    assert list(data.dataset["train"].column_names) == [
        "image_path",
        "image_bytes",
        "image_sha256",
        "text",
        "label",
        "origin",
    ]


def test_reading_twice_gives_the_same_splits_and_fingerprints(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *good_rows(60))
    first, second = (load_jsonl(path, SourceOptions()) for _ in range(2))
    for split in first.dataset:
        assert first.dataset[split].to_list() == second.dataset[split].to_list()
        assert first.dataset[split]._fingerprint == second.dataset[split]._fingerprint


def test_a_large_split_is_memory_mapped_and_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path, *good_rows(3000))
    small = load_jsonl(path, SourceOptions()).dataset["train"]
    monkeypatch.setattr(source, "IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(source.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    large = load_jsonl(path, SourceOptions()).dataset["train"]
    (file,) = large.cache_files
    assert Path(file["filename"]).is_relative_to(tmp_path / "cache")
    assert large._fingerprint == small._fingerprint
    assert large.to_list() == small.to_list()
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_an_unwritable_cache_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a folder must be")
    monkeypatch.setattr(source, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(source.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"cannot be written .* HF_DATASETS_CACHE"):
        load_jsonl(write_rows(tmp_path, *good_rows(20)), SourceOptions())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": "a", "label": "a"', "is not JSON (Expecting ',' delimiter at column 27)"),
        (b'{"text": "x", "label": NaN}', "is not JSON (NaN is not a JSON value)"),
        (b'{"text": "x", "label": -Infinity}', "is not JSON (-Infinity is not a JSON value)"),
        pytest.param(
            b"[" * 100_000, "is not JSON that can be read (nested too deeply)", id="nested"
        ),
        (b'["a"]', "is a list, not a JSON object"),
        *(('{"text": "x"}'.encode(kind), "is UTF-16") for kind in ("utf-16", "utf-16-le")),
        ('{"text": "x"}'.encode("utf-16-be"), "is UTF-16"),
        (b"7", "is a number, not a JSON object"),
        (b'{"text": "\xff", "label": "a"}', "is not UTF-8 (byte 11)"),
        (b'{"text": "\\ud800", "label": "a"}', "text contains an unpaired surrogate"),
        (b'{"text": "x", "label": "a", "label": "b"}', "has the key 'label' twice"),
        pytest.param(
            {"text": "x" * (1 << 20), "label": "a"}, "is longer than 1,048,576 bytes", id="huge"
        ),
        ({"text": 3.5, "label": "a"}, "text is a number, not a string"),
        ({"label": "a"}, "has neither image nor text"),
        ({"text": " ", "image": "", "label": "a"}, "has neither image nor text"),
        (
            {"text": "x", "split": "test"},
            "has no label, which the test split needs",
        ),
        (
            {"text": "x", "label": None, "labels": None, "split": "val"},
            "has no label, which the validation split needs",
        ),
        ({"text": "x", "label": True}, "label is a boolean, not a string or integer"),
        ({"text": "x", "label": 1.0}, "label is a number, not a string or integer"),
        ({"text": "x", "label": ["a"]}, "label is a list, not a string or integer"),
        ({"text": "x", "label": " "}, "label is empty"),
        (b'{"text": "x", "label": "\\udc00"}', "label contains an unpaired surrogate"),
        (
            {"text": "x", "label": "c"},
            "unknown label 'c': no other row has it; name the classes with --labels to keep it",
        ),
        (
            {"text": "x", "label": "a", "split": "dev2"},
            "unknown split 'dev2': use train, validation or test",
        ),
        (
            {"text": "x", "label": "a", "split": 1},
            "unknown split 1: use train, validation or test",
        ),
        pytest.param(
            b'{"text": "x", "label": "a", "split": ' + b"[" * 900 + b"]" * 900 + b"}",
            "unknown split a list: use train, validation or test",
            id="nested split",
        ),
        ({"image": 5.5, "label": "a"}, "image is a number, not a string"),
        ({"image": "no.png", "label": "a"}, "image 'no.png' is missing"),
        ({"image": "folder", "label": "a"}, "image 'folder' is a folder"),
        ({"image": "pipe", "label": "a"}, "image 'pipe' is not a regular file"),
        ({"image": "/etc/passwd", "label": "a"}, "image '/etc/passwd' leaves the data folder"),
        ({"image": "C:\\x.png", "label": "a"}, "image 'C:\\\\x.png' leaves the data folder"),
        ({"image": "../secret", "label": "a"}, "image '../secret' leaves the data folder"),
        (
            {"image": "a\\..\\..\\b", "label": "a"},
            "image 'a\\\\..\\\\..\\\\b' leaves the data folder",
        ),
        ({"image": "a\0b", "label": "a"}, "image contains a NUL character"),
        ({"image": "link", "label": "a"}, "image 'link' leaves the data folder"),
        ({"image": "linked/secret", "label": "a"}, "image 'linked/secret' leaves the data folder"),
        (b'{"image": "\\ud800", "label": "a"}', "image contains an unpaired surrogate"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(
    tmp_path: Path, row: object, reason: str
) -> None:
    folder = tmp_path / "data"
    folder.joinpath("folder").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret").write_bytes(b"outside")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    assert reasons(folder, row) == [reason]


@pytest.mark.parametrize("name", ["loop", "x" * 5000, "rows.jsonl/x.png"])
def test_a_path_that_the_system_refuses_is_a_named_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (reason,) = reasons(tmp_path, {"image": name, "label": "a"})
    assert reason.startswith(f"image {shown(name)} cannot be read (")
    assert len(reason) < 200


def test_a_row_after_one_that_is_too_long_keeps_its_number(tmp_path: Path) -> None:
    rows = [{"text": "x" * size, "label": "a"} for size in ((1 << 20) - 20, 3 << 20, 1)]
    path = write_rows(tmp_path, *rows, b"no JSON", *good_rows(20))
    data = load_jsonl(path, SourceOptions())
    assert [row.origin for row in data.info.skipped] == [f"{path}:{line}" for line in (1, 2, 4)]


def test_a_pipe_in_the_files_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: is not a regular file"):
        load_jsonl(tmp_path / "rows.jsonl", SourceOptions())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_image_is_a_named_row(tmp_path: Path) -> None:
    write_picture(tmp_path, "a.png", 1)
    (tmp_path / "a.png").chmod(0)
    row = {"image": "a.png", "label": "a"}
    assert reasons(tmp_path, row) == ["image 'a.png' cannot be read (Permission denied)"]


def test_a_link_inside_the_data_folder_is_followed(tmp_path: Path) -> None:
    write_picture(tmp_path, "a.png", 1)
    (tmp_path / "link.png").symlink_to("a.png")
    assert reasons(tmp_path, {"image": "link.png", "label": "a"}) == []


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *good_rows(20))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n \r\n"))
    data = load_jsonl(path, SourceOptions())
    assert len(all_rows(data)) == 20
    assert data.info.skipped == ()


def test_a_closed_list_keeps_rare_classes_and_refuses_others(tmp_path: Path) -> None:
    options = SourceOptions(labels=("b", "a", "rare"))
    path = write_rows(tmp_path, {"text": "x", "label": "c"}, {"text": "y", "label": "rare"})
    path.write_bytes(path.read_bytes() + write_rows(tmp_path, *good_rows(20)).read_bytes())
    data = load_jsonl(path, options)
    assert data.info.labels == ("b", "a", "rare")
    assert [row.reason for row in data.info.skipped] == ["unknown label 'c'"]
    rare = next(row for row in all_rows(data) if row["text"] == "y")
    assert rare["label"] == 2


def test_integer_classes_are_ordered_by_number_and_equal_their_strings(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": label} for n, label in enumerate([10, 9, "9", "10"] * 5)]
    assert load_jsonl(write_rows(tmp_path, *rows), SourceOptions()).info.labels == ("9", "10")


def test_labels_make_a_multi_label_set_in_which_a_row_may_have_none(tmp_path: Path) -> None:
    given = [["b", "a", "a"], [], ["b"]]
    rows = [{"text": f"{n}", "labels": given[n % 3]} for n in range(30)]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    assert (data.info.problem, data.info.labels) == ("multi_label", ("a", "b"))
    found = {row["text"]: row["labels"] for row in all_rows(data)}
    assert [found["0"], found["1"], found["2"]] == [[0, 1], [], [1]]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (1, "labels is a number, not a list"),
        ("a", "labels is a string, not a list"),
        (["a", 1.5], "an entry of labels is a number, not a string or integer"),
    ],
)
def test_a_row_with_malformed_labels_is_named(tmp_path: Path, labels: object, reason: str) -> None:
    rows = [{"text": f"{n}", "labels": ["a", "b"][: n % 3]} for n in range(30)]
    data = load_jsonl(write_rows(tmp_path, {"text": "x", "labels": labels}, *rows), SourceOptions())
    assert [row.reason for row in data.info.skipped] == [reason]


ONE_HOT = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_one_hot_vectors_as_labels_are_recognized(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "labels": ONE_HOT[n % 3]} for n in range(30)]
    with pytest.raises(DataError, match=r"look like one-hot vectors\. Write the names of the cla"):
        load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    data = load_jsonl(write_rows(tmp_path, {"text": "x", "labels": [0, 0]}, *rows), SourceOptions())
    assert any("look like one-hot vectors" in note for note in data.info.notes)


def test_without_any_label_the_keys_that_the_rows_have_are_named(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "category": "ab"[n % 2]} for n in range(9)]
    with pytest.raises(DataError, match=r"has no labelled row \(not read: 'category' \(9 rows\)\)"):
        load_jsonl(write_rows(tmp_path, *rows), SourceOptions())


def test_one_row_is_counted_in_the_singular(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": "ab"[n % 2]} for n in range(30)]
    path = write_rows(tmp_path, *rows, {"text": "x", "more": 1})
    notes = " ".join(load_jsonl(path, SourceOptions()).info.notes)
    assert "'more' (1 row)" in notes
    assert "1 more row has no label" in notes


def unlabelled(data: SourceData) -> dict[str, set[str]]:
    """The texts without a label, by split."""
    target = "label" if data.info.problem == "single_label" else "labels"
    return {
        name: {row["text"] for row in rows if row[target] is None}
        for name, rows in data.dataset.items()
    }


@pytest.mark.parametrize("label", [{}, {"label": None}, {"labels": None}], ids=str)
@pytest.mark.parametrize("target", ["label", "labels"])
def test_rows_without_a_label_are_trained_on_and_counted(
    tmp_path: Path, label: dict[str, None], target: str
) -> None:
    classes = ["a", "b"] if target == "label" else [["a"], []]
    good = [{"text": f"text {n}", target: classes[n % 2]} for n in range(40)]
    rows = [{"text": f"new {n}", **label} for n in range(30)]
    path = write_rows(tmp_path, *good, *rows)
    data = load_jsonl(path, SourceOptions(strict=True))
    without = {"train": {f"new {n}" for n in range(30)}, "validation": set(), "test": set()}
    assert unlabelled(data) == without
    assert data.info.notes[-1] == (
        "30 more rows have no label: the student is trained on the teacher's predictions for them"
    )
    alone = load_jsonl(write_rows(tmp_path, *good), SourceOptions())
    for split in ("validation", "test"):
        assert data.dataset[split].to_list() == alone.dataset[split].to_list()


def test_no_row_without_a_label_shows_what_is_tested_on(tmp_path: Path) -> None:
    rows = [
        {"image": write_picture(tmp_path, f"{n}.png", n), "text": f"{n}", "label": n % 2}
        for n in range(100)
    ]
    asked_again = [{"image": f"{n}.png", "text": f"{n} again"} for n in range(100)]
    data = load_jsonl(write_rows(tmp_path, *rows, *asked_again), SourceOptions())
    shown_in = {split: keys(data, split) for split in data.dataset}
    assert not shown_in["train"] & (shown_in["validation"] | shown_in["test"])
    left_out = len(data.dataset["validation"]) + len(data.dataset["test"])
    assert len(unlabelled(data)["train"]) == 100 - left_out == len(data.dataset["train"]) / 2
    assert data.info.notes[-1].startswith(
        f"{left_out} rows without a label show images or texts of"
    )


def test_a_row_follows_one_without_a_label_into_training(tmp_path: Path) -> None:
    rows = [
        {"image": write_picture(tmp_path, f"{n}.png", n), "text": f"{n}", "label": n % 2}
        for n in range(200)
    ]
    stated = [{"image": f"{n}.png", "text": "new", "split": "train"} for n in range(50)]
    data = load_jsonl(write_rows(tmp_path, *rows, *stated), SourceOptions())
    assert {f"{n}" for n in range(50)} < set(data.dataset["train"]["text"])
    assert data.info.notes[-1].startswith("50 more rows have no label")


def test_without_splits_no_image_stands_in_two(tmp_path: Path) -> None:
    rows = [
        {"image": write_picture(tmp_path, f"{n}.png", n % 100), "text": f"{n}", "label": n % 2}
        for n in range(200)
    ]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    found = [keys(data, split) for split in ("train", "validation", "test")]
    assert len(set.union(*found)) == sum(len(split) for split in found) == 100
    assert 70 <= len(found[0]) <= 90
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in data.dataset.items())
    assert data.info.notes == (f"200 rows: {sizes}",)


def test_stated_splits_are_kept_and_the_same_image_follows(tmp_path: Path) -> None:
    names = ["train", "validation", "val", "dev", "test"]
    rows = [
        {"image": write_picture(tmp_path, f"{n}.png", n), "label": n % 2, "split": names[n % 5]}
        for n in range(30)
    ]
    unstated = [{"image": f"{n}.png", "text": "again", "label": n % 2} for n in range(30)]
    data = load_jsonl(write_rows(tmp_path, *rows, *unstated), SourceOptions())
    sizes = {split: len(rows) for split, rows in data.dataset.items()}
    assert sizes == {"train": 12, "validation": 36, "test": 12}
    assert not keys(data, "train") & keys(data, "test")


def test_a_text_that_the_rows_put_in_two_splits_is_noted(tmp_path: Path) -> None:
    rows = [
        {"text": f"{n // 3}", "label": "ab"[n % 2], "split": ("train", "validation", "test")[n % 3]}
        for n in range(12)
    ]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    assert "8 images or texts are in more than one split, as given by the rows" in data.info.notes


def test_a_missing_validation_split_is_taken_from_train(tmp_path: Path) -> None:
    rows = [
        {"text": f"{n}", "label": "ab"[n % 2], "split": "test" if n < 10 else "train"}
        for n in range(40)
    ]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    assert {split: len(rows) for split, rows in data.dataset.items()} == {
        "train": 27,
        "validation": 3,
        "test": 10,
    }
    assert data.info.notes[1] == (
        "no row fell into validation: 3 of 30 different images or texts went from train to it"
    )


def test_four_rows_still_make_three_splits(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": "ab"[n % 2]} for n in (0, 1, 2, 5)]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    assert {split: len(rows) for split, rows in data.dataset.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


def test_the_notes_state_that_two_texts_are_too_few(tmp_path: Path) -> None:
    rows = [{"text": text, "label": text} for text in "abab"]
    data = load_jsonl(write_rows(tmp_path, *rows), SourceOptions())
    assert {len(split) for split in data.dataset.values()} == {4}
    assert data.info.notes[1] == (
        "too small for a validation and test split (2 different images or texts to train on):"
        " the training rows are used for validation and test too, and the scores there MEAN NOTHING"
    )


def test_a_class_that_is_never_trained_on_is_noted(tmp_path: Path) -> None:
    held_out = [{"text": f"c{n}", "label": "c", "split": "test"} for n in range(2)]
    options = SourceOptions(labels=("a", "b", "c", "d"))
    notes = load_jsonl(write_rows(tmp_path, *good_rows(40), *held_out), options).info.notes
    assert notes[-2:] == (
        "1 class occurs in validation or test only, the model cannot learn them: c",
        "1 class occurs in no row, the model cannot learn them: d",
    )


def test_strict_lists_the_first_ten_rows_and_their_number(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path, *good_rows(20), *[{"text": f"{n}", "label": " "} for n in range(12)]
    )
    with pytest.raises(DataError) as caught:
        load_jsonl(path, SourceOptions(strict=True))
    message = str(caught.value)
    assert message.startswith(f"{path}: 12 rows cannot be used: {path}:21: label is empty")
    assert f"{path}:30: " in message
    assert f"{path}:31: " not in message
    assert message.endswith("; and 2 more. Fix them, or run without --strict.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"has no rows\. Write one JSON object a line"),
        ([{"text": " "}], r"has no usable row: .*rows\.jsonl:1: has neither .*\. Write one"),
        ([{"text": "x"}, {"text": "y", "label": None}], r"has no labelled row\. Write one"),
        (
            [{"text": "x", "label": "a"}, {"text": "y", "labels": ["a"]}],
            r"mixes label \(line 1\) and labels \(line 2\)\. Give every row a label",
        ),
        (
            [{"text": "x", "label": "a", "labels": ["a"]}],
            r"mixes label \(line 1\) and labels \(line 1\)",
        ),
        (
            [{"text": f"{n}", "label": "a"} for n in range(20)],
            r"has a single class 'a': nothing to learn\. Add rows of other classes",
        ),
        (
            [{"text": f"{n}", "label": "a"} for n in range(20)] + [{"text": "y", "label": "b"}],
            r"has a single class 'a': nothing to learn: .*:21: unknown label 'b'",
        ),
        (
            [{"text": f"{n}", "labels": []} for n in range(20)],
            r"has no label at all: nothing to learn",
        ),
        (
            [
                {"text": f"{n}", "label": "ab"[n % 2], "split": ("train", "test")[n % 2]}
                for n in range(20)
            ],
            r"has a single class 'a' in its training rows: nothing to learn",
        ),
        (
            [{"text": f"{n}", "label": "ab"[n % 2], "split": "test"} for n in range(20)],
            r"has no labelled training row\. Give labelled rows the split \"train\"",
        ),
        (
            [
                {"label": "ab"[n % 2], "split": split, **shown}
                for n in range(4)
                for split, shown in (("test", {"text": f"{n}"}), ("train", {"image": f"{n}.png"}))
            ],
            r"has no labelled training row: [^;]*:2: image '0\.png' is missing; .*:8: ",
        ),
    ],
)
def test_an_unusable_file_is_one_line_with_the_reason(
    tmp_path: Path, rows: list[object], message: str
) -> None:
    path = write_rows(tmp_path, *rows)
    if not rows:
        path.write_bytes(b"\n\n")
    with pytest.raises(DataError, match=message) as caught:
        load_jsonl(path, SourceOptions())
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_single_class_names_the_requested_classes_without_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path, *({"text": f"{n}", "label": "shoes"} for n in range(20)))
    with pytest.raises(DataError, match=r"class 'shoes' and no rows of class 'hats': nothing"):
        load_jsonl(path, SourceOptions(labels=("shoes", "hats")))


def test_rows_to_evaluate_on_have_the_models_classes(tmp_path: Path) -> None:
    """The columns of a multi-label target are the model's, also those that no row names."""
    path = write_rows(
        tmp_path,
        *({"text": f"t{n}", "labels": ["b"], "split": "test"} for n in range(3)),
        {"text": "other", "labels": ["a"], "split": "test"},
        {"text": "none"},
    )
    options = SourceOptions(labels=("b",))
    data = load_jsonl_for_evaluation(path, options, split="all", labels=("a", "b", "c"))
    assert data.info.labels == ("a", "b", "c")
    assert data.info.problem == "multi_label"
    assert {name: rows["labels"][:] for name, rows in data.dataset.items()} == {"test": [[1]] * 3}
    assert [row.reason for row in data.info.skipped] == ["unknown label 'a'"]
