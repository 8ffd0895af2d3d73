"""Training throughput of a student in one and in two processes, one thread each.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

All measurements use the same random batches. Rounds are interleaved, each measurement in new
processes; the load before it is recorded, since two processes need two idle cores. No model is
saved.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from msd_deploy import process_group
from msd_deploy.artifacts.manifest import write_json
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import StudentConfig
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import build_preprocessor, train_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import DatasetInfo
from msd_deploy.distillation.history import History
from msd_deploy.distillation.plan import TrainingPlan
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.hooks import Hooks
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, build_student
from msd_mobile_bench.host import describe_host

_ROWS, _BATCH, _STEPS, _WARM_UP, _CLASSES, _LENGTH = 192, 64, 12, 2, 8, 16


def _split(rows: int, side: int) -> PreparedSplit:
    rng = np.random.default_rng(0)
    return PreparedSplit(
        pixels=rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8),
        image_index=np.arange(rows),
        input_ids=rng.integers(3, 20, (rows, _LENGTH), dtype=np.int32),
        attention_mask=np.ones((rows, _LENGTH), np.int32),
        labels=rng.integers(0, _CLASSES, rows),
        source_rows=np.arange(rows),
    )


def work(size: str, out: Path) -> None:
    """Train a few steps in this process group; the main process writes the speed of each step."""
    torch.set_num_threads(1)
    student = StudentConfig(size=size, pretrained=False)  # type: ignore[arg-type]
    side = DEFAULT_IMAGE_SIZE[student.size]
    names = tuple(f"class {index}" for index in range(_CLASSES))
    data = PreparedData(
        {"train": _split(_ROWS, side), "validation": _split(8, side)},
        DatasetInfo(names, "single_label"),
        digest="",
    )
    tokenizer = train_tokenizer(["a few words of no meaning"], vocabulary_size=60)
    preprocessor = build_preprocessor(tokenizer, ImageSpec((side, side)), max_length=_LENGTH)
    torch.manual_seed(0)
    model = build_student(student, data, preprocessor)
    predictions = TeacherPredictions({"train": torch.randn(_ROWS, len(names[:3]), _CLASSES)})
    built = build_student_objective(DistillConfig(), data, predictions, seed=0)
    plan = TrainingPlan(
        phase="student",
        epochs=1,
        steps=_STEPS,
        batch_size=_BATCH,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_share=0.1,
        seed=0,
        log_every=1000,
        checkpoint_seconds=1e9,
        key="",
    )
    speeds: list[float] = []
    hooks = Hooks(on_step=lambda report: speeds.append(report.examples_per_second))
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "history.jsonl")
        job = TrainingJob(model, built.objective, data, plan, Path(folder), history, hooks)
        train(job)
    if process_group.is_main():
        write_json(
            out, {"processes": process_group.world_size(), "examples_per_second": speeds[_WARM_UP:]}
        )
    process_group.end()


def measure(size: str, count: int, folder: Path) -> dict[str, object]:
    """Measure one size in new processes."""
    out = folder / "speeds.json"
    command = [sys.executable]
    if count > 1:
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        command += ["--num_processes", str(count), "--main_process_port", "0"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    load = os.getloadavg()[0]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    words = [*command, __file__, "--size", size, "--out", str(out)]
    subprocess.run(words, env=environment, check=True)
    found = json.loads(out.read_text())
    assert found["processes"] == count
    speeds = found["examples_per_second"]
    return {
        "size": size,
        "processes": count,
        "load_before": round(load, 2),
        "median": round(statistics.median(speeds), 1),
        "raw": [round(speed, 1) for speed in speeds],
    }


def main() -> None:
    """Measure in interleaved rounds and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", help="measure this size in this process; set by the script")
    arguments = parser.parse_args()
    if arguments.size is not None:
        work(arguments.size, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(size, count, Path(folder))
            for _ in range(arguments.rounds)
            for size in ("small", "mobile")
            for count in (1, 2)
        ]
    write_json(arguments.out, {"batch_size": _BATCH, "host": describe_host(), "measured": rows})


if __name__ == "__main__":
    main()
