"""docs/preprocessing.md in plain Python, written from that page alone: no tokenizers, no Pillow."""

import bisect
import hashlib
from typing import Any

import numpy as np

from tests.data.test_images import reference_resize

WHITE = 255


class PlainTokenizer:
    """The tokenizer by text.json."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.rules = rules
        self.ids = {piece: number for number, piece in enumerate(rules["vocabulary"])}
        self.becomes = {source: target for source, *target in rules["replaced"]}
        self.places = dict(rules["order"])

    def is_in(self, name: str, number: int) -> bool:
        # An odd position among first, last, first, last, ... is within a range, and so is a first.
        ranges = self.rules[name]
        at = bisect.bisect_left(ranges, number)
        return at % 2 == 1 or (at < len(ranges) and ranges[at] == number)

    def normalise(self, text: str) -> list[int]:
        result: list[int] = []
        run: list[int] = []
        for number in map(ord, text):
            number = 0xFFFD if 0xD800 <= number < 0xE000 else number
            if self.is_in("removed", number):
                if self.is_in("barriers", number):
                    result += sorted(run, key=self.places.__getitem__)
                    run = []
                continue
            for one in self.spelled(number):
                if one in self.places:
                    run.append(one)
                    continue
                result += [*sorted(run, key=self.places.__getitem__), one]
                run = []
        return result + sorted(run, key=self.places.__getitem__)

    def spelled(self, number: int) -> list[int]:
        if self.is_in("blank", number):
            return [0x20]
        becomes = self.becomes.get(number, [number])
        if self.rules["splits_hangul"] and 0xAC00 <= number <= 0xD7A3:
            at = number - 0xAC00
            last = [0x11A7 + at % 28] if at % 28 else []
            becomes = [0x1100 + at // 588, 0x1161 + at % 588 // 28, *last]
        return [0x20, *becomes, 0x20] if self.is_in("spaced", number) else becomes

    def words(self, text: str) -> list[str]:
        words, word = [], ""
        for number in [*self.normalise(text), 0x20]:
            alone = self.is_in("punctuation", number)
            if (number == 0x20 or alone) and word:
                words.append(word)
                word = ""
            if alone:
                words.append(chr(number))
            elif number != 0x20:
                word += chr(number)
        return words

    def pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = self.rules["inside_word"] if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.ids), 0)
            if not end or len(word) > self.rules["longest_word"]:
                return [self.rules["unknown_id"]]
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found

    def encode(self, text: str) -> list[int]:
        if all(self.is_in("absent", ord(letter)) for letter in text):
            return [self.rules["absent_id"]]
        pieces = [number for word in self.words(text) for number in self.pieces(word)]
        kept = pieces[: self.rules["max_length"] - 2]
        return [self.rules["start_id"], *kept, self.rules["end_id"]]


def noise(vector: dict[str, Any]) -> np.ndarray[Any, Any]:
    shape = (vector["height"], vector["width"], vector["channels"])
    value, values = vector["seed"], []
    for _ in range(int(np.prod(shape))):
        value = (1664525 * value + 1013904223) % 2**32
        values.append(value >> 24)
    return np.array(values, np.uint8).reshape(shape)


def upright(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def model_pixels(vector: dict[str, Any], image: dict[str, Any]) -> str:
    """Return the SHA-256 of what the model gets of a vector of noise."""
    stored = upright(noise(vector), vector["orientation"]).astype(np.int64)
    if vector["channels"] == 4:
        opacity = stored[..., 3:]
        stored = (stored[..., :3] * opacity + WHITE * (255 - opacity) + 127) // 255
    pixels = np.ascontiguousarray(np.broadcast_to(stored, (*stored.shape[:2], 3)), np.uint8)
    (height, width), (h, w) = pixels.shape[:2], image["size"]
    wider = width * h > height * w
    if wider == (image["mode"] == "fit"):
        scaled = (w, max(1, (2 * height * w + width) // (2 * width)))
    else:
        scaled = (max(1, (2 * width * h + height) // (2 * height)), h)
    resized = reference_resize(pixels, *scaled)
    top, left = abs(h - scaled[1]) // 2, abs(w - scaled[0]) // 2
    if image["mode"] == "crop":
        result = resized[top : top + h, left : left + w]
    else:
        result = np.full((h, w, 3), WHITE, np.uint8)
        result[top : top + scaled[1], left : left + scaled[0]] = resized
    return digest(np.ascontiguousarray(result).tobytes())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
