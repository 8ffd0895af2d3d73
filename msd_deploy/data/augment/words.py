"""Augmentation of texts: whole words are left out and the rest closes up.

Special tokens stay, and so does one word of every text. Works on token identifiers, with a table of
the tokens that begin a word.
"""

from dataclasses import dataclass

import torch
from tokenizers import models
from torch import Tensor

from msd_deploy.data.preprocess import Preprocessor

_WORD_STARTS = ("\u0120", "\u2581")  # byte-level BPE's and SentencePiece's mark of a blank
_WORD_END = "</w>"  # CLIP's


@dataclass(frozen=True, slots=True)
class WordTable:
    """Where words begin and end, by token.

    Attributes:
        begins: bool [vocabulary], tokens that begin a word.
        ends: bool [vocabulary], tokens that end one.
        frames: bool [vocabulary], tokens that stand around a text or fill it up.
        pad_id: Fills up a text.
    """

    begins: Tensor
    ends: Tensor
    frames: Tensor
    pad_id: int

    def to(self, device: torch.device) -> "WordTable":
        """Return the table on a device."""
        begins, ends, frames = (t.to(device) for t in (self.begins, self.ends, self.frames))
        return WordTable(begins, ends, frames, self.pad_id)


def word_table(preprocessor: Preprocessor) -> WordTable:
    """Return the table of a tokenizer: word pieces, byte pairs or unigrams."""
    tokenizer = preprocessor.tokenizer
    size = max(tokenizer.get_vocab().values()) + 1
    tokens = [tokenizer.id_to_token(number) or "" for number in range(size)]
    ends = [token.endswith(_WORD_END) for token in tokens]
    if isinstance(tokenizer.model, models.WordPiece):
        inside = tokenizer.model.continuing_subword_prefix
        begins = [not token.startswith(inside) for token in tokens]
    else:
        begins = [token.startswith(_WORD_STARTS) for token in tokens]
    frames = torch.zeros(size, dtype=torch.bool)
    frames[[*tokenizer.encode("").ids, preprocessor.pad_id, preprocessor.cls_id]] = True
    return WordTable(torch.tensor(begins), torch.tensor(ends), frames, preprocessor.pad_id)


def drop_words(
    input_ids: Tensor, attention_mask: Tensor, uniform: Tensor, table: WordTable, share: float
) -> tuple[Tensor, Tensor]:
    """Leave words out.

    Args:
        input_ids: int64 [batch, length].
        attention_mask: int64 [batch, length].
        uniform: Draws from [0, 1), float [batch, length].
        table: The tokenizer's.
        share: Of the words; of a text whose words would all go, the one with the highest draw
            stays.

    Returns:
        Both, of the same shapes, shortened texts filled up with padding.
    """
    is_token = attention_mask.bool()
    is_text = is_token & ~table.frames[input_ids]
    after = input_ids.roll(1, dims=1)
    begins = is_text & (table.begins[input_ids] | table.ends[after] | ~is_text.roll(1, dims=1))
    # Every token of a word has the draw of the word's number.
    of_word = uniform.gather(1, begins.cumsum(dim=1).sub(1).clamp(min=0))
    most = torch.where(is_text, of_word, 0.0).amax(dim=1, keepdim=True)
    stays = is_token & (~is_text | (of_word >= most.clamp(max=share)))
    order = (~stays).to(torch.uint8).argsort(dim=1, stable=True)
    kept = stays.gather(1, order)
    closed_up = torch.where(kept, input_ids.gather(1, order), table.pad_id)
    return closed_up, kept.to(attention_mask.dtype)
