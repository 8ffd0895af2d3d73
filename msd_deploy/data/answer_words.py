"""Answers of people brought to one form, as VQA's evaluation compares them (Antol et al. 2015).

Its description (visualqa.org/evaluation.html), in this order: lower case; no comma between digits;
other punctuation but apostrophe and colon, a decimal point and a sign such as 50% aside, becomes
white space, or goes where it joins no two words; a full stop goes unless a digit follows it; number
words become digits; the articles go; contractions get the apostrophe that they lack. The list of
contractions is ours: words that are nothing else without their apostrophe.
"""

import re

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_NEGATED = (
    *("are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might", "must"),
    *("need", "should", "was", "were", "wo", "would"),
)
_CONTRACTIONS = {
    **{f"{verb}nt": f"{verb}n't" for verb in _NEGATED},
    **{f"{verb}ve": f"{verb}'ve" for verb in ("could", "might", "must", "should", "would")},
    **{f"{who}ve": f"{who}'ve" for who in ("i", "they", "we", "you", "who")},
    **{f"{who}re": f"{who}'re" for who in ("they", "you", "who")},
    **{f"{who}s": f"{who}'s" for who in ("he", "she", "that", "there", "what", "where", "who")},
    **{f"{who}ll": f"{who}'ll" for who in ("it", "they", "you", "that", "who")},
    **{f"{who}d": f"{who}'d" for who in ("it", "they", "you", "who", "there")},
    **{"im": "i'm", "lets": "let's", "oclock": "o'clock", "yall": "y'all", "maam": "ma'am"},
}
_PUNCTUATION = r";/\[\]\"{}()=+\\_\-><@`,?!"
_JOINS_WORDS = re.compile(rf"(?<=\w)[{_PUNCTUATION}](?=\w)")
_OTHER = re.compile(rf"[{_PUNCTUATION}]")
_COMMA_OF_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")


def normal_answer(answer: str) -> str:
    """Return an answer in the form in which answers are compared; may be empty."""
    text = _COMMA_OF_NUMBER.sub("", answer.lower())
    text = _OTHER.sub("", _JOINS_WORDS.sub(" ", text))
    words = (_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", text).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
