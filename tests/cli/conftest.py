import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.command_server import CommandServer, Ended

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / name for name in (".", "cli", "export", "mobile_bench")]


@pytest.fixture
def start_msd(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts `msd` in a process of its own, in an empty folder."""

    def start(*arguments: object, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        paths = os.pathsep.join(str(root) for root in ROOTS)
        return subprocess.Popen(
            [sys.executable, "-c", "from msd_cli.main import main; main()", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | (env or {}),
        )

    return start


@pytest.fixture
def msd(commands: CommandServer, tmp_path: Path) -> Callable[..., Ended]:
    """Runs `msd` to its end, in an empty folder."""
    return partial(commands.run, folder=tmp_path)
