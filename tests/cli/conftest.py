import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / name for name in (".", "cli", "export", "mobile_bench")]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, object]:
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    def error(self) -> str:
        """The one line that an error is."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0]


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
def msd(start_msd: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., Answer]:
    """Runs `msd` to its end."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> Answer:
        process = start_msd(*arguments, env=env)
        stdout, stderr = process.communicate()
        return Answer(process.returncode, stdout, stderr)

    return run
