"""Texts that implementations of a tokenizer get wrong: the inputs of test vectors."""

import itertools
import random
from collections.abc import Callable, Sequence

COUNT = 10_000
"""How many texts there are."""

_BLANKS = "\t\n\r\v\f \x1c\x1f\x85\xa0\u1680\u2000\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_REMOVED = "\0\ufffd\u200b\u200d\u2060\ufeff\xad\u202e\u2066\x07\x1b\x7f\x9f\ue000\U000f0000"
# Accents, which are removed; marks that stay and move; one that others do not pass.
_MARKS = (
    "\u0300\u0301\u0327\u0338\u20dd\u05b0\u094d\u1b44\u302e\u302f\ua953\U0001d165\U0001d16d\u0a70"
)
_CASES = (
    "\u0130I\u0131i\u017f\xdf\u1e9e\u03a3\u03c3\u03c2\u01c4\u01c5\u01c6\xc5\u212b\ufb01\u0149\u0390"
)
_EMOJI = (
    *(
        "\U0001f600",
        "\U0001f44d\U0001f3fd",
        "1\ufe0f\u20e3",
        "\U0001f1e9\U0001f1ea",
        "\u263a\ufe0f",
    ),
    *(
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\U0001fae0",
    ),
)
_WORDS = (
    *(
        "look",
        "at",
        "him",
        "Cr\xe8me",
        "na\xefve",
        "Stra\xdfe",
        "\u038c\u03a3\u039f\u03a3",
        "\u0130STANBUL",
    ),
    *("don't", "e-mail", "U.S.A.", "$9.99", "50%", "C++", "#tag", "@user", "http://a.b/c?d=e&f"),
    *(
        "\u6f22\u5b57",
        "\u30ac",
        "\u30ab\u3099",
        "\ud55c\uad6d\uc5b4",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
    ),
    *(
        "\u0e44\u0e17\u0e22",
        "\u05e2\u05b4\u05d1\u05e8",
        "\u0627\u0644\u0639\u0651",
        "Vi\u1ec7t",
        "\u2460",
        "\xbd",
    ),
    *("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "##s", "[", "]", "\U0001d4b3", "\uff46\uff55"),
)
# One is drawn first, then a character of it: small scripts come up as often as large ones.
_RANGES = (
    *((0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x531, 0x6FF), (0x700, 0xDFF)),
    *((0xE00, 0x11FF), (0x1200, 0x1CFF), (0x1D00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2FFF)),
    *((0x3000, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xFAFF)),
    *((0xFB00, 0xFFFF), (0x10000, 0x11FFF), (0x12000, 0x1CFFF), (0x1D000, 0x1DFFF)),
    *((0x1E000, 0x1F2FF), (0x1F300, 0x1FAFF), (0x20000, 0x2FA1F), (0xE0000, 0x10FFFF)),
)
_LONGEST, _MOST_WORDS = 40, 12


def odd_texts(vocabulary: Sequence[str]) -> list[str]:
    """Return 10,000 texts from a fixed seed, none of which has a lone surrogate.

    Args:
        vocabulary: Pieces of a model, of which some texts are made.
    """
    chance = random.Random(0)
    texts = ["", *_BLANKS, _BLANKS, *_REMOVED, _REMOVED]
    texts += ["a" * 100, "a" * 101, "\xe9" * 100, "\xe9" * 101, "\U0001d4b3" * 60, "word " * 600]
    kinds = itertools.cycle(_kinds(vocabulary))
    return texts + [next(kinds)(chance) for _ in range(COUNT - len(texts))]


def _kinds(vocabulary: Sequence[str]) -> list[Callable[[random.Random], str]]:
    """Return one function for each kind of text."""
    drawn = [_drawn(letters) for letters in (_BLANKS + "ab", _REMOVED + "ab", _MARKS + "ab.\xe9")]
    return [
        *drawn,
        _drawn(_CASES + "aB"),
        _drawn([*_EMOJI, "a", " "]),
        _drawn([*_MARKS, *_CASES, *_BLANKS, *_REMOVED, *_EMOJI, *_WORDS]),
        lambda chance: "".join(_any_letter(chance) for _ in range(chance.randint(1, _LONGEST))),
        lambda chance: _joined(chance, _WORDS),
        lambda chance: _joined(chance, vocabulary),
        lambda chance: _joined(chance, [*vocabulary, *_WORDS, *_EMOJI]).title(),
    ]


def _drawn(letters: Sequence[str]) -> Callable[[random.Random], str]:
    """Return a function that strings some of the letters together."""
    return lambda chance: "".join(chance.choices(letters, k=chance.randint(1, _LONGEST)))


def _joined(chance: random.Random, words: Sequence[str]) -> str:
    """Join words by what stands between words."""
    some = chance.choices(words, k=chance.randint(1, _MOST_WORDS))
    return "".join(word + chance.choice(("", " ", " ", ", ", "\n", "\xa0", "-")) for word in some)


def _any_letter(chance: random.Random) -> str:
    """Return a character of any part of Unicode."""
    return chr(chance.randint(*chance.choice(_RANGES)))
