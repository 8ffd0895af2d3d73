"""Test vectors: what Python computes from odd texts and images, for an app to compute as well.

docs/preprocessing.md defines each of them. An app that replays them finds every difference in its
preprocessing, and in the arithmetic of its runtime, before its users do.
"""

import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.images import decode_image
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import PixelArray
from msd_export.bundle.odd_images import image_files, noise_images
from msd_export.bundle.text_rules import SURROGATES
from msd_export.opened_model import OpenedModel

EXAMPLES = 100
"""The most examples of a data set."""
_FULL_TEXTS, _TEXTS_A_DIGEST, _SCALARS_A_DIGEST = 300, 100, 0x1000
_IMAGES, _EXAMPLES = "images", "examples"
_LOSSY = (".jpg", "lossy.webp")


@dataclass(frozen=True, slots=True)
class Example:
    """An example of a data set.

    Attributes:
        pixels: uint8 [height, width, 3], as the model takes it; None: it has no image.
        text: Its text, perhaps blank.
    """

    pixels: PixelArray | None = field(repr=False)
    text: str


def text_vectors(preprocessor: Preprocessor, texts: Sequence[str]) -> list[Json]:
    """Return some of the texts, of each kind alike, with words, and identifiers before padding."""
    some = list(texts[:: len(texts) // _FULL_TEXTS])[:_FULL_TEXTS]
    input_ids, mask = preprocessor.tokens(some)
    return [
        {
            "text": text,
            "words": _words_of(preprocessor.tokenizer, text),
            "ids": ids[: int(present.sum())].tolist(),
        }
        for text, ids, present in zip(some, input_ids, mask, strict=True)
    ]


def _words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def text_digests(preprocessor: Preprocessor, texts: Sequence[str]) -> Json:
    """Return all texts with digests of their identifiers, and digests of all characters' words."""
    tokenizer = preprocessor.tokenizer
    input_ids, _ = preprocessor.tokens(texts)
    starts = range(0, len(texts), _TEXTS_A_DIGEST)
    parts = [slice(start, start + _TEXTS_A_DIGEST) for start in starts]
    lines = [" ".join(_words_of(tokenizer, text)) + "\n" for text in texts]
    return {
        "texts": list(texts),
        "texts_a_digest": _TEXTS_A_DIGEST,
        "ids": [_digest(input_ids[part].astype("<i4").tobytes()) for part in parts],
        "words_of_texts": [_digest("".join(lines[part]).encode()) for part in parts],
        "characters_a_digest": _SCALARS_A_DIGEST,
        "words": [_digest(part.encode()) for part in _words(tokenizer)],
    }


def _words(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the words of "a", a character and "b", a line for each, of 4,096 characters at a time.

    Surrogates are left out.
    """
    for start in range(0, sys.maxunicode + 1, _SCALARS_A_DIGEST):
        lines = []
        for number in range(start, start + _SCALARS_A_DIGEST):
            if number in SURROGATES:
                continue
            lines.append(" ".join(_words_of(tokenizer, f"a{chr(number)}b")) + "\n")
        yield "".join(lines)


def noise_vectors(preprocessor: Preprocessor) -> list[Json]:
    """Return images of noise with the digest of the pixels that the model gets."""
    return [
        {
            "width": image.width,
            "height": image.height,
            "channels": image.channels,
            "orientation": image.orientation,
            "seed": image.seed,
            "model_pixels": _digest(preprocessor.pixels(image.encoded()).tobytes()),
        }
        for image in noise_images(preprocessor.image.size)
    ]


def image_vectors(preprocessor: Preprocessor, folder: Path) -> list[Json]:
    """Write image files below a folder; return the digests of their pixels, whole and resized.

    Those of lossy files are of Pillow's decoder, from which others differ a little.
    """
    (folder / _IMAGES).mkdir()
    vectors: list[Json] = []
    for name, content in image_files():
        (folder / _IMAGES / name).write_bytes(content)
        whole = np.asarray(decode_image(content))
        vectors.append(
            {
                "file": f"{_IMAGES}/{name}",
                "is_lossy": name.endswith(_LOSSY),
                "width": whole.shape[1],
                "height": whole.shape[0],
                "pixels": _digest(whole.tobytes()),
                "model_pixels": _digest(preprocessor.pixels(content).tobytes()),
            }
        )
    return vectors


def answers(opened: OpenedModel, examples: Sequence[Example], folder: Path) -> list[Json]:
    """Write the images of examples, as the model takes them; return its answers for every view.

    Each example that has both an image and a text is answered three times.
    """
    (folder / _EXAMPLES).mkdir()
    vectors: list[Json] = []
    for number, example in enumerate(examples):
        stated: Json = {"image": None, "text": example.text}
        if example.pixels is not None:
            name = f"{_EXAMPLES}/{number:03}.png"
            (folder / name).write_bytes(_png(example.pixels))
            stated["image"] = name
        predictions = [
            opened.predict(image=pixels, text=text) for pixels, text in asked_of(example)
        ]
        stated["views"] = {
            found.view.value: {
                "logits": [float(str(value)) for value in found.logits],
                "probabilities": [round(value, 7) for value in found.probabilities.values()],
                "decided": list(found.decided),
            }
            for found in predictions
        }
        vectors.append(stated)
    return vectors


def asked_of(example: Example) -> list[tuple[PixelArray | None, str]]:
    """Return what a model is asked about an example: all of it, its image alone, its text alone."""
    asked = [(example.pixels, example.text), (example.pixels, ""), (None, example.text)]
    return [(pixels, text) for pixels, text in asked if pixels is not None or text.strip()]


def _png(pixels: PixelArray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
