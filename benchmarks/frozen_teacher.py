"""Processor seconds of a training step and of the cache with `msd teacher --freeze`.

    python benchmarks/frozen_teacher.py --image-size 96 --text-layers 3 --steps 4

MiniLM and EfficientNet-Lite0 (extra [pretrained]) on generated memes, on one thread. The first step
is a warm-up and not counted. Processor time is independent of other load on the machine.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from msd_deploy.artifacts.manifest import Json
from msd_deploy.config.fine_tuning import FineTuneConfig, Freeze, TeachingConfig
from msd_deploy.config.run import DataConfig
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks, StepReport
from msd_deploy.run.fine_tuning import fine_tune_teacher


class _Clock:
    """Records start and end of the caching of frozen outputs, and the end of each step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.encoding: list[float] = []
        self.done: list[float] = []
        self.kept = "nothing"

    def on_stage(self, sentence: str) -> None:
        if sentence.startswith("Computing the outputs") or len(self.encoding) == 1:
            self.encoding.append(time.process_time())

    def on_note(self, sentence: str) -> None:
        if " MB for " in sentence:
            self.kept = sentence.rpartition(": ")[2]

    def on_step(self, report: StepReport) -> None:
        self.done.append(time.process_time())

    def should_stop(self) -> bool:
        return len(self.done) > self.steps


def measure(what: Freeze, config: TeachingConfig, steps: int) -> Json:
    """Measure the processor seconds of a step and of caching frozen outputs."""
    clock = _Clock(steps)
    hooks = RunHooks(
        StageHooks(on_stage=clock.on_stage, on_note=clock.on_note),
        Hooks(clock.on_step, clock.should_stop),
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StoppedError):
        fine_tune_teacher(config, Path(folder) / "teacher", hooks=hooks)
    began, *ended = clock.encoding or [0.0, 0.0]
    return {
        "freeze": what,
        "seconds_a_step": round((clock.done[-1] - clock.done[0]) / (len(clock.done) - 1), 2),
        "encoding_once_s": round(ended[0] - began, 1),
        "kept": clock.kept,
    }


def main() -> None:
    """Measure each value of --freeze, and print one JSON object per line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--text-layers", type=int)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    choices: tuple[Freeze, ...] = ("none", "vision", "all")
    for what in choices:
        finetune = FineTuneConfig(
            text="minilm-l6",
            text_layers=arguments.text_layers,
            vision="effnet-lite0",
            cut_vocabulary=True,
            freeze=what,
            modality_dropout=0.0,
        )
        rows = finetune.batch_size * (arguments.steps + 1)
        data = DataConfig(spec="synthetic:memes", examples=rows, image_size=arguments.image_size)
        result = measure(what, TeachingConfig(data=data, finetune=finetune), arguments.steps)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
