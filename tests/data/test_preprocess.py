import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from msd_deploy.data.preprocess import (
    SPECIAL_TOKENS,
    Preprocessor,
    build_preprocessor,
    fitting_length,
    load_tokenizer,
    special_tokens_as_text,
    train_tokenizer,
)
from msd_deploy.data.resize import MAX_PIXELS, ImageSpec
from msd_deploy.errors import ArtifactError, ConfigError

RESIZE = "pillow-bilinear-antialiased-uint8"
TEXTS = ["A red circle", "the blue square is here", "Crème brûlée, naïve café!"]


@pytest.fixture
def preprocessor() -> Preprocessor:
    tokenizer = train_tokenizer(TEXTS, vocabulary_size=200)
    return build_preprocessor(tokenizer, ImageSpec((32, 24), "crop"), max_length=8)


def test_texts_are_cut_and_padded_to_the_maximum(preprocessor: Preprocessor) -> None:
    ids, mask = preprocessor.tokens(["red circle", "the blue square is here " * 9, ""])
    assert ids.shape == mask.shape == (3, 8)
    assert ids.dtype == mask.dtype == np.int32
    assert ids[1][0] == preprocessor.cls_id
    assert mask[1].all()
    assert ids[0][mask[0] == 0].tolist() == [preprocessor.pad_id] * int((mask[0] == 0).sum())


def test_the_fitting_length_holds_the_longest_text(preprocessor: Preprocessor) -> None:
    words = "the blue square is here "
    tokenizer = preprocessor.tokenizer  # with a truncation that must not count
    assert fitting_length(tokenizer, ["red", "the blue square is here"], most=32) == 8
    assert fitting_length(tokenizer, ["red", words * 3], most=32) == 24  # 15 words, [CLS], [SEP]
    assert fitting_length(tokenizer, [words * 3], most=20) == 20
    assert fitting_length(tokenizer, [], most=32) == 8
    tokenizer.enable_padding(length=30)  # as many tokenizers that are brought along are saved
    assert fitting_length(tokenizer, ["red"], most=32) == 8


def test_texts_that_lose_their_end_are_counted(preprocessor: Preprocessor) -> None:
    exactly = "the blue square is here here"  # 6 words, [CLS] and [SEP]: 8 tokens
    assert preprocessor.tokens([exactly])[1].all()
    assert preprocessor.tokens_and_cut(["", "red circle", exactly])[2] == 0
    assert preprocessor.tokens_and_cut([exactly + " red", "red", exactly * 3])[2] == 2


def test_a_blank_text_is_cls_alone(preprocessor: Preprocessor) -> None:
    ids, mask = preprocessor.tokens(["", " \t\n"])
    assert mask.tolist() == [[1] + [0] * 7] * 2
    assert ids[:, 0].tolist() == [preprocessor.cls_id] * 2


def test_case_and_accents_do_not_matter(preprocessor: Preprocessor) -> None:
    first, second = preprocessor.tokens(["CRÈME brûlée", "creme brulee"])[0]
    assert first.tolist() == second.tolist()


def test_special_tokens_in_a_text_are_ordinary_text(preprocessor: Preprocessor) -> None:
    separator = preprocessor.tokenizer.token_to_id("[SEP]")
    ids, _ = preprocessor.tokens(["[SEP]"])
    assert separator not in ids[0][1:2].tolist()
    assert ids[0].tolist().count(separator) <= 1


