"""kill -9 of `msd distill` at any moment, and --resume from the leftovers.

Moments are counted in operations that change the run's folder; see tests/killing.py.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from tests.command_server import CommandServer, Ended

KILLS = 10
WRITES_RUN_JSON = 4


@pytest.fixture
def settings(tmp_path: Path, write_memes: Callable[..., Path]) -> Path:
    """A TOML file: 200 changed memes, a checkpoint at every step, weights that are learned."""
    memes = write_memes(tmp_path, 200)
    path = tmp_path / "run.toml"
    path.write_text(
        f'data.spec = "{memes}"\n'
        'teacher.epochs = 1\naugment.preset = "strong"\n'
        '[distill]\nweighting = "meta"\nkeep = "best"\nhint_weight = 1.0\n'
        "epochs = 4\nlog_every = 1\ncheckpoint_seconds = 0.0\n"
    )
    return path


def weights_of(run: RunDirectory) -> list[bytes]:
    return [(folder / "model.safetensors").read_bytes() for folder in (run.teacher, run.student)]


def where_it_died(run: RunDirectory) -> set[str]:
    """What a killed run was writing, by its leftovers."""
    left = {folder.parent.name for folder in run.checkpoints.glob("*/step-*")}
    if list(run.root.rglob(".*")):
        left.add("half-built")
    return left


@pytest.mark.slow
def test_ten_kills_each_followed_by_resume_leave_the_bits_of_an_undisturbed_run(
    commands: CommandServer, settings: Path, tmp_path: Path
) -> None:
    """Ten random moments, spread over the run, after a first kill while run.json is written."""

    def distill(run: RunDirectory, *arguments: object, kill_before: int = 0) -> Ended:
        words = ("distill", "--out", run.root, *arguments)
        return commands.run(*words, folder=tmp_path, counted=run.root, operation=kill_before)

    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    ended = distill(whole, "--config", settings)
    assert ended.code == 0, ended.stderr
    operations = ended.operations
    # At most a seventh each, of which a resumed run repeats some: none gets to the end.
    moments = np.random.default_rng(0).integers(operations // 15, operations // 7, KILLS).tolist()
    seen: list[set[str]] = []
    for moment in (WRITES_RUN_JSON, *moments):
        how = ["--resume"] if killed.run_json.is_file() else ["--config", settings]
        ended = distill(killed, *how, kill_before=moment)
        assert ended.code == -signal.SIGKILL, ended.stderr
        seen.append(where_it_died(killed))
    ended = distill(killed, "--resume")
    assert ended.code == 0, ended.stderr
    assert weights_of(killed) == weights_of(whole)
    assert killed.history.read_bytes() == whole.history.read_bytes()
    assert killed.metrics.read_bytes() == whole.metrics.read_bytes()
    names = [sorted(path.name for path in run.root.iterdir()) for run in (killed, whole)]
    assert names[0] == names[1]
    assert set().union(*seen) >= {"teacher", "student", "half-built"}
