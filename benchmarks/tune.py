"""Tune the settings of a study on its validation split, with seeds other than the reported ones.

    python benchmarks/tune.py --data synthetic:memes --examples 1000 --teacher runs/memes/teacher \
        --out runs/tune-memes

Each candidate of a method changes one or two settings. OUT/tuning.jsonl has a line per candidate
and seed, with the metric of each view on the validation split; the test split is not used. msd-meta
learns its weights on the validation split by default, so its candidates hold out training rows
instead (meta_rows = "train"). A stopped call can be repeated to continue; the summary is printed at
the end. Two calls with different --methods and --out use two cores.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.errors import MsdError
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.metrics import metric_value
from msd_deploy.models.predict import predict_views
from msd_deploy.run.output import with_absolute_paths
from msd_deploy.run.stages import cached_predictions, given_teacher, ordinary_steps
from msd_deploy.run.student import distilled_student
from msd_deploy.run.task import Task, open_models, read_task
from msd_deploy.study.compute import measure_flops, steps_by_method
from msd_deploy.study.config import StudyConfig
from msd_deploy.views import View

CANDIDATES: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "kd": {
        "defaults": {},
        "temperature 4": {"temperature": 4.0},
        "alpha 0.5": {"alpha": 0.5},
        "learning rate 0.003": {"learning_rate": 0.003},
    },
    "kd-dropout": {
        "dropout 0.15": {"dropout": 0.15},
        "dropout 0.3": {"dropout": 0.3},
        "dropout 0.5": {"dropout": 0.5},
    },
    "msd-fixed": {
        "defaults": {},
        "temperature 4": {"temperature": 4.0},
        "alpha 0.5": {"alpha": 0.5},
        "learning rate 0.003": {"learning_rate": 0.003},
        "single weights 0.5": {"image_weight": 0.5, "text_weight": 0.5},
        "single weights 2": {"image_weight": 2.0, "text_weight": 2.0},
    },
    "msd-instance": {
        "floor 0.5": {"instance_floor": 0.5},
        "floor 0": {"instance_floor": 0.0},
    },
    "msd-meta": {
        "defaults": {},
        "floors 0.5 and 0.1": {"meta_multimodal_floor": 0.5, "meta_single_floor": 0.1},
        "learning rate 0.001": {"meta_learning_rate": 0.001},
        "rate 1": {"meta_rate": 1.0},
    },
}


def candidate(base: RunConfig, method: str, changes: Mapping[str, float]) -> StudyConfig:
    """Build the study of one candidate, at equal compute."""
    settings = dict(changes)
    dropout = settings.pop("dropout", 0.3)
    if method == "msd-meta":
        base = replace(base, distill=replace(base.distill, meta_rows="train"))
    distill = replace(base.distill, **settings)  # type: ignore[arg-type]  # by name, all numbers
    return StudyConfig(
        replace(base, distill=distill), methods=(method,), budget="compute", dropout=dropout
    )


def trained_metric(
    task: Task, predictions: TeacherPredictions, study: StudyConfig, *, seed: int
) -> dict[str, float]:
    """Train one candidate with one seed; return its validation metric by view."""
    (method,) = study.methods
    flops, reference = measure_flops(study, task, predictions)
    steps = steps_by_method(study, flops, reference, ordinary_steps(task))[method]
    student = distilled_student(
        replace(task, config=study.of_cell(method, seed)), predictions, steps=steps
    )
    split, problem = task.data.splits["validation"], task.data.info.problem
    logits = predict_views(student, split)
    return {v.value: metric_value(logits[v], split.labels, problem) for v in View}


def tune(base: RunConfig, methods: list[str], seeds: list[int], out: Path) -> None:
    """Train the candidates that are missing in OUT/tuning.jsonl."""
    path = out / "tuning.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {tuple(json.loads(line)[k] for k in ("method", "candidate", "seed")) for line in lines}
    run = RunDirectory(out)
    opened = open_models(base, run, None)
    task, source = read_task(base, run, StageHooks(), Hooks(), given=opened)
    teacher_data, teacher = given_teacher(task, source, opened.teacher)
    assert teacher is not None
    predictions = cached_predictions(task, teacher, teacher_data)
    for seed in seeds:
        for method in methods:
            for name, changes in CANDIDATES[method].items():
                if (method, name, seed) in known:
                    continue
                folder = RunDirectory(out / "students" / f"{method}, {name}, {seed}")
                folder.root.mkdir(parents=True, exist_ok=True)
                study = candidate(base, method, changes)
                found = trained_metric(replace(task, run=folder), predictions, study, seed=seed)
                line = {"method": method, "candidate": name, "seed": seed, "validation": found}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def summary(out: Path) -> str:
    """Return a table of means over seeds by candidate and view, in %."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for line in (out / "tuning.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault((row["method"], row["candidate"]), []).append(row["validation"])
    views = [view.value for view in View]
    table = [f"| method | candidate | seeds | {' | '.join(views)} |", "|---|---|---|---|---|---|"]
    for (method, name), rows in found.items():
        means = (f"{100 * statistics.mean(row[view] for row in rows):.1f}" for view in views)
        table.append(f"| {method} | {name} | {len(rows)} | {' | '.join(means)} |")
    return "\n".join(table)


def main() -> None:
    """Tune, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data set of the study")
    parser.add_argument("--examples", type=int, help="training rows of a generated task")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of its teacher")
    parser.add_argument(
        "--methods", nargs="+", choices=list(CANDIDATES), default=["kd", "kd-dropout", "msd-fixed"]
    )
    parser.add_argument("--seeds", type=int, default=2, help="seeds, from 101")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = RunConfig(
        data=DataConfig(spec=arguments.data, examples=arguments.examples),
        teacher=TeacherConfig(path=arguments.teacher),
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(101, 101 + arguments.seeds))
    try:
        tune(with_absolute_paths(base), arguments.methods, seeds, arguments.out)
    except MsdError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(summary(arguments.out) + "\n")


if __name__ == "__main__":
    main()
