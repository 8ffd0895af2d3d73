"""A student's tokenizer as tables for apps: text.json, which is read without a Unicode library.

Phones differ in their versions of Unicode, and libraries that read tokenizer.json differ in which
characters they take for accents, white space or control characters. So what the tokenizer does with
each character is asked of it once, here, and written down; docs/preprocessing.md defines the
tables. An app needs no more than them to get the same identifiers.
"""

import itertools
import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict

from tokenizers import Tokenizer, models
from tokenizers.normalizers import Normalizer

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError

TEXT_NAME = "text.json"
SCHEMA_VERSION = 1

SURROGATES = range(0xD800, 0xE000)
_HANGUL = range(0xAC00, 0xD7A4)
# Combining marks that are not accents, of a low and a high class of canonical order.
_LOW, _HIGH = "\u1b44", "\u302e"
_BLANK, _BETWEEN = " ", "|"
_ANOTHER = "Distil with a WordPiece tokenizer of BERT's type, or without data.tokenizer"
# How many words "a", the character and "a" are.
_WORDS_AROUND_BLANK, _WORDS_AROUND_PUNCTUATION = 2, 3


class CharacterRules(NamedTuple):
    """What a normalisation and a splitting into words do with each character.

    Attributes:
        replaced: By character, what it becomes; "" where it is removed. Characters that stay, those
            of `spaced`, unless they are replaced too, and syllables of Hangul are not here.
        spaced: Those that get a blank before and after them.
        splits_hangul: Whether syllables become their letters.
        order: By mark that may change its place among its neighbours, its place in the order.
        barriers: Removed characters that marks do not pass.
        punctuation: Those that are a word of their own.
    """

    replaced: dict[str, str]
    spaced: tuple[str, ...]
    splits_hangul: bool
    order: dict[str, int]
    barriers: tuple[str, ...]
    punctuation: tuple[str, ...]


class TextJson(TypedDict):
    """text.json. Characters are numbers of Unicode; ranges are first, last, first, last, ...

    docs/preprocessing.md defines each key.
    """

    schema_version: int
    max_length: int
    pad_id: int
    absent_id: int
    start_id: int
    end_id: int
    unknown_id: int
    inside_word: str
    longest_word: int
    splits_hangul: bool
    absent: list[int]
    removed: list[int]
    barriers: list[int]
    blank: list[int]
    spaced: list[int]
    punctuation: list[int]
    replaced: list[list[int]]
    order: list[list[int]]
    vocabulary: list[str]


def text_rules(preprocessor: Preprocessor) -> TextJson:
    """Return text.json for a model's tokenizer.

    Args:
        preprocessor: The model's.

    Raises:
        ConfigError: The tokenizer is not of BERT's type, for which alone apps have an
            implementation.
    """
    tokenizer = preprocessor.tokenizer
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    _refuse_others(content)
    model = content["model"]
    vocabulary: dict[str, int] = model["vocab"]
    start, end = tokenizer.encode("").ids
    rules = _character_rules(
        json.dumps(content["normalizer"]), json.dumps(content["pre_tokenizer"])
    )
    blanks = [letter for letter, becomes in rules.replaced.items() if becomes == _BLANK]
    removed = [letter for letter, becomes in rules.replaced.items() if not becomes]
    others = {a: b for a, b in rules.replaced.items() if b not in ("", _BLANK)}
    return {
        "schema_version": SCHEMA_VERSION,
        "max_length": preprocessor.max_length,
        "pad_id": preprocessor.pad_id,
        "absent_id": preprocessor.cls_id,
        "start_id": start,
        "end_id": end,
        "unknown_id": vocabulary[model["unk_token"]],
        "inside_word": model["continuing_subword_prefix"],
        "longest_word": model["max_input_chars_per_word"],
        "splits_hangul": rules.splits_hangul,
        "absent": _ranges(letter for letter in _letters() if letter.isspace()),
        "removed": _ranges(removed),
        "barriers": _ranges(rules.barriers),
        "blank": _ranges(blanks),
        "spaced": _ranges(rules.spaced),
        "punctuation": _ranges(rules.punctuation),
        "replaced": [[ord(a), *map(ord, b)] for a, b in sorted(others.items())],
        "order": [[ord(mark), place] for mark, place in sorted(rules.order.items())],
        "vocabulary": sorted(vocabulary, key=lambda piece: vocabulary[piece]),
    }


