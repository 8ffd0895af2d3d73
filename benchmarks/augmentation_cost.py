"""What changing pictures and texts adds to a training step of each student size.

    python benchmarks/augmentation_cost.py --out augmentation-cost.json

Trains nothing that is kept: a batch of 64 generated memes, the step of `--method msd` with labels
and three views (its teacher's answers are made up, as they cost nothing). In one process, on one
thread; changes and steps are timed in turn, by processor time.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.config.augment import AugmentConfig, Preset
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import StudentConfig, StudentSize
from msd_deploy.data.augment.batches import build_augmentation
from msd_deploy.data.batch import collate
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.prepare import prepare
from msd_deploy.data.preprocess import build_preprocessor, fitting_length, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions
from msd_deploy.distill.steps import MultiViewModel
from msd_deploy.distill.student_objective import build_student_objective
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, build_student
from msd_deploy.views import View
from msd_mobile_bench.host import describe_host

_ROWS, _ROUNDS, _CHANGES = 64, 9, 5


def measure(size: StudentSize) -> dict[str, object]:
    """Return processor milliseconds of a step, and of the changes of each preset, as medians."""
    source = load_source("synthetic:memes", options=SourceOptions(examples=200))
    texts = [text for text in source.dataset["train"]["text"] if text]
    tokenizer = train_tokenizer(texts, vocabulary_size=2000)
    side = DEFAULT_IMAGE_SIZE[size]
    length = fitting_length(tokenizer, texts, most=32)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((side, side)), max_length=length)
    data = prepare(source, preprocessor)
    split = data.splits["train"]
    model = MultiViewModel(build_student(StudentConfig(size, pretrained=False), data, preprocessor))
    answers = TeacherPredictions(
        {"train": torch.randn(len(split), len(View), len(data.info.labels))}
    )
    objective = build_student_objective(DistillConfig(), data, answers, seed=0).objective
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = collate(split, np.arange(_ROWS))

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(objective(model.train(), batch).terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    ways: dict[str, Callable[[], object]] = {"step": step}
    for preset in get_args(Preset)[1:]:
        change = build_augmentation(AugmentConfig(preset=preset), split, preprocessor, seed=0)
        assert change is not None
        ways[preset] = lambda change=change: change(batch, 0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            seconds[name].append(_cpu_seconds(way, 1 if name == "step" else _CHANGES))
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {
        "image_size": side,
        "cpu_ms": {name: round(value, 2) for name, value in medians.items()},
        "share_of_step": {
            name: round(value / medians["step"], 3)
            for name, value in medians.items()
            if name != "step"
        },
    }


def _cpu_seconds(way: Callable[[], object], times: int) -> float:
    way()
    started = time.process_time()
    for _ in range(times):
        way()
    return (time.process_time() - started) / times


def main() -> None:
    """Measure, print a card, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes: tuple[StudentSize, ...] = get_args(StudentSize)
    result = {
        "rows": _ROWS,
        "host": describe_host(),
        "sizes": {size: measure(size) for size in sizes},
    }
    write_json(arguments.out, result)
    sys.stdout.write(json.dumps(result["sizes"], indent=1) + "\n")


if __name__ == "__main__":
    main()
