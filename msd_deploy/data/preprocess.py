"""The one preprocessing specification: image resize and tokenizer, saved beside every model.

Training, export, bench and predict all read this; nothing else resizes or tokenizes. It is two
files: preprocess.json (versioned) and tokenizer.json (Hugging Face tokenizers). Students have
BERT-type WordPiece, schema_version 1; a teacher may bring any tokenizer, whose tokens of padding
and of an absent text are then named, in schema_version 2.
"""

import itertools
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from msd_deploy.artifacts.manifest import (
    RESTORE,
    SCHEMA_VERSION,
    Json,
    check_lfs,
    read_versioned_json,
    sha256_of_json,
    write_json,
    write_text,
)
from msd_deploy.data.images import ImageSource, load_pixels
from msd_deploy.data.resize import MAX_PIXELS, ImageSpec, PixelArray
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.quiet import quiet

PREPROCESS_NAME = "preprocess.json"
TOKENIZER_NAME = "tokenizer.json"
PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
INSIDE_WORD = "##"
# Vectors of 8 float32 fill a register; a shape that is no multiple costs as much.
_LENGTH_MULTIPLE = 8
# A word, and letters that hardly a vocabulary has.
_ANY_TEXT = "a \ua66e \U00013000"
_TEXTS_AT_A_TIME, _WORDS_AT_A_TIME = 1000, 100
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, SEP, MASK)
_ANY_TOKENIZER_VERSION = 2
"""schema_version of a preprocess.json that names the tokenizer's own special tokens."""
_RESIZE = "pillow-bilinear-antialiased-uint8"

IdArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Turns images and texts into a model's inputs, the same way everywhere.

    Attributes:
        image: How an image is resized.
        tokenizer: With its Unicode normalisation and the special tokens that it adds.
        max_length: Tokens of text, those included.
        pad_token: Fills up a text.
        absent_token: The only token of an absent text.
    """

    image: ImageSpec
    tokenizer: Tokenizer
    max_length: int
    pad_token: str = PAD
    absent_token: str = CLS

    def with_max_pixels(self, most: int | None) -> "Preprocessor":
        """Return the preprocessor with another limit of an image's pixels; None leaves it."""
        if most is None:
            return self
        return replace(self, image=replace(self.image, max_pixels=most))

    def pixels(self, source: ImageSource) -> PixelArray:
        """Decode and resize one image to uint8 [height, width, 3].

        Raises:
            DataError: The image cannot be read.
        """
        with warnings.catch_warnings(action="ignore"):  # of odd metadata
            return load_pixels(source, self.image)

    def tokens(self, texts: Sequence[str]) -> tuple[IdArray, IdArray]:
        """Tokenize texts, cut on the right and padded to max_length.

        A blank text is absent_token alone.

        Returns:
            input_ids and attention_mask, both int32 [texts, max_length].
        """
        return self.tokens_and_cut(texts)[:2]

    def tokens_and_cut(self, texts: Sequence[str]) -> tuple[IdArray, IdArray, int]:
        """Return what `tokens` returns, and how many texts are longer than max_length."""
        input_ids = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        attention_mask = np.zeros_like(input_ids)
        absent, cut = [self.cls_id], 0
        for row, encoding in enumerate(encodings(self.tokenizer, texts)):
            ids = encoding.ids if texts[row].strip() else absent
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            cut += bool(encoding.overflowing)
        return input_ids, attention_mask, cut

    @property
    def unknown_id(self) -> int | None:
        """The identifier of what the vocabulary lacks; None if no token stands for that alone."""
        model = json.loads(self.tokenizer.to_str())["model"]
        token = model.get("unk_token")
        number = model.get("unk_id") if token is None else self.tokenizer.token_to_id(token)
        # CLIP's is the end of the text, which spells every text from bytes.
        return None if number in self.tokenizer.encode("").ids else number

    def count_unknown(self, characters: Iterable[str], unknown: int) -> int:
        """Return how many of some characters the vocabulary lacks; `unknown`: its `unknown_id`."""
        found = encodings(self.tokenizer, list(characters), add_special_tokens=False)
        return sum(unknown in encoding.ids for encoding in found)

    @property
    def pad_id(self) -> int:
        """The identifier of the padding token."""
        return _token_id(self.tokenizer, self.pad_token)

    @property
    def cls_id(self) -> int:
        """The identifier of the only token of an absent text: [CLS], or what stands for it."""
        return _token_id(self.tokenizer, self.absent_token)

    def as_json(self) -> Json:
        """Return preprocess.json."""
        has_own_tokens = (self.pad_token, self.absent_token) != (PAD, CLS)
        is_usual = self.image.max_pixels == MAX_PIXELS
        own_tokens = {"pad_token": self.pad_token, "absent_token": self.absent_token}
        return {
            "schema_version": _ANY_TOKENIZER_VERSION if has_own_tokens else SCHEMA_VERSION,
            "image": {
                "size": list(self.image.size),
                "mode": self.image.mode,
                "resize": _RESIZE,
                "orientation": "exif",
                "background": [255, 255, 255],
                "color": "RGB",
                "dtype": "uint8",
                "normalization": "inside the model",
                **({} if is_usual else {"max_pixels": self.image.max_pixels}),
            },
            "text": {
                "tokenizer": TOKENIZER_NAME,
                "max_length": self.max_length,
                "truncation": "right",
                "padding": "right",
                "pad_id": self.pad_id,
                "cls_id": self.cls_id,
                "special_tokens_in_text": "ordinary text",
                "absent": f"{self.absent_token} alone",
                **(own_tokens if has_own_tokens else {}),
            },
        }

    def digest(self) -> str:
        """Return a digest of everything that decides a model's inputs."""
        return sha256_of_json([self.as_json(), self.tokenizer.to_str()])

    def save(self, folder: Path) -> None:
        """Write preprocess.json and tokenizer.json into a folder."""
        write_json(folder / PREPROCESS_NAME, self.as_json())
        write_text(folder / TOKENIZER_NAME, self.tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, folder: Path) -> "Preprocessor":
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, malformed, or has an unknown value.
        """
        path = folder / PREPROCESS_NAME
        values = read_versioned_json(path, newest=_ANY_TOKENIZER_VERSION)
        image, text = values.get("image"), values.get("text")
        if not isinstance(image, dict) or not isinstance(text, dict):
            raise ArtifactError("has no image and text part", where=path, fix=RESTORE)
        pad_token, absent_token = text.get("pad_token", PAD), text.get("absent_token", CLS)
        if not isinstance(pad_token, str) or not isinstance(absent_token, str):
            raise ArtifactError("has special tokens that are not strings", where=path, fix=RESTORE)
        tokenizer = read_tokenizer(folder / TOKENIZER_NAME, (pad_token, absent_token))
        loaded = build_preprocessor(
            tokenizer,
            _image_spec(image, path),
            max_length=_positive(text.get("max_length"), path),
            pad_token=pad_token,
            absent_token=absent_token,
        )
        if len(tokenizer.encode("").ids) > loaded.max_length:
            raise ArtifactError(
                f"has a max_length of {loaded.max_length}, less than the tokens of an empty text",
                where=path,
                fix=RESTORE,
            )
        loaded._check_stated({"image": image, "text": text}, path)
        return loaded

    def _check_stated(self, stated: Mapping[str, Json], path: Path) -> None:
        """Check that a file states nothing else than what is done; further keys are ignored."""
        done = self.as_json()
        for part, values in stated.items():
            known = cast(Json, done[part])
            for key, value in known.items():
                if json.dumps(values.get(key)) != json.dumps(value):
                    raise ArtifactError(
                        f"states {part}.{key} {values.get(key)!r}, which is {value!r} for this"
                        " model",
                        where=path,
                        fix=RESTORE,
                    )


def build_preprocessor(
    tokenizer: Tokenizer,
    image: ImageSpec,
    *,
    max_length: int,
    pad_token: str = PAD,
    absent_token: str = CLS,
) -> Preprocessor:
    """Assemble a preprocessor; sets the tokenizer's truncation and turns its own padding off."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    tokenizer.encode_special_tokens = True
    return Preprocessor(image, tokenizer, max_length, pad_token, absent_token)


