"""The pages say what the program does."""

import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest

from msd_deploy.data.images import ImageSpec
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer

ROOT = Path(__file__).parents[2]
LENGTH = 16
TEXTS = (
    "Crème BRÛLÉE, naïve café!",
    "한국어 텍스트",
    "東京タワー2号",
    "don't—stop… \\ [a_b]",
    "[SEP] and [CLS] typed by a user",
    "a\u00a0b\tc\x0bd\u3000e\u2028f",
    "zero\u200bwidth and soft\u00adhyphen",
    "İstanbul ΣΑΣ Straße",
    "अनुच्छेद",
    "😀👍🏽 €5 + 3 = 8 <b>",
    "e\u0301 é ﬁ ½ \ufffd\0",
    "e" * 100,
    "e" * 101,
    "word " * 50,
    "",
    " \t\n",
    "\u200b",
)
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def test_the_page_of_the_command_line_is_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_cli.py"), "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def documented_normalisation(text: str) -> str:
    """docs/preprocessing.md, The text, step 1."""
    category, kept = unicodedata.category, "\t\n\r"
    removed = ("Cc", "Cf", "Co")
    text = "".join(c for c in text if c in kept or not (c in "\0\ufffd" or category(c) in removed))
    text = "".join(" " if c in kept or category(c) in ("Zs", "Zl", "Zp") else c for c in text)
    text = "".join(f" {c} " if is_ideograph(c) else c for c in text)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if category(c) != "Mn")
    return "".join(c.lower() for c in text)


def is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def documented_words(text: str) -> list[str]:
    """docs/preprocessing.md, The text, step 2."""
    words = [""]
    for c in documented_normalisation(text):
        if c == " ":
            words.append("")
        elif c in ASCII_PUNCTUATION or unicodedata.category(c).startswith("P"):
            words += [c, ""]
        else:
            words[-1] += c
    return [word for word in words if word]


def documented_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """docs/preprocessing.md, The text, step 3."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= 100:
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces or ["[UNK]"]


def documented_ids(text: str, vocabulary: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """docs/preprocessing.md, The text, step 4, and No text."""
    pieces = [p for word in documented_words(text) for p in documented_pieces(word, vocabulary)]
    tokens = ["[CLS]", *pieces[: LENGTH - 2], "[SEP]"] if text.strip() else ["[CLS]"]
    padding = LENGTH - len(tokens)
    ids = [vocabulary[token] for token in tokens] + [vocabulary["[PAD]"]] * padding
    return ids, [1] * len(tokens) + [0] * padding


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    tokenizer = train_tokenizer(TEXTS[:11], vocabulary_size=200)
    return build_preprocessor(tokenizer, ImageSpec((48, 48)), max_length=LENGTH)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_become_the_documented_identifiers(preprocessor: Preprocessor, text: str) -> None:
    """The page's rules in plain Python; only characters that Unicode 8.0 has."""
    input_ids, attention_mask = preprocessor.tokens([text])
    expected = documented_ids(text, preprocessor.tokenizer.get_vocab())
    assert (input_ids[0].tolist(), attention_mask[0].tolist()) == expected
