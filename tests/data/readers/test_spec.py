from pathlib import Path

import datasets
import pytest

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SkippedRow, SourceOptions, assign_splits, hash_fraction
from msd_deploy.errors import ArtifactError, ConfigError, DataError


def digest(number: int) -> str:
    """Return a key whose hash fraction is number / 1000."""
    return f"{int(number / 1000 * 16**13) + 1:013x}".ljust(64, "0")


def test_a_generated_task_is_named_by_its_specification() -> None:
    data = load_source("synthetic:memes", options=SourceOptions(examples=60))
    assert len(data.dataset["train"]) == 60


def test_a_jsonl_path_is_read_as_a_file(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "t{n}", "label": {n % 2}}}\n' for n in range(40))
    path = tmp_path / "ROWS.JSONL"
    path.write_text(rows)
    data = load_source(str(path), options=SourceOptions())
    assert sum(len(split) for split in data.dataset.values()) == 40


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "synthetic:cats",
            r"synthetic:cats: unknown generated task 'cats'\. Use synthetic:memes\|",
        ),
        (
            "memes",
            r"unknown data set 'memes'\. Use synthetic:memes\|.* easy-vqa, hateful-memes:DIR,",
        ),
        ("", r"\.: is a folder\. Name the FILE\.jsonl, .* in it"),
        ("x" * 5000, r"unknown data set 'x+' \(File name too long\)"),
        ("a\0b.jsonl", r"unknown data set 'a\\x00b\.jsonl'"),
        ("no/such.jsonl", r"no/such\.jsonl: no such file\. Check --data"),
    ],
)
def test_the_error_of_an_unknown_source_names_the_known_ones(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_source(spec, options=SourceOptions())


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_a_git_lfs_pointer_in_place_of_a_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    with pytest.raises(ArtifactError, match=rf"rows\.{suffix}: is a Git LFS pointer.*git lfs pull"):
        load_source(str(path), options=SourceOptions())


def test_a_folder_requires_the_file_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder\. Name the FILE\.jsonl, .* in it"):
        load_source(str(tmp_path), options=SourceOptions())


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    path.write_text("text,label\n")
    with pytest.raises(DataError, match=r"rows\.xlsx: is not a FILE\.jsonl, FILE\.csv, .*\. Use "):
        load_source(str(path), options=SourceOptions())


@pytest.mark.parametrize(
    ("spec", "options", "name"),
    [
        ("synthetic:memes", SourceOptions(labels=("a", "b")), "labels"),
        ("easy-vqa", SourceOptions(labels=("a", "b")), "labels"),
        ("easy-vqa", SourceOptions(label_noise=0.1), "label_noise"),
        ("rows.jsonl", SourceOptions(examples=10), "examples"),
    ],
)
def test_an_option_without_effect_is_refused(spec: str, options: SourceOptions, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} does not apply to {spec}. Leave it out"):
        load_source(spec, options=options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"examples": 0}, "examples is 0"),
        ({"label_noise": 1.5}, "label_noise is 1.5"),
        ({"label_noise": float("nan")}, "label_noise is nan"),
        ({"labels": ("a", "a")}, "labels names a class twice: a, a"),
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SourceOptions(**values)  # type: ignore[arg-type] # wrong values are the point


def test_the_users_progress_bar_setting_stays_as_it_was() -> None:
    before = datasets.are_progress_bars_disabled()
    load_source("synthetic:memes", options=SourceOptions(examples=60))
    assert datasets.are_progress_bars_disabled() == before


def test_reading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_source("synthetic:posters", options=SourceOptions(examples=60))
    assert capfd.readouterr() == ("", "")


def test_a_skipped_row_reads_as_place_and_reason() -> None:
    assert str(SkippedRow("a.jsonl:3", "has no label")) == "a.jsonl:3: has no label"


def test_hash_fractions_span_zero_to_one() -> None:
    assert hash_fraction("0" * 64) == 0.0
    assert 0.999 < hash_fraction("f" * 64) < 1.0


def test_keys_go_80_10_10_by_their_fraction() -> None:
    keys = [digest(number) for number in (0, 799, 800, 899, 900, 999)]
    splits, notes = assign_splits(keys, [None] * 6)
    assert splits == {"train": [0, 1], "validation": [2, 3], "test": [4, 5]}
    assert notes == ["6 rows: train 2, validation 2, test 2"]


def test_empty_splits_take_a_tenth_of_the_training_keys_in_order() -> None:
    keys = [digest(number) for number in range(40)]
    splits, notes = assign_splits(keys, [None] * 40)
    assert (splits["validation"], splits["test"]) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert notes[1] == (
        "no row fell into validation and test: 4 of 40 different images or texts went from train"
        " to each"
    )


def test_keys_that_all_fall_outside_train_go_back_to_it() -> None:
    keys = [digest(number) for number in (800, 900, 910, 920)]
    splits, _ = assign_splits(keys, [None] * 4)
    assert splits == {"train": [2, 3], "validation": [0], "test": [1]}


def test_stated_splits_never_move() -> None:
    keys = [digest(number) for number in (1, 2, 3)]
    splits, notes = assign_splits(keys, ["train", "test", "test"])
    assert splits == {"train": [0], "validation": [0], "test": [1, 2]}
    assert "the training rows are used for validation" in notes[1]