def _refuse_others(content: dict[str, Any]) -> None:
    """Check that a tokenizer.json is of BERT's type.

    Raises:
        ConfigError: It is not.
    """
    kinds = {
        part: (content[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")
    }
    known = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, kind in ({**known, "model": "WordPiece"}).items():
        if kinds[part] != kind:
            raise ConfigError(
                f"the tokenizer has a {part} of type {kinds[part]}, not {kind}, and apps can only"
                " be given BERT's",
                where="data.tokenizer",
                fix=_ANOTHER,
            )
    numbers = sorted(content["model"]["vocab"].values())
    matched = [token["content"] for token in content["added_tokens"] if not token["special"]]
    if matched or numbers != list(range(len(numbers))):
        what = f"has the added token {matched[0]!r}" if matched else "numbers its pieces with gaps"
        raise ConfigError(
            f"the tokenizer {what}, which apps cannot be given",
            where="data.tokenizer",
            fix=_ANOTHER,
        )


@lru_cache(maxsize=2)
def _character_rules(normalizer: str, pre_tokenizer: str) -> CharacterRules:
    """Ask a normalisation and a splitting, each as JSON, what they do with every character."""
    asked = Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))
    content = json.loads(asked.to_str())
    content |= {"normalizer": json.loads(normalizer), "pre_tokenizer": json.loads(pre_tokenizer)}
    asked = Tokenizer.from_str(json.dumps(content))
    normalise = _Normalisation(asked.normalizer)
    becomes = dict(zip(_letters(), normalise(_letters()), strict=True))
    words = {
        letter: len(asked.pre_tokenizer.pre_tokenize_str(f"a{letter}a"))
        for letter in {*becomes, *itertools.chain.from_iterable(becomes.values())}
    }
    replaced: dict[str, str] = {}
    spaced: list[str] = []
    for letter, result in becomes.items():
        bare = result[1:-1] if result[:1] == result[-1:] == _BLANK else ""
        if bare:
            spaced.append(letter)
        is_blank = len(result) == 1 and words[result] == _WORDS_AROUND_BLANK
        after = bare or (_BLANK if is_blank else result)
        if after != letter and ord(letter) not in _HANGUL:
            replaced[letter] = after
    combining = filter(unicodedata.combining, becomes)
    order = _order_of_marks(normalise, [mark for mark in combining if mark == becomes[mark]])
    removed = [letter for letter, result in replaced.items() if not result] if order else []
    return CharacterRules(
        replaced,
        tuple(spaced),
        _splits_hangul(becomes),
        order,
        tuple(
            itertools.compress(removed, normalise.keeps_order((_HIGH, x, _LOW) for x in removed))
        ),
        tuple(letter for letter in words if words[letter] == _WORDS_AROUND_PUNCTUATION),
    )


class _Normalisation:
    """A normalisation, asked for many texts at once."""

    def __init__(self, normalizer: Normalizer) -> None:
        self._normalizer = normalizer

    def __call__(self, texts: Iterable[str]) -> list[str]:
        """Return what each text becomes; one that holds the separator is asked by itself."""
        texts = list(texts)
        if not texts:
            return []
        together = self._normalizer.normalize_str(
            _BETWEEN.join("" if _BETWEEN in text else text for text in texts)
        ).split(_BETWEEN)
        return [
            self._normalizer.normalize_str(text) if _BETWEEN in text else result
            for text, result in zip(texts, together, strict=True)
        ]

    def keeps_order(self, sequences: Iterable[Sequence[str]]) -> list[bool]:
        """Return for each sequence of characters whether they become what each becomes alone."""
        sequences = list(sequences)
        letters = sorted({*itertools.chain.from_iterable(sequences)})
        alone = dict(zip(letters, self(letters), strict=True))
        together = self("a" + "".join(sequence) for sequence in sequences)
        expected = ("a" + "".join(map(alone.__getitem__, sequence)) for sequence in sequences)
        return [a == b for a, b in zip(together, expected, strict=True)]


def _letters() -> list[str]:
    """Return every character of Unicode, surrogates apart."""
    return [chr(n) for n in range(sys.maxunicode + 1) if n not in SURROGATES]


def _splits_hangul(becomes: Mapping[str, str]) -> bool:
    """Return whether syllables become letters, after checking that all do so by arithmetic."""
    if all(becomes[chr(number)] == chr(number) for number in _HANGUL):
        return False
    assert all(becomes[chr(n)] == _letters_of_syllable(n - _HANGUL.start) for n in _HANGUL)
    return True


def _letters_of_syllable(index: int) -> str:
    """Return the letters of a syllable of Hangul (The Unicode Standard, section 3.12)."""
    first, middle, last = index // 588, index % 588 // 28, index % 28
    return chr(0x1100 + first) + chr(0x1161 + middle) + (chr(0x11A7 + last) if last else "")


def _order_of_marks(normalise: _Normalisation, kept: Sequence[str]) -> dict[str, int]:
    """Return the marks that canonical ordering moves, with their place in the order, from 0."""
    behind = normalise.keeps_order((_HIGH, letter) for letter in kept)
    before = normalise.keeps_order((letter, _LOW) for letter in kept)
    marks = [letter for letter, *stays in zip(kept, behind, before, strict=True) if not all(stays)]
    pairs = list(itertools.product(marks, marks))
    places = Counter(dict.fromkeys(marks, 0))
    for (_, second), stays in zip(pairs, normalise.keeps_order(pairs), strict=True):
        places[second] += stays
    return dict(places)


def _ranges(letters: Iterable[str]) -> list[int]:
    """Return the first and the last number of each run of characters, one after the other."""
    runs: list[int] = []
    for number in sorted(map(ord, letters)):
        after_gap = number == SURROGATES.stop and runs and runs[-1] == SURROGATES.start - 1
        if runs and (number == runs[-1] + 1 or after_gap):
            runs[-1] = number
        else:
            runs += [number, number]
    return runs