def test_what_is_saved_is_what_is_loaded(preprocessor: Preprocessor, tmp_path: Path) -> None:
    preprocessor.save(tmp_path)
    loaded = Preprocessor.load(tmp_path)
    assert loaded.digest() == preprocessor.digest()
    assert loaded.image == ImageSpec((32, 24), "crop")
    assert np.array_equal(loaded.tokens(TEXTS)[0], preprocessor.tokens(TEXTS)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version 99"),
        ({"image": None}, "no image and text part"),
        (
            {
                "image": {
                    "size": [0, 4],
                    "mode": "fit",
                    "resize": "pillow-bilinear-antialiased-uint8",
                }
            },
            "0 instead of",
        ),
        (
            {"image": {"size": [4, 4], "mode": "fit", "resize": "lanczos"}},
            "states image.resize 'lanczos', which is 'pillow-bilinear-antialiased-uint8'",
        ),
        ({"text": {"max_length": "8"}}, "'8' instead of a positive integer"),
        ({"text": {"max_length": True}}, "True instead of a positive integer"),
        ({"text": {"max_length": 10**30}}, "0 instead of a positive integer"),
        ({"text": {"max_length": 1}}, "a max_length of 1, less than the tokens of an empty text"),
        (
            {"text": {"max_length": 8, "pad_id": 7}},
            "states text.tokenizer None, which is 'tokenizer.json'",
        ),
    ],
)
def test_a_malformed_specification_is_refused(
    preprocessor: Preprocessor, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    preprocessor.save(tmp_path)
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        Preprocessor.load(tmp_path)


def test_another_limit_of_pixels_is_saved_and_the_usual_one_changes_no_file(
    preprocessor: Preprocessor, tmp_path: Path
) -> None:
    larger = preprocessor.with_max_pixels(200_000_000)
    assert preprocessor.with_max_pixels(None) is preprocessor
    preprocessor.save(tmp_path)
    usual = (tmp_path / "preprocess.json").read_bytes()
    assert b"max_pixels" not in usual
    larger.save(tmp_path)
    assert Preprocessor.load(tmp_path).image.max_pixels == 200_000_000
    larger.with_max_pixels(MAX_PIXELS).save(tmp_path)
    assert (tmp_path / "preprocess.json").read_bytes() == usual


def test_a_tokenizer_without_cls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    with pytest.raises(ConfigError, match=r"has no \[CLS\]"):
        load_tokenizer(path)


def with_highest_id(stated: dict[str, Any], number: int) -> None:
    vocabulary = stated["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = number


def with_separator_as(stated: dict[str, Any], number: int) -> None:
    stated["post_processor"]["sep"][1] = number


@pytest.mark.parametrize(
    ("change", "number", "message"),
    [
        (with_highest_id, 200, "has 40 tokens, but ids up to 200"),
        (with_highest_id, 2**31, "has 40 tokens, but ids up to 2147483648"),
        (with_separator_as, 102, "has 40 tokens, but ids up to 102"),
        (with_separator_as, 7, r"adds \[SEP\] to a text as id 7, but its vocabulary has it as 3"),
    ],
)
def test_a_tokenizer_whose_ids_are_not_those_of_its_tokens_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any], int], None], number: int, message: str
) -> None:
    stated = json.loads(train_tokenizer(TEXTS, vocabulary_size=40).to_str())
    change(stated, number)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stated))
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(path)


def test_training_a_tokenizer_twice_gives_the_same(preprocessor: Preprocessor) -> None:
    again = train_tokenizer(TEXTS, vocabulary_size=200)
    built = build_preprocessor(again, ImageSpec((32, 24), "crop"), max_length=8)
    assert built.digest() == preprocessor.digest()


