"""Cost of a training step of each method, and accuracy of the fast meta gradient.

    python benchmarks/step_cost.py runs/demo --out step-cost.json

In one process, on one thread, methods are interleaved in rounds and timed by processor time; each
figure is a ratio within one round. The cosine between fast and exact gradient is measured during
the training of a student with learned weights. RUN is a finished run of `msd distill`, whose data,
teacher and preprocessing are used. No model is saved.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import Batch, ImageGroupSampler, collate
from msd_deploy.distillation.meta import MetaObjective
from msd_deploy.distillation.methods import METHODS
from msd_deploy.distillation.objectives import DistillationObjective
from msd_deploy.distillation.steps import MultiViewModel, Objective, StepLoss
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions, read_predictions
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.sizes import build_student
from msd_deploy.models.teachers import load_teacher
from msd_deploy.run.record import read_run
from msd_deploy.run.task import Task, read_task
from msd_deploy.views import View
from msd_mobile_bench.host import describe_host

# A multiple of meta_every, so that each round has the same number of weight updates.
_ROUNDS, _STEPS = 15, 8
_TRAINING_STEPS, _COMPARE_EVERY = 400, 50


@dataclass(frozen=True, slots=True)
class Bench:
    """A task, its teacher's predictions, and the batches of its first epoch."""

    task: Task
    predictions: TeacherPredictions
    batches: list[Batch]

    def settings(self, method: str, **changes: object) -> DistillConfig:
        """Return the settings of a method in `msd compare` with changes, without feature losses."""
        own = replace(METHODS[method](self.task.config.distill, 0.3), **changes)
        return replace(own, hint_weight=0.0, relation_weight=0.0)

    def objective(self, settings: DistillConfig) -> DistillationObjective | MetaObjective:
        """Build the objective of settings."""
        return build_student_objective(
            settings, self.task.data, self.predictions, seed=self.task.config.seed
        ).objective

    def student(self) -> MultiViewModel:
        """Build an untrained student."""
        torch.manual_seed(self.task.config.seed)
        task = self.task
        return MultiViewModel(
            build_student(task.config.student, task.data, task.preprocessor).train()
        )


def open_bench(run: RunDirectory) -> Bench:
    """Open a finished run."""
    record = read_run(run)
    config = record.config
    task, _ = read_task(config, run, StageHooks(), Hooks(), record=record)
    train = task.data.splits["train"]
    sampler = ImageGroupSampler(
        train.image_index, batch_size=config.distill.batch_size, seed=config.seed
    )
    batches = [collate(train, np.array(rows)) for rows in sampler]
    return Bench(task, read_predictions(run.teacher_predictions), batches)


