"""Cutting a pretrained vocabulary to a task: fewer tokens to store, and no text that fails.

Special tokens, the tokens of the training texts, and every single character of ASCII and of the
scripts of those texts are kept, so that other words are spelled with shorter tokens.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from msd_deploy.data.preprocess import INSIDE_WORD, encodings
from msd_deploy.errors import ConfigError

_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True, slots=True)
class CutVocabulary:
    """A tokenizer with the pieces of a task alone.

    Attributes:
        tokenizer: Its tokens are numbered anew, in the order of the old numbers.
        kept: The old number of each token.
        pieces: Pieces of the texts.
        kept_pieces: How many of them are the pieces that the whole vocabulary gives.
    """

    tokenizer: Tokenizer
    kept: tuple[int, ...]
    pieces: int
    kept_pieces: int

    @property
    def note(self) -> str:
        """What a user should know of it."""
        return (
            f"the vocabulary is cut to {len(self.kept):,} tokens, which are {self.coverage:.1%} of"
            " the training texts' pieces; other words are spelled with shorter ones"
        )

    @property
    def coverage(self) -> float:
        """Share of the texts' pieces that stay as they were, 0 to 1."""
        return self.kept_pieces / self.pieces if self.pieces else 1.0


def cut_vocabulary(
    tokenizer: Tokenizer, texts: Iterable[str], *, most: int | None = None
) -> CutVocabulary:
    """Return a tokenizer with the pieces that texts are made of.

    Args:
        tokenizer: Of BERT's type (WordPiece). It is left as it is.
        texts: The training texts.
        most: How many tokens, single characters and special tokens included: the rarest pieces go,
            or further tokens stay, those with the lowest numbers (in BERT's files they are the
            most frequent). None: the texts' own.

    Raises:
        ConfigError: The tokenizer is of another type, or the limit leaves no room for characters.
    """
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    if content["model"]["type"] != "WordPiece":
        raise ConfigError(
            f"a {content['model']['type']} vocabulary cannot be cut, only WordPiece",
            fix="Keep it whole, or start from a checkpoint of BERT's type",
        )
    vocabulary: dict[str, int] = content["model"]["vocab"]
    counts = _count_pieces(content, texts)
    needed = {token["id"] for token in content["added_tokens"]}
    needed |= _characters(vocabulary, counts)
    if most is not None and len(needed) > most:
        raise ConfigError(
            f"{most} tokens do not hold the {len(needed)} single characters and special tokens",
            where="data.vocabulary_size",
            fix=f"Use {len(needed)} or more",
        )
    ranked = sorted(
        counts if most is None else _words(vocabulary),
        key=lambda number: (-counts[number], number),
    )
    further = [number for number in ranked if number not in needed]
    room = None if most is None else most - len(needed)
    kept = needed.union(further[:room])
    return CutVocabulary(
        _with_tokens(content, tuple(sorted(kept))),
        tuple(sorted(kept)),
        counts.total(),
        sum(times for number, times in counts.items() if number in kept),
    )


def _words(vocabulary: Mapping[str, int]) -> list[int]:
    """Return the tokens that a text can have; BERT's files also hold places never used."""
    return [number for piece, number in vocabulary.items() if not _UNUSED.fullmatch(piece)]


def _characters(vocabulary: Mapping[str, int], counts: Mapping[int, int]) -> set[int]:
    """Return the tokens that are one character of ASCII or of a script that the texts use."""
    seen = (piece for piece, number in vocabulary.items() if number in counts)
    scripts = {_script(letter) for piece in seen for letter in piece if letter.isalpha()}
    letters = ((piece.removeprefix(INSIDE_WORD), number) for piece, number in vocabulary.items())
    return {
        number
        for letter, number in letters
        if len(letter) == 1 and (letter.isascii() or _script(letter) in scripts)
    }


def _script(letter: str) -> str:
    """Return the first word of a character's Unicode name, such as LATIN or CYRILLIC."""
    return unicodedata.name(letter, "").partition(" ")[0]


def _count_pieces(content: Mapping[str, Any], texts: Iterable[str]) -> Counter[int]:
    """Count the pieces of texts, whole: neither cut nor padded, without special tokens."""
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    counts: Counter[int] = Counter()
    for encoding in encodings(tokenizer, list(texts), add_special_tokens=False):
        counts.update(encoding.ids)
    return counts


def _with_tokens(content: Mapping[str, Any], kept: tuple[int, ...]) -> Tokenizer:
    """Return the tokenizer with some of its tokens, numbered from 0."""
    new = {old: number for number, old in enumerate(kept)}
    vocabulary = {piece: new[old] for piece, old in content["model"]["vocab"].items() if old in new}
    changed = {
        **content,
        "truncation": None,
        "padding": None,
        "model": {**content["model"], "vocab": vocabulary},
        "added_tokens": [{**one, "id": new[one["id"]]} for one in content["added_tokens"]],
        "post_processor": _renumbered(content["post_processor"], new),
    }
    return Tokenizer.from_str(json.dumps(changed))


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor with the new numbers of the tokens that it adds."""
    if isinstance(processor, list):  # ["[SEP]", 102] of BertProcessing, or a list of processors
        is_token = len(processor) == 2 and isinstance(processor[1], int)
        return (
            [processor[0], new[processor[1]]]
            if is_token
            else [_renumbered(one, new) for one in processor]
        )
    if isinstance(processor, dict):
        return {
            key: [new[number] for number in value] if key == "ids" else _renumbered(value, new)
            for key, value in processor.items()
        }
    return processor