def byte_pairs() -> Tokenizer:
    """A tokenizer as CLIP has one: <s> text </s>, padded with </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def test_any_tokenizer_keeps_its_own_special_tokens(tmp_path: Path) -> None:
    built = build_preprocessor(
        byte_pairs(), ImageSpec((32, 32)), max_length=8, pad_token="</s>", absent_token="<s>"
    )
    built.save(tmp_path)
    loaded = Preprocessor.load(tmp_path)
    assert loaded.digest() == built.digest()
    ids, mask = loaded.tokens(["red", ""])
    assert ids[0, 0] == 0
    assert ids[0, int(mask[0].sum()) - 1] == 1
    assert ids[1].tolist() == [0] + [1] * 7
    assert mask[1].tolist() == [1] + [0] * 7


def test_only_a_tokenizer_of_its_own_kind_raises_the_schema_version(
    preprocessor: Preprocessor,
) -> None:
    other = build_preprocessor(
        byte_pairs(), ImageSpec((32, 32)), max_length=8, pad_token="</s>", absent_token="<s>"
    )
    assert preprocessor.as_json()["schema_version"] == 1
    assert other.as_json()["schema_version"] == 2
    # Of 0.1.0: runs and caches made with it stay valid.
    assert (
        preprocessor.digest() == "fddbd5ba395ff2364ed27f5a7276b55747e4c4f68597a60c867ac47b631b32c8"
    )


def characters(first: str, count: int) -> str:
    return "".join(chr(ord(first) + place) for place in range(count))


@pytest.mark.parametrize(
    "texts",
    [
        [characters("一", 900)],  # each a word of its own
        [" ".join(characters("ァ", 80)[at:] for at in range(60))],  # inside words too
        [characters("一", 300), "the quick brown fox"],
        [f"{letter}x" for letter in characters("Ꭰ", 80)],
    ],
    ids=["ideographs", "syllables", "mixed", "capitals"],
)
@pytest.mark.parametrize("limit", [50, 61, 100])
def test_a_vocabulary_is_never_larger_than_its_limit_and_no_text_fails(
    texts: list[str], limit: int
) -> None:
    tokenizer = train_tokenizer(texts, vocabulary_size=limit)
    assert tokenizer.get_vocab_size() <= limit
    assert tokenizer.to_str() == train_tokenizer(texts, vocabulary_size=limit).to_str()
    preprocessor = build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=32)
    assert preprocessor.tokens([*texts, "other words"])[1].sum(axis=1).min() >= 3


def test_a_limited_alphabet_keeps_the_most_frequent_characters() -> None:
    texts = [*characters("一", 200), *["丁", "七", "abc"] * 9]
    tokenizer = train_tokenizer(texts, vocabulary_size=50)
    vocabulary = tokenizer.get_vocab()
    assert {"丁", "七", "a", "##b", "##c"} <= set(vocabulary)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((8, 8)), max_length=8)
    unknown = preprocessor.unknown_id
    assert unknown is not None
    assert preprocessor.count_unknown(set("".join(texts)), unknown) == 200 + 3 - (
        50 - len(SPECIAL_TOKENS) - 2
    )


SPECIAL = ["<pad>", "</s>", "<unk>", "[CLS]"]


def with_special_tokens(
    model: models.Model, before: pre_tokenizers.PreTokenizer | None
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if before is not None:
        tokenizer.pre_tokenizer = before
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A </s>",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "</s>")],
    )
    return tokenizer


LETTERS = ["▁", *"abcdsunkpre</>[]CLS"]
WORDS = {piece: number for number, piece in enumerate([*SPECIAL, *LETTERS[:-1], "red", "##/s>"])}


@pytest.mark.parametrize(
    ("model", "before"),
    [
        (models.Unigram([(p, -1.0) for p in WORDS], unk_id=2), pre_tokenizers.Metaspace()),
        (models.Unigram([(p, -1.0) for p in WORDS], unk_id=2), None),
        (models.WordLevel(WORDS, unk_token="<unk>"), pre_tokenizers.WhitespaceSplit()),
        (models.WordPiece(WORDS, unk_token="<unk>"), pre_tokenizers.WhitespaceSplit()),
        (models.BPE(WORDS, [], unk_token="<unk>"), pre_tokenizers.WhitespaceSplit()),
        (
            models.BPE(WORDS, [], unk_token="<unk>", ignore_merges=True),
            pre_tokenizers.WhitespaceSplit(),
        ),
        (models.BPE(WORDS, [], unk_token="<unk>"), pre_tokenizers.ByteLevel(use_regex=False)),
    ],
    ids=["unigram", "bare_unigram", "wordlevel", "wordpiece", "bpe", "bpe_of_words", "bytes"],
)
def test_special_tokens_in_a_text_are_ordinary_text_in_every_family(
    model: models.Model, before: pre_tokenizers.PreTokenizer | None
) -> None:
    tokenizer = special_tokens_as_text(with_special_tokens(model, before))
    again = Tokenizer.from_str(tokenizer.to_str())
    again.encode_special_tokens = True
    for read in (tokenizer, again):
        for text in ("red {} red", "{}", "{}{}", "red {}"):
            for name in ("<pad>", "</s>", "[CLS]"):
                ids = read.encode(text.replace("{}", name), add_special_tokens=False).ids
                assert read.token_to_id(name) not in ids
        plain = with_special_tokens(model, before).encode("red a <s p>").ids
        assert read.encode("red a <s p>").ids == plain


def test_a_tokenizer_that_splits_special_tokens_itself_stays_as_it_is(
    preprocessor: Preprocessor,
) -> None:
    before = preprocessor.tokenizer.to_str()
    assert special_tokens_as_text(Tokenizer.from_str(before)).to_str() == before
