"""Small checkpoints of CLIP, VisualBERT and ViT that have seen generated pictures, for teachers.

    python benchmarks/small_checkpoints.py runs/checkpoints
    msd teacher --model runs/checkpoints/clip --data synthetic:memes --modality-dropout 0 ...

A random CLIP of this size learns the texts of `memes` and no more, as published ones do not: their
image encoders have seen pictures. So those of CLIP and of the ViT that goes with VisualBERT are
first trained on which of the 72 pairs of shape and colour a generated picture of 16 cells holds
(patches of one cell, 4,000 steps of 64 pictures, AdamW, one cycle up to 1.5e-3), some 5 minutes of
one core each. Text encoders and everything else are random. The recall of the last step is printed.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    CLIPConfig,
    CLIPModel,
    VisualBertConfig,
    VisualBertModel,
    ViTConfig,
    ViTModel,
)

from msd_deploy.data.preprocess import train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions
from msd_deploy.data.synthetic.drawing import COLOURS, NOTHING, SHAPES, render
from tests.checkpoints import byte_pairs, write_checkpoint

_SIDE, _PATCH, _LENGTH, _VOCABULARY = 48, 12, 40, 600
_CELLS, _FEWEST, _MOST, _BATCH, _RATE = 16, 5, 8, 64, 1.5e-3
_MEAN, _STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)  # those that `write_checkpoint` states
_TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def main() -> None:
    """Write the three checkpoints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for clip, visual_bert and vit")
    parser.add_argument("--steps", type=int, default=4000, help="of each image encoder")
    given = parser.parse_args()
    source = load_source("synthetic:memes", options=SourceOptions())
    texts = [row["text"] for row in source.dataset["train"].select_columns(["text"])]
    torch.manual_seed(0)
    write_clip(given.out / "clip", texts, given.steps)
    words = train_tokenizer(texts, vocabulary_size=_VOCABULARY)
    config = VisualBertConfig(
        **_TOWER,
        vocab_size=words.get_vocab_size(),
        max_position_embeddings=_LENGTH,
        visual_embedding_dim=64,
    )
    write_checkpoint(given.out / "visual_bert", VisualBertModel(config), words, "[PAD]")
    write_vit(given.out / "vit", words, given.steps)


def write_clip(folder: Path, texts: list[str], steps: int) -> None:
    """Write a CLIP whose vision tower knows shapes and colours."""
    tokenizer = byte_pairs(texts, vocabulary_size=_VOCABULARY)
    text = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": _LENGTH}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {"image_size": _SIDE, "patch_size": _PATCH}
    config = CLIPConfig(
        text_config=_TOWER | text | ends, vision_config=_TOWER | vision, projection_dim=64
    )
    model = CLIPModel(config)
    show_pictures(
        "clip",
        model.vision_model,
        lambda pixels: model.vision_model(pixel_values=pixels).last_hidden_state.mean(dim=1),
        _TOWER["hidden_size"],
        steps,
    )
    size = {"shortest_edge": _SIDE}
    write_checkpoint(folder, model, tokenizer, "<|endoftext|>", do_center_crop=False, size=size)


def write_vit(folder: Path, tokenizer: Tokenizer, steps: int) -> None:
    """Write a ViT that knows shapes and colours."""
    tower = _TOWER | {"hidden_size": 64}
    config = ViTConfig(**tower, image_size=_SIDE, patch_size=_PATCH)
    model = ViTModel(config, add_pooling_layer=False)
    show_pictures(
        "vit",
        model,
        lambda pixels: model(pixel_values=pixels).last_hidden_state.mean(dim=1),
        tower["hidden_size"],
        steps,
    )
    write_checkpoint(folder, model, tokenizer, "[PAD]", size={"height": _SIDE, "width": _SIDE})


def show_pictures(
    name: str, encoder: nn.Module, features: Callable[[Tensor], Tensor], width: int, steps: int
) -> None:
    """Train an image encoder on the presence of each shape in each colour."""
    pairs = len(SHAPES) * len(COLOURS)
    head = nn.Linear(width, pairs)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps, pct_start=0.1
    )
    generator = np.random.default_rng(11)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (_MEAN, _STD))
    encoder.train()
    recall = 0.0
    for _ in range(steps):
        objects = np.full((_BATCH, _CELLS), NOTHING)
        present = torch.zeros(_BATCH, pairs)
        for row, cells in enumerate(objects):
            count = generator.integers(_FEWEST, _MOST + 1)
            drawn = generator.integers(0, pairs, count)
            cells[generator.permutation(_CELLS)[:count]] = drawn
            present[row, torch.from_numpy(drawn)] = 1
        pixels = torch.from_numpy(render(objects, generator)).float().permute(0, 3, 1, 2) / 255
        logits = head(features((pixels - mean) / std))
        loss = binary_cross_entropy_with_logits(logits, present)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recall = float(((logits > 0) & (present > 0)).sum() / present.sum())
    encoder.eval()
    sys.stdout.write(f"{name}: recall {recall:.3f} after {steps} steps\n")


if __name__ == "__main__":
    main()
