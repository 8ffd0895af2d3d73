from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from msd_deploy.data.preprocess import (
    CLS,
    SEP,
    SPECIAL_TOKENS,
    UNKNOWN,
    build_preprocessor,
    read_tokenizer,
    train_tokenizer,
)
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.errors import ConfigError

WORLD = [
    "the quick brown fox jumps over the lazy dog again and again",
    "zebras, giraffes and hippopotamuses in the savannah at dawn",
    "быстрая лиса прыгает", "敏捷的棕色狐狸", "naïve café 1234567890",
]  # fmt: skip
TASK = ["the brown dog", "the lazy fox again", "the quick zebras"]


@pytest.fixture
def whole() -> Tokenizer:
    return train_tokenizer(WORLD, vocabulary_size=400)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text).tokens)


def test_the_tasks_texts_keep_their_pieces(whole: Tokenizer) -> None:
    cut = cut_vocabulary(whole, TASK)
    assert cut.tokenizer.get_vocab_size() == len(cut.kept) < whole.get_vocab_size()
    for text in TASK:
        assert pieces(cut.tokenizer, text) == pieces(whole, text)
    assert cut.coverage == 1.0


def test_a_token_is_the_one_whose_old_number_is_stated(whole: Tokenizer) -> None:
    cut = cut_vocabulary(whole, TASK)
    for number, old in enumerate(cut.kept):
        assert cut.tokenizer.id_to_token(number) == whole.id_to_token(old)
    assert [cut.tokenizer.id_to_token(i) for i in range(5)] == list(SPECIAL_TOKENS)


def test_words_that_the_task_never_showed_are_spelled(whole: Tokenizer) -> None:
    cut = cut_vocabulary(whole, TASK).tokenizer
    spelled = pieces(cut, "savannah")
    assert spelled[1:-1] != pieces(whole, "savannah")[1:-1]
    assert "".join(piece.removeprefix("##") for piece in spelled[1:-1]) == "savannah"


def test_only_the_scripts_of_the_texts_keep_their_characters(whole: Tokenizer) -> None:
    latin, cyrillic = cut_vocabulary(whole, TASK), cut_vocabulary(whole, [*TASK, "лиса"])
    assert pieces(latin.tokenizer, "лиса") == [CLS, UNKNOWN, SEP]
    assert UNKNOWN not in pieces(cyrillic.tokenizer, "прыг")
    assert UNKNOWN in pieces(cyrillic.tokenizer, "狐")


def test_a_limit_drops_the_rarest_pieces_and_states_how_much_is_left(whole: Tokenizer) -> None:
    free = cut_vocabulary(whole, TASK)
    needed = len(cut_vocabulary(whole, ["a"]).kept)
    tight = cut_vocabulary(whole, TASK, most=needed + 2)
    assert len(tight.kept) == needed + 2 < len(free.kept)
    assert 0 < tight.coverage < 1
    assert f"{tight.coverage:.1%}" in tight.note
    with pytest.raises(ConfigError, match="do not hold the"):
        cut_vocabulary(whole, TASK, most=needed - 1)


def test_a_larger_number_keeps_further_words(whole: Tokenizer) -> None:
    free = cut_vocabulary(whole, TASK)
    more = cut_vocabulary(whole, TASK, most=len(free.kept) + 10)
    assert len(more.kept) == len(free.kept) + 10
    assert set(free.kept) < set(more.kept)
    added = sorted(set(more.kept) - set(free.kept))
    left = sorted(set(range(whole.get_vocab_size())) - set(free.kept))
    assert added == left[:10]
    everything = cut_vocabulary(whole, TASK, most=100_000)
    assert everything.kept == tuple(range(whole.get_vocab_size()))


def test_the_tokens_that_a_text_gets_are_renumbered(whole: Tokenizer) -> None:
    whole.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(CLS, whole.token_to_id(CLS)), (SEP, whole.token_to_id(SEP))],
    )
    cut = cut_vocabulary(whole, TASK).tokenizer
    ids = cut.encode("the dog").ids
    assert (ids[0], ids[-1]) == (cut.token_to_id(CLS), cut.token_to_id(SEP))


def test_padding_and_truncation_of_the_original_change_nothing(whole: Tokenizer) -> None:
    expected = cut_vocabulary(whole, TASK).kept
    whole.enable_truncation(3)
    whole.enable_padding(length=9)
    assert cut_vocabulary(whole, TASK).kept == expected
    assert whole.truncation is not None  # the original is left as it was


def test_it_survives_its_file(whole: Tokenizer, tmp_path: Path) -> None:
    cut = cut_vocabulary(whole, TASK).tokenizer
    made = build_preprocessor(cut, ImageSpec((16, 16)), max_length=12)
    made.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert pieces(again, "a zebra") == pieces(cut, "a zebra")


def test_other_kinds_are_refused() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(WORLD, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    with pytest.raises(ConfigError, match="a BPE vocabulary cannot be cut"):
        cut_vocabulary(tokenizer, TASK)