def fitting_length(tokenizer: Tokenizer, texts: Iterable[str], *, most: int) -> int:
    """Return the fewest tokens that hold every text whole, as a multiple of 8, up to a limit.

    Args:
        tokenizer: Its truncation and padding are turned off.
        texts: The training texts.
        most: The limit.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    longest = 1
    # What has most characters first: where a text reaches the limit, one of the first ones does.
    for encoding in encodings(tokenizer, sorted(set(texts), key=len, reverse=True)):
        longest = max(longest, len(encoding.ids))
        if longest >= most:
            break
    return min(most, -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE)


def encodings(
    tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool = True
) -> Iterator[Encoding]:
    """Yield the encoding of each text, few of them in memory: one takes up some 6 kB."""
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        some = list(texts[start : start + _TEXTS_AT_A_TIME])
        yield from tokenizer.encode_batch_fast(some, add_special_tokens=add_special_tokens)


def _image_spec(values: Json, path: Path) -> ImageSpec:
    size, mode = values.get("size"), values.get("mode")
    if not isinstance(size, list) or len(size) != 2 or mode not in ("fit", "crop"):
        raise ArtifactError(
            f"has an invalid image size or mode ({size!r}, {mode!r})", where=path, fix=RESTORE
        )
    height, width = (_positive(side, path) for side in size)
    return ImageSpec((height, width), mode, _positive(values.get("max_pixels", MAX_PIXELS), path))


def _positive(value: object, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ArtifactError(f"has {value!r} instead of a positive integer", where=path, fix=RESTORE)
    return value


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    """Train a WordPiece tokenizer as BERT's uncased one works; equal texts give equal tokenizers.

    Normalisation: control characters out, white space to blanks, Chinese characters apart, accents
    off (NFD without combining marks), lower case. Then split at white space and punctuation.

    Args:
        texts: The training texts.
        vocabulary_size: Upper limit of the number of pieces, special tokens included. Where the
            characters alone exceed it, the most frequent are kept; words with others are [UNK].
    """
    words = _count_words(_wordpiece({token: i for i, token in enumerate(SPECIAL_TOKENS)}), texts)
    alphabet = _alphabet(words, most=vocabulary_size - len(SPECIAL_TOKENS))
    words = Counter({word: times for word, times in words.items() if alphabet.issuperset(word)})
    # The trainer numbers the letters inside words as its hash map yields them, and breaks ties by
    # number: given to it in order, like the special tokens, the result is always the same.
    letters = sorted({f"{INSIDE_WORD}{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=[*SPECIAL_TOKENS, *letters], show_progress=False
    )
    learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(words), trainer)
    return _wordpiece(learner.get_vocab())


def _alphabet(words: Counter[str], *, most: int) -> set[str]:
    """Return the most frequent characters of words, as many as a number of pieces holds.

    A character is one piece, and another one if it also occurs inside a word.
    """
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, times in words.items():
        inside.update(word[1:])
        for letter in word:
            counts[letter] += times
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    sizes = itertools.accumulate(2 if letter in inside else 1 for letter in ranked)
    return {letter for letter, size in zip(ranked, sizes, strict=True) if size <= most}


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.BertProcessing(
        (SEP, _token_id(tokenizer, SEP)), (CLS, _token_id(tokenizer, CLS))
    )
    return tokenizer


def _count_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the words that normalisation and splitting make of texts."""
    # Nothing in normalisation or splitting looks across a blank, so each different part of the
    # texts is treated once: of 160,000 texts of 23 words in a quarter of the time.
    parts = Counter(part for text in texts for part in text.split(" "))
    counts: Counter[str] = Counter()
    for part, times in parts.items():
        normalised = tokenizer.normalizer.normalize_str(part)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalised):
            counts[word] += times
    return counts


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Yield every word as often as it was counted, many in a text."""
    for word, times in words.items():
        whole, rest = divmod(times, _WORDS_AT_A_TIME)
        yield from repeat(" ".join([word] * _WORDS_AT_A_TIME), whole)
        if rest:
            yield " ".join([word] * rest)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, or the one in a folder, with the special tokens of BERT.

    Raises:
        ArtifactError: The file is missing or malformed.
        ConfigError: It lacks one of [PAD], [UNK], [CLS] and [SEP], or its ids are not those of an
            embedding with a row for each token.
    """
    tokenizer = read_tokenizer(path, (PAD, UNKNOWN, CLS, SEP))
    check_ids(tokenizer, path)
    return special_tokens_as_text(tokenizer)


