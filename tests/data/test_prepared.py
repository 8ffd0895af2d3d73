import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.readers.jsonl import load_jsonl
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceOptions
from msd_deploy.problem import NO_LABEL

SHORT, LONG = "a red square", "a red square and a blue circle and a green one"


def prepared(folder: Path, texts: list[str], max_length: int) -> PreparedData:
    rng = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w") as file:
        for row, text in enumerate(texts):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
            split = ("train", "validation", "test")[row % 3]
            record = {
                "image": f"{row}.png",
                "text": text,
                "label": "ab"[row // 3 % 2],
                "split": split,
            }
            file.write(json.dumps(record) + "\n")
    tokenizer = train_tokenizer([SHORT, LONG], vocabulary_size=200)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=max_length)
    source = load_jsonl(folder / "rows.jsonl", SourceOptions())
    return prepare(source, preprocessor, cache=folder / "cache")


def test_skipped_rows_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Broken images are found later than other flaws, split by split."""
    rows: list[dict[str, object]] = [
        {"image": f"{row}.png", "label": "ab"[row // 3 % 2], "split": split}
        for row, split in enumerate(["train", "validation", "test"] * 8)
    ]
    for row in range(24):
        Image.new("RGB", (8, 8), (row, 0, 0)).save(tmp_path / f"{row}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    (tmp_path / "10.png").write_bytes(b"broken too")
    rows[4]["label"] = rows[12]["label"] = 1.5
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer([SHORT], vocabulary_size=200)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=8)
    source = load_jsonl(tmp_path / "rows.jsonl", SourceOptions())
    skipped = prepare(source, preprocessor, cache=tmp_path / "cache").info.skipped
    assert [row.origin for row in skipped] == [f"{tmp_path}/rows.jsonl:{n}" for n in (4, 5, 11, 13)]


def test_texts_that_lose_their_end_are_noted_by_split(tmp_path: Path) -> None:
    texts = [SHORT] * 12
    texts[3] = texts[6] = texts[8] = LONG  # two in train, one in test
    assert prepared(tmp_path, texts, max_length=8).info.notes[-1] == (
        "texts are cut after 8 tokens (2 of 4 in train, 0 of 4 in validation, 1 of 4 in test); a"
        " model distilled with a larger --max-length reads more"
    )


@pytest.mark.parametrize("target", ["label", "labels"])
def test_rows_without_a_label_are_marked(
    tmp_path: Path, memes: tuple[PreparedData, Preprocessor], target: str
) -> None:
    labels = ["a", "b"] if target == "label" else [["a"], ["b"]]
    rows = [{"text": f"text {row}", target: labels[row % 2]} for row in range(30)]
    rows += [{"text": f"new {row}"} for row in range(5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = load_jsonl(path, SourceOptions())
    data = prepare(source, memes[1], cache=tmp_path / "cache")
    has_label = data.splits["train"].has_label()
    is_new = [text.startswith("new") for text in source.dataset["train"]["text"]]
    assert has_label.tolist() == [not new for new in is_new]
    assert has_label.sum() == len(has_label) - 5
    assert all(data.splits[name].has_label().all() for name in ("validation", "test"))
    without = data.splits["train"].labels[~has_label]
    assert np.isnan(without).all() if target == "labels" else (without == NO_LABEL).all()


def test_texts_that_fit_are_not_noted(tmp_path: Path) -> None:
    data = prepared(tmp_path, [SHORT, LONG] * 6, max_length=13)  # 11 words, [CLS], [SEP]
    notes = data.info.notes
    assert not any("cut after" in note for note in notes)


def test_what_the_vocabulary_lacks_is_noted_by_split(tmp_path: Path) -> None:
    texts = [SHORT] * 12
    texts[0], texts[3], texts[1] = "漢", "漢 字", "字"
    notes = prepared(tmp_path, texts, max_length=8).info.notes
    assert not any("lacks" in note for note in prepared(tmp_path, [SHORT] * 12, 8).info.notes)
    expected = r"lacks 2 characters of the texts: .*: \d+\.\d% in train, \d+\.\d% in validation;"
    assert re.search(expected, notes[-1])


class CountingTokenizer:
    """A tokenizer that counts how often it is serialized."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.serialized = tokenizer, 0

    def __getattr__(self, name: str) -> object:
        self.serialized += name == "to_str"
        return getattr(self.tokenizer, name)


def test_a_tokenizer_is_serialized_once_to_prepare_a_data_set(tmp_path: Path) -> None:
    """A large one is some 20 MB of JSON."""
    for row in range(12):
        text = json.dumps({"text": "漢", "label": "ab"[row % 2]})
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write(f"{text}\n")
    counting: Any = CountingTokenizer(train_tokenizer([SHORT], vocabulary_size=200))
    preprocessor = Preprocessor(ImageSpec((8, 8)), counting, 8)
    source = load_jsonl(tmp_path / "rows.jsonl", SourceOptions())
    data = prepare(source, preprocessor, cache=tmp_path / "cache")
    assert "lacks 1 characters" in data.info.notes[-1]
    assert counting.serialized == 1
