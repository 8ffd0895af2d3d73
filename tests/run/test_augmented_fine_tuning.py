"""Teachers that learn from changed images and texts, whatever their tokenizer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.parsing import read_config_of, with_options
from msd_deploy.data.augment.words import drop_words, word_table
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, read_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.fine_tuning_folder import fine_tuning_config

TEXT = "look the guests came"


# What tokens say of where words are, and what stands around a text.
MARKS = (
    "\u0120",
    "\u2581",
    "</w>",
    "##",
    "[CLS]",
    "[SEP]",
    "<|startoftext|>",
    "<|endoftext|>",
    "</s>",
)


def kept(preprocessor: Preprocessor) -> set[str]:
    """Every text that 300 draws leave of TEXT, without blanks."""
    ids, mask = (torch.from_numpy(a.astype(np.int64)) for a in preprocessor.tokens([TEXT] * 300))
    uniform = np.random.default_rng(0).random(tuple(ids.shape), dtype=np.float32)
    ids, mask = drop_words(ids, mask, torch.from_numpy(uniform), word_table(preprocessor), 0.5)
    rows = [row[: int(n)] for row, n in zip(ids.tolist(), mask.sum(dim=1), strict=True)]
    assert len({row[-1] for row in rows}) == 1  # what stands at a text's end stays there
    texts = set()
    for row in rows:
        text = "".join(preprocessor.tokenizer.id_to_token(number) for number in row)
        for mark in MARKS:
            text = text.replace(mark, "")
        texts.add(text)
    return texts


def of_checkpoint(folder: Path, pad: str, absent: str) -> Preprocessor:
    return build_preprocessor(
        read_tokenizer(folder),
        ImageSpec((32, 32)),
        max_length=24,
        pad_token=pad,
        absent_token=absent,
    )


def clip_as_published() -> Preprocessor:
    """Byte pairs that mark where a word ends, as openai's CLIP has them."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    letters = sorted(set(TEXT) - {" "})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), start, end]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([start, end])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start])
    )
    return build_preprocessor(
        tokenizer, ImageSpec((32, 32)), max_length=24, pad_token=end, absent_token=start
    )


def test_whole_words_are_left_out_whatever_the_tokenizer(published: dict[str, Path]) -> None:
    words = TEXT.split()
    some = {
        "".join(word for bit, word in enumerate(words) if chosen >> bit & 1)
        for chosen in range(1, 16)
    }
    start, end = "<|startoftext|>", "<|endoftext|>"
    assert kept(of_checkpoint(published["clip"], end, start)) == some
    assert kept(of_checkpoint(published["vilt"], "[PAD]", "[CLS]")) == some
    assert kept(of_checkpoint(published["siglip"], "</s>", "</s>")) == some
    assert kept(clip_as_published()) == some


@pytest.fixture
def teach_from_file(
    tmp_path: Path, published: dict[str, Path], write_memes: Callable[..., Path]
) -> Callable[[str], Path]:
    """Fine-tunes CLIP by `msd teacher --config`, with an [augment] table; returns the teacher."""
    memes = write_memes(tmp_path, 100)

    def teach(name: str, table: str) -> Path:
        file, out = tmp_path / f"{name}.toml", tmp_path / name
        file.write_text(
            f'data.spec = "{memes}"\n[finetune]\nmodel = "{published["clip"]}"\nepochs = 1\n'
            f"batch_size = 32\ncheckpoint_seconds = 0.0\nlearning_rate = 1e-3\n[augment]\n{table}"
        )
        command = ["teacher", "--config", str(file), "--augment", "strong", "--out", str(out)]
        answer = CliRunner().invoke(app, [*command, "--json"])
        assert answer.exit_code == 0, answer.output
        return out

    return teach


def test_a_teacher_learns_from_changed_and_mixed_images_and_resumes_to_the_same_bits(
    teach_from_file: Callable[[str, str], Path], tmp_path: Path
) -> None:
    mixed = teach_from_file("mixed", "mixup = 0.4\nflip = 0.5\n")
    config = fine_tuning_config(mixed)
    assert (config.augment.preset, config.augment.mixup, config.augment.flip) == (
        "strong",
        0.4,
        0.5,
    )
    plain = teach_from_file("plain", "")
    digests = [sha256_of_file(folder / "model.safetensors") for folder in (mixed, plain)]
    assert digests[0] != digests[1]
    stopped = tmp_path / "stopped"
    left = iter((False, True))
    hooks = RunHooks(training=Hooks(should_stop=lambda: next(left)))
    stated = read_config_of(TeachingConfig, tmp_path / "mixed.toml")
    again = with_options(stated, {"augment.preset": "strong"})
    with pytest.raises(StoppedError):
        fine_tune_teacher(again, stopped, hooks=hooks)
    fine_tune_teacher(again, stopped, resume=True)
    assert sha256_of_file(stopped / "model.safetensors") == digests[0]
