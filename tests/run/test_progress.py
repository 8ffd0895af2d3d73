"""Every command that decodes images counts them, with their total, while it does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data import pixel_cache
from msd_deploy.data.source import SourceOptions
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from msd_export.evaluate import evaluate_model
from msd_export.exporter import ExportConfig
from msd_export.pipeline import export_model, export_student
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench

Command = Callable[[RunDirectory, Path, StageHooks], object]
STOP = Hooks(should_stop=lambda: True)
ONNX = ExportConfig((("onnx", "fp32"),))
FEW = SourceOptions(examples=120)
SMALL = RunConfig(data=DataConfig(spec="synthetic:memes", examples=120))


class DecodedError(Exception):
    """Ends a command after its images were decoded: what follows is of no interest here."""


COMMANDS: dict[str, Command] = {
    "distill": lambda run, out, hooks: run_distillation(
        SMALL, RunDirectory(out), hooks=RunHooks(hooks, STOP)
    ),
    "compare": lambda run, out, hooks: run_study(
        StudyConfig(SMALL, methods=("kd",), seeds=1), out, hooks=hooks, training=STOP
    ),
    "export": lambda run, out, hooks: export_student(run, ONNX, hooks),
    "export of a model": lambda run, out, hooks: export_model(
        run.student, "synthetic:memes", ONNX, options=FEW, out=out, hooks=hooks
    ),
    "evaluate": lambda run, out, hooks: evaluate_model(
        run.student, "synthetic:memes", options=FEW, split="test", threads=1, hooks=hooks
    ),
    "bench": lambda run, out, hooks: run_bench(run, BenchConfig(), hooks),
    "report": lambda run, out, hooks: write_distillation_report([run], ReportConfig(), hooks),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_images_are_counted_while_they_are_decoded(
    command: str, own_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "HF_HOME", str(tmp_path / "cache"))
    counted: list[tuple[int, int]] = []

    def count(what: str, done: int, total: int) -> None:
        if what == "images":
            counted.append((done, total))
            if done == total:
                raise DecodedError

    with pytest.raises(DecodedError):
        COMMANDS[command](own_run, tmp_path / "out", StageHooks(on_count=count))
    total = counted[0][1]
    assert total > 100
    assert counted == [(done, total) for done in range(1, total + 1)]