def check_ids(tokenizer: Tokenizer, path: Path) -> None:
    """Check that tokens are numbered without gaps, and written under the numbers that they have.

    Raises:
        ConfigError: They are not.
    """
    count, highest = tokenizer.get_vocab_size(), highest_id(tokenizer)
    if highest >= count:
        raise ConfigError(
            f"tokenizer has {count} tokens, but ids up to {highest}",
            where=path,
            fix="Number its tokens from 0 without gaps, or leave it out to train one",
        )
    added = tokenizer.encode("")
    for token, number in zip(added.tokens, added.ids, strict=True):
        if tokenizer.token_to_id(token) != number:
            raise ConfigError(
                f"tokenizer adds {token} to a text as id {number}, but its vocabulary has it as"
                f" {tokenizer.token_to_id(token)}",
                where=path,
                fix="Correct the ids of its post_processor",
            )


def highest_id(tokenizer: Tokenizer) -> int:
    """Return the highest id of a token, those included that are added to each text."""
    return max([*tokenizer.get_vocab().values(), *tokenizer.encode("").ids])


def special_tokens_as_text(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer in which special tokens that a text contains are ordinary text.

    Their names are in the vocabulary, where WordLevel and WordPiece find them as words, and Unigram
    as pieces. Behind the own pre-tokenizer, such a name is split after its first character. A
    tokenizer that does not find them is returned unchanged.
    """
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    names = {
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    }
    names.update(tokenizer.encode("").tokens)

    def ids(of: Tokenizer, name: str) -> list[int]:
        return list(of.encode(name, add_special_tokens=False).ids)

    found = sorted(name for name in names if tokenizer.token_to_id(name) in ids(tokenizer, name))
    split = Tokenizer.from_str(tokenizer.to_str())
    split.encode_special_tokens = True
    pattern = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in found)
    behind = pre_tokenizers.Split(Regex(pattern), "isolated")
    before = tokenizer.pre_tokenizer
    split.pre_tokenizer = behind if before is None else pre_tokenizers.Sequence([before, behind])
    # [UNK] also stands for its own characters where the vocabulary lacks them.
    is_equal = all(ids(split, name) == ids(tokenizer, name) for name in found)
    return tokenizer if is_equal else split


def read_tokenizer(path: Path, tokens: Iterable[str] = ()) -> Tokenizer:
    """Read a tokenizer.json of any kind, or the one in a folder.

    Its padding and truncation are turned off.

    Args:
        path: The file or its folder.
        tokens: Those that it must have.

    Raises:
        ArtifactError: The file is missing or malformed.
        ConfigError: It lacks one of the tokens.
    """
    file = path / TOKENIZER_NAME if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError("no such tokenizer file", where=file, fix="Check the path")
    try:
        with quiet():  # what the Rust library panics of is printed too
            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            tokenizer.encode(_ANY_TEXT)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the Rust library raises Exception itself, and a panic
        check_lfs(file)
        raise ArtifactError(f"is not a tokenizer ({error})", where=file, fix=RESTORE) from error
    for token in tokens:
        if tokenizer.token_to_id(token) is None:
            raise ConfigError(
                f"tokenizer has no {token}",
                where=file,
                fix="Use a BERT-type tokenizer, or leave it out to train one",
            )
    return tokenizer


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    identifier = tokenizer.token_to_id(token)
    assert identifier is not None  # checked when the tokenizer was made
    return identifier