class Stepper:
    """Trains a student step by step on the benchmark's batches, repeatedly."""

    def __init__(self, bench: Bench, objective: Objective) -> None:
        self.model, self.objective = bench.student(), objective
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batches = self._cycle(bench.batches)

    @staticmethod
    def _cycle(batches: list[Batch]) -> Iterator[Batch]:
        while True:
            yield from batches

    def step(self) -> None:
        """Run one training step."""
        loss: StepLoss = self.objective(self.model, next(self.batches))
        self.optimizer.zero_grad()
        torch.stack(list(loss.terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


class UncachedObjective:
    """MSD without a cache: the teacher computes its three views in every step."""

    def __init__(self, bench: Bench, teacher: FusionForClassification) -> None:
        self.cached = bench.objective(bench.settings("msd-fixed"))
        self.teacher = MultiViewModel(teacher.eval())

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Run the teacher, then use the cached predictions, which are equal."""
        with torch.inference_mode():
            self.teacher(batch, tuple(View))
        return self.cached(model, batch)


def measure_ratios(bench: Bench, teacher: FusionForClassification) -> dict[str, object]:
    """Measure the processor time per step relative to kd, as median and range over rounds."""
    objectives: dict[str, Objective] = {
        name: bench.objective(bench.settings(name))
        for name in ("kd", "msd-fixed", "msd-instance", "msd-meta")
    }
    for gradient in ("fast", "exact"):
        objectives[f"msd-meta, {gradient} gradient each step"] = bench.objective(
            bench.settings("msd-meta", meta_gradient=gradient, meta_every=1)
        )
    objectives["msd-fixed, teacher asked each step"] = UncachedObjective(bench, teacher)
    steppers = {name: Stepper(bench, objective) for name, objective in objectives.items()}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(_ROUNDS):
        for name, stepper in steppers.items():
            seconds[name].append(_cpu_seconds(stepper.step))
    return {name: _against(values, seconds["kd"]) for name, values in seconds.items()}


def _cpu_seconds(step: Callable[[], None]) -> float:
    step()
    started = time.process_time()
    for _ in range(_STEPS):
        step()
    return (time.process_time() - started) / _STEPS


def _against(values: list[float], baseline: list[float]) -> dict[str, object]:
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    return {
        "ratio_to_kd": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "cpu_ms": round(1e3 * statistics.median(values), 2),
    }


def measure_cosines(bench: Bench) -> list[dict[str, float]]:
    """Measure cosines between fast and exact gradients, with and without look-ahead.

    Each is over all weights [views, batch] of a batch, at the parameters of a training with the
    fast gradient, for the same held-out batch.
    """
    objective = bench.objective(bench.settings("msd-meta"))
    assert isinstance(objective, MetaObjective)
    stepper = Stepper(bench, objective)
    rows = []
    for done in range(_TRAINING_STEPS + 1):
        if done % _COMPARE_EVERY == 0:
            rows.append({"step": float(done), **_cosines(bench, stepper, objective)})
        stepper.step()
    return rows


def _cosines(bench: Bench, stepper: Stepper, objective: MetaObjective) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for batch in bench.batches[:4]:
        gradients = {
            (kind, ahead): _gradient(bench, stepper, objective, batch, kind=kind, ahead=ahead)
            for kind in ("fast", "exact")
            for ahead in (True, False)
        }
        for name, first, second in (
            ("fast, exact; look-ahead", ("fast", True), ("exact", True)),
            ("fast, exact; no look-ahead", ("fast", False), ("exact", False)),
            ("exact; look-ahead, none", ("exact", True), ("exact", False)),
        ):
            cosine = torch.cosine_similarity(
                gradients[first].flatten(), gradients[second].flatten(), dim=0
            )
            found.setdefault(name, []).append(cosine.item())
    return {name: round(statistics.mean(values), 3) for name, values in found.items()}


def _gradient(
    bench: Bench,
    stepper: Stepper,
    objective: MetaObjective,
    batch: Batch,
    *,
    kind: str,
    ahead: bool,
) -> Tensor:
    """Compute dL_meta / dw [views, batch] at the stepper's parameters; its state stays the same."""
    settings = bench.settings("msd-meta", meta_gradient=kind, meta_look_ahead=ahead)
    other = bench.objective(settings)
    assert isinstance(other, MetaObjective)
    other.restore(objective.state_tensors())
    model = stepper.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outputs = model(batch, tuple(View))
    with torch.no_grad():
        distances = other.distances(outputs.logits, batch)
        weights = other.weighting.stacked(batch.rows, distances)
    gradient = other.gradient(model, batch, outputs, weights)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return gradient.detach()


def main() -> None:
    """Measure, print a card, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="finished run of `msd distill`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = open_bench(RunDirectory(arguments.run))
    data = bench.task.data
    teacher = load_teacher(
        RunDirectory(arguments.run).teacher, labels=data.info.labels, problem=data.info.problem
    )
    result = {
        "data": bench.task.config.data.spec,
        "student": bench.task.config.student.size,
        "batch_size": bench.task.config.distill.batch_size,
        "host": describe_host(),
        "cost": measure_ratios(bench, teacher.model),
        "cosine_of_meta_gradients": measure_cosines(bench),
    }
    write_json(arguments.out, result)
    sys.stdout.write(
        json.dumps({key: result[key] for key in ("cost", "cosine_of_meta_gradients")}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()
