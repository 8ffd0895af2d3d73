"""Cost of augmentation relative to a training step, for each student size.

    python benchmarks/augmentation_cost.py --out augmentation-cost.json

Measures a batch of 64 generated memes and the step of `--method msd` with labels and three views;
the teacher's predictions are random. In one process, on one thread; augmentations and steps are
timed alternately, by processor time. No model is saved.
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
from msd_deploy.data.prepare import prepare
from msd_deploy.data.preprocess import build_preprocessor, fitting_length, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceOptions
from msd_deploy.distillation.steps import MultiViewModel
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, build_student
from msd_deploy.views import View
from msd_mobile_bench.host import describe_host

_ROWS, _ROUNDS, _REPEATS = 64, 9, 5


def measure(size: StudentSize) -> dict[str, object]:
    """Measure the median processor milliseconds of a step and of each preset's augmentation."""
    source = load_source("synthetic:memes", options=SourceOptions(examples=200))
    texts = [text for text in source.dataset["train"]["text"] if text]
    tokenizer = train_tokenizer(texts, vocabulary_size=2000)
    side = DEFAULT_IMAGE_SIZE[size]
    length = fitting_length(tokenizer, texts, most=32)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((side, side)), max_length=length)
    data = prepare(source, preprocessor)
    split = data.splits["train"]
    model = MultiViewModel(build_student(StudentConfig(size, pretrained=False), data, preprocessor))
    predictions = TeacherPredictions(
        {"train": torch.randn(len(split), len(View), len(data.info.labels))}
    )
    objective = build_student_objective(DistillConfig(), data, predictions, seed=0).objective
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = collate(split, np.arange(_ROWS))

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(objective(model.train(), batch).terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    functions: dict[str, Callable[[], object]] = {"step": step}
    for preset in get_args(Preset)[1:]:
        augment = build_augmentation(AugmentConfig(preset=preset), split, preprocessor, seed=0)
        assert augment is not None
        functions[preset] = lambda augment=augment: augment(batch, 0)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(_ROUNDS):
        for name, function in functions.items():
            repeats = 1 if name == "step" else _REPEATS
            seconds[name].append(_cpu_seconds(function, repeats))
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


def _cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    started = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - started) / repeats


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
