"""What a tracker is shown, read back with TensorBoard's own reader."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig, TrackerName
from msd_deploy.distillation.history import History, scalars_of
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StepReport
from msd_deploy.pipeline import run_distillation

Curves = dict[str, list[tuple[int, float]]]


def curves_of(folder: Path) -> Curves:
    """Read every scalar of a folder of event files: step and value, by tag."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def curves_of_history(run: RunDirectory, phase: str) -> Curves:
    """Values of history.jsonl, rounded to the float32 of TensorBoard."""
    curves: Curves = defaultdict(list)
    for line in map(json.loads, run.history.read_text().splitlines()):
        if line["phase"] == phase:
            for tag, value in scalars_of(line).items():
                curves[tag].append((line["step"], float(np.float32(value))))
    return dict(curves)


def test_numbers_are_named_by_their_path() -> None:
    step = {
        "phase": "student",
        "step": 3,
        "epoch": 1,
        "loss": 0.5,
        "terms": {"labels": 0.2, "image": 0.3},
        "weights": {"image": {"mean": 1.0, "std": 0.0}},
    }
    assert scalars_of(step) == {
        "loss": 0.5,
        "terms/labels": 0.2,
        "terms/image": 0.3,
        "weights/image/mean": 1.0,
        "weights/image/std": 0.0,
    }
    passed = {
        "phase": "student",
        "step": 3,
        "epoch": 1,
        "split": "validation",
        "accuracy": {"text": 1},
    }
    assert scalars_of(passed) == {"validation/accuracy/text": 1.0}


@pytest.mark.parametrize("left", [0, 3, 20, 25, 39])
def test_a_log_that_was_cut_loses_its_incomplete_line_with_a_warning(
    tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path / "history.jsonl")
    lines = [{"phase": "student", "step": step} for step in range(3)]
    for line in lines:
        history.append(line)
    size = history.size_bytes()
    history.cut_to(size)
    assert caplog.messages == []
    assert history.lines_of("student") == lines
    text = history.path.read_bytes()
    history.path.write_bytes(text[:left])
    history.cut_to(size)
    whole = text[:left].count(b"\n")
    lost = size - len(b"".join(text.splitlines(keepends=True)[:whole]))
    assert caplog.messages == [f"{history.path} lacks {lost} bytes: steps are missing in the log"]
    history.append(lines[2])
    assert history.lines_of("student") == [*lines[:whole], lines[2]]


def test_every_name_is_one_of_accelerates() -> None:
    assert set(get_args(TrackerName)) <= set(LOGGER_TYPE_TO_CLASS)


class KilledError(Exception):
    """Simulates a kill: nothing is saved."""


@pytest.fixture
def tracked_config(small_config: RunConfig, finished_run: RunDirectory) -> RunConfig:
    """A run of a few steps with a given teacher."""
    teacher = replace(small_config.teacher, path=finished_run.teacher)
    return replace(small_config, teacher=teacher, tracker="tensorboard")


def test_tensorboard_holds_every_line_once_after_kill_and_stop(
    tracked_config: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    """Killed after step 4, before a checkpoint, and after a validation; stopped at 6."""
    run = RunDirectory(tmp_path / "memes")

    def kill(report: StepReport) -> None:
        if report.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run_distillation(tracked_config, run, hooks=RunHooks(training=Hooks(kill)))
    steps: list[int] = []
    hooks = RunHooks(
        training=Hooks(lambda report: steps.append(report.step), lambda: len(steps) == 3)
    )
    with pytest.raises(StoppedError):
        run_distillation(tracked_config, run, resume=True, hooks=hooks)
    run_distillation(tracked_config, run, resume=True)
    assert steps == [4, 5, 6]
    found = curves_of(run.trackers / "memes-student")
    assert found == curves_of_history(run, "student")
    assert [step for step, _ in found["terms/multimodal"]] == list(range(1, 9))
    # In the last third of the steps a quarter has single views.
    assert [step for step, _ in found["terms/image"]][:6] == list(range(1, 7))
    assert [step for step, _ in found["validation/accuracy/multimodal"]] == [4, 8]
    assert len(list((run.trackers / "memes-student").glob("events.*"))) == 3
    weights = [r.student / "model.safetensors" for r in (run, finished_run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_tracker_may_be_added_when_a_run_is_resumed(
    tracked_config: RunConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "memes")
    steps: list[int] = []
    hooks = RunHooks(
        training=Hooks(lambda report: steps.append(report.step), lambda: len(steps) == 2)
    )
    with pytest.raises(StoppedError):
        run_distillation(replace(tracked_config, tracker=None), run, hooks=hooks)
    assert not run.trackers.exists()
    run_distillation(tracked_config, run, resume=True)
    assert curves_of(run.trackers / "memes-student") == curves_of_history(run, "student")
