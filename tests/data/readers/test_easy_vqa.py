import sys
from pathlib import Path

import pytest

from msd_deploy.data.readers.easy_vqa import load_easy_vqa
from msd_deploy.data.source import SourceData
from msd_deploy.errors import DataError, RuntimeUnavailableError


@pytest.fixture(scope="module")
def data() -> SourceData:
    pytest.importorskip("easy_vqa", reason="needs the extra demo")
    return load_easy_vqa()


def test_every_published_question_is_there(data: SourceData) -> None:
    sizes = {split: len(rows) for split, rows in data.dataset.items()}
    assert sizes["train"] + sizes["validation"] == 38_575
    assert sizes["test"] == 9_673
    assert 0.08 < sizes["validation"] / 38_575 < 0.12
    assert len(data.info.labels) == 13
    assert f"validation {sizes['validation']:,} about " in data.info.notes[0]


def test_no_image_stands_in_two_splits(data: SourceData) -> None:
    train, validation, test = (set(rows["image_sha256"]) for rows in data.dataset.values())
    assert len(train | validation) == 4_000
    assert len(test) == 1_000
    assert not train & validation
    assert not (train | validation) & test


def test_a_row_names_its_image_question_answer_and_origin(data: SourceData) -> None:
    row = data.dataset["test"][0]
    assert Path(row["image_path"]).is_file()
    assert row["text"].endswith("?")
    assert data.info.labels[row["label"]] in {"yes", "no", "red", "circle"} | set(data.info.labels)
    assert row["origin"] == "easy-vqa/test:0"


def test_the_error_of_a_missing_package_names_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(RuntimeUnavailableError, match=r'pip install "msd-deploy\[demo\]"'):
        load_easy_vqa()


def test_an_altered_package_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("easy_vqa", reason="needs the extra demo")
    monkeypatch.setattr("easy_vqa.get_answers", lambda: ["yes"])
    with pytest.raises(DataError, match=r"easy-vqa: .* incomplete or altered .* Reinstall"):
        load_easy_vqa()
