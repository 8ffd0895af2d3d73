"""Pairs of commands on one run folder at once: whatever the order, one run, never a mixed one."""

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import read_manifest, sha256_of_file, sha256_of_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.errors import ArtifactError
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_export.config import ExportConfig
from msd_export.folder import recorded_source
from msd_export.pipeline import export_student
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench

PAIRS, SEED = 6, 18
ONNX = ExportConfig((("onnx", "fp32"),), examples=8, overwrite=True)
BENCH = BenchConfig(
    examples=8, rounds=1, warm_up=1, warm_up_seconds=0, runs=5, seconds=0, batches=1
)


def config(seed: int, run: RunDirectory) -> RunConfig:
    """Settings of a run that has memes.jsonl beside it."""
    return RunConfig(
        data=DataConfig(spec=str(run.root.with_name("memes.jsonl")), image_size=32),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1, log_every=1, checkpoint_seconds=0.0),
        seed=seed,
    )


COMMANDS: dict[str, Callable[[RunDirectory], object]] = {
    "distill 1": lambda run: run_distillation(config(1, run), run, overwrite=True),
    "distill 2": lambda run: run_distillation(config(2, run), run, overwrite=True),
    "export": lambda run: export_student(run, ONNX),
    "bench": lambda run: run_bench(run, BENCH),
    "report": lambda run: write_distillation_report([run], ReportConfig()),
}


def run_command(name: str, folder: Path, delay: float, outcome: Path) -> None:
    time.sleep(delay)
    try:
        COMMANDS[name](RunDirectory(folder))
        outcome.write_text("done")
    except ArtifactError as error:
        outcome.write_text(str(error))


def facts_of(run: RunDirectory) -> tuple[object, ...]:
    """What differs between the two runs: weights, metrics, and the steps that were logged."""
    steps = [
        (line.get("phase"), line.get("step"))
        for line in map(json.loads, run.history.read_text().splitlines())
    ]
    weights = [sha256_of_file(f / "model.safetensors") for f in (run.teacher, run.student)]
    return json.loads(run.metrics.read_text()), weights, steps


@pytest.mark.slow
def test_two_commands_at_once_leave_one_whole_run(
    tmp_path: Path, write_memes: Callable[..., Path]
) -> None:
    write_memes(tmp_path, 100)
    expected = {}
    for seed in (1, 2):
        run = RunDirectory(tmp_path / f"alone-{seed}")
        run_distillation(config(seed, run), run)
        expected[seed] = facts_of(run)
    assert expected[1] != expected[2]
    run = RunDirectory(tmp_path / "run")
    run_distillation(config(1, run), run)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    chosen, outcomes = random.Random(SEED), []
    for pair in range(PAIRS):
        files = [tmp_path / f"{pair}-{number}" for number in (0, 1)]
        started = [
            processes.Process(
                target=run_command,
                args=(chosen.choice(list(COMMANDS)), run.root, chosen.uniform(0, 0.5), file),
            )
            for file in files
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        outcomes += [file.read_text() for file in files]
        assert "done" in outcomes[-2:]
        assert facts_of(run) == expected[json.loads(run.run_json.read_text())["seed"]]
        read_manifest(run.teacher, "model")
        student = sha256_of_json(read_manifest(run.student, "model")["files"])
        for export in run.exports.glob("*"):
            read_manifest(export, "export")
            assert recorded_source(export) == student
        assert [path.name for path in tmp_path.glob(".*")] == []
    refused = [outcome for outcome in outcomes if outcome != "done"]
    assert refused
    assert all("is in use by" in outcome for outcome in refused)
