"""What a data set of many rows costs in memory, and that it is read as one of few rows is."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import sha256_of_json, sha256_of_json_rows
from msd_deploy.data import preprocess
from msd_deploy.data.prepare import prepare
from msd_deploy.data.readers.jsonl import load_jsonl
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceOptions, column_of, training_texts
from msd_deploy.data.synthetic.drawing import encode_png

PICTURES = 20
# What stays of a row: its tokens and their mask (256 bytes), image, place and label (24), text,
# digest, path and origin in Arrow (500); while it is read, Python's strings of these as well. 1,010
# were measured. The encodings of all texts at once, of which this warns, made it 5,960.
MOST_BYTES_PER_ROW = 3_000
MEASURE = """
import resource, sys
from pathlib import Path
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.readers.jsonl import load_jsonl
from msd_deploy.data.prepare import prepare
from msd_deploy.data.preprocess import build_preprocessor, fitting_length, train_tokenizer
from msd_deploy.data.source import SourceOptions, training_texts
for path in map(Path, sys.argv[1:]):
    source = load_jsonl(path, SourceOptions())
    texts = training_texts(source)
    tokenizer = train_tokenizer(texts, vocabulary_size=500)
    length = fitting_length(tokenizer, texts, most=32)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=length)
    data = prepare(source, preprocessor, cache=path.parent / "cache")
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    del source, texts, data
"""


def write_rows(folder: Path, count: int) -> Path:
    """Write a file whose rows show a few images in turn and have texts of 20 words."""
    for number in range(PICTURES):
        pixels = np.full((8, 8, 3), number, np.uint8)
        (folder / f"{number}.png").write_bytes(encode_png(pixels))
    path = folder / f"{count}.jsonl"
    rng = np.random.default_rng(count)
    words = np.array([f"word{number}" for number in range(2000)])
    with path.open("w") as file:
        for row, drawn in enumerate(rng.integers(0, len(words), (count, 20))):
            text = " ".join(words[drawn])
            record = {"image": f"{row % PICTURES}.png", "text": text, "label": row % 5}
            file.write(json.dumps(record) + "\n")
    return path


def test_memory_grows_by_a_rows_own_content_alone(tmp_path: Path) -> None:
    few, many = 2_000, 20_000
    paths = [str(write_rows(tmp_path, count)) for count in (few, many)]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    before, after = (int(line) for line in run.stdout.split())
    assert (after - before) / (many - few) < MOST_BYTES_PER_ROW


def test_chunks_change_neither_tokens_nor_their_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = preprocess.train_tokenizer(["red circle", "a blue square"], vocabulary_size=60)
    prepared = preprocess.build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=6)
    texts = ["red", "", "a blue square " * 3, "circle square", " \t", "red " * 9, "blue"]
    whole = prepared.tokens_and_cut(texts)
    monkeypatch.setattr(preprocess, "_TEXTS_AT_A_TIME", 2)
    pieces = prepared.tokens_and_cut(texts)
    assert all(np.array_equal(a, b) for a, b in zip(whole[:2], pieces[:2], strict=True))
    assert whole[2] == pieces[2] == 2
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text).ids if text.strip() else [prepared.cls_id]
        assert pieces[0][row][: len(ids)].tolist() == ids


@pytest.mark.parametrize("most", [8, 16, 512])
def test_the_fitting_length_is_that_of_the_longest_text(most: int) -> None:
    texts = ["red " * 20, "x" * 200, "a"]
    tokenizer = preprocess.train_tokenizer(texts, vocabulary_size=60)
    tokenizer.no_truncation()
    longest = max(len(tokenizer.encode(text).ids) for text in texts)
    expected = min(most, -(-longest // 8) * 8)
    assert preprocess.fitting_length(tokenizer, texts, most=most) == expected


def test_words_are_counted_as_whole_texts_are_split() -> None:
    """Parts between blanks are normalised alone: nothing looks across a blank, in any script."""
    drawn = np.random.default_rng(0)
    ranges = ((1, 0x250), (0x300, 0x370), (0x2000, 0x2070), (0x3000, 0x3100), (0xAC00, 0xAC40))
    letters = [chr(code) for first, last in ranges for code in range(first, last)]
    pool = np.array([*letters, *"\x85\u180e\ufeff\u0130\u03a3\u4e00\U0001f600", *" " * 150])
    texts = ["".join(drawn.choice(pool, size)) for size in drawn.integers(0, 40, 2000)]
    tokens = {token: number for number, token in enumerate(preprocess.SPECIAL_TOKENS)}
    tokenizer = preprocess._wordpiece(tokens)
    expected: Counter[str] = Counter()
    for text in texts:
        normalised = tokenizer.normalizer.normalize_str(text)
        expected.update(w for w, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalised))
    counted = preprocess._count_words(tokenizer, texts)
    assert list(counted.items()) == list(expected.items())
    spread: Counter[str] = Counter()
    for part in preprocess._repeated(Counter({"a": 250, "b": 1, "c": 100})):
        spread.update(part.split())
    assert spread == {"a": 250, "b": 1, "c": 100}


def test_a_digest_of_rows_is_that_of_their_list() -> None:
    for count in (0, 1, 999, 1000, 1001, 2500):
        rows = [[f"{row:x}", None if row % 3 else "é\ud800", [row]] for row in range(count)]
        assert sha256_of_json_rows(rows) == sha256_of_json(rows)


def test_columns_and_digest_are_those_that_datasets_gives(tmp_path: Path) -> None:
    source = load_jsonl(write_rows(tmp_path, 400), SourceOptions())
    splits = source.dataset
    for split in splits.values():
        for name in ("image_sha256", "text", "label", "origin"):
            assert column_of(split, name) == list(split[name])
        chosen = split.select([3, 1])
        assert column_of(chosen, "text") == list(chosen["text"])
    tokenizer = preprocess.train_tokenizer(training_texts(source), vocabulary_size=200)
    prepared = preprocess.build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=8)
    data = prepare(source, prepared, cache=tmp_path / "cache")
    rows = {
        name: sha256_of_json([[r["image_sha256"], r["text"], r["label"]] for r in split])
        for name, split in splits.items()
    }
    assert data.digest == sha256_of_json([source.info.labels, source.info.problem, rows])
