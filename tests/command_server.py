"""Runs `msd` commands in forks of a process that has loaded every library, and ends some of them.

Importing torch and transformers takes a command six seconds of processor time, several times as
long as its work in a test. So a test session starts this program once, as a `CommandServer`: it
imports what commands need, and then answers each line, an order, with one that states how it ended.
A command is a process of its own all the same: it has its own exit code, streams, working folder
and signals.

What depends on how a process starts is tested with real commands: what is imported, what imports
print, environment variables, streams that are closed, Ctrl-C.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
_MODULES = (
    "msd_cli.main",
    "msd_deploy.pipeline",
    "msd_deploy.report.distillation",
    "msd_deploy.study.compare",
    "msd_export.evaluate",
    "msd_export.inspection",
    "msd_export.pipeline",
    "msd_mobile_bench.api",
    "msd_mobile_bench.pipeline",
)
Order = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative after a signal, and what it printed.

    `operations` is how many it made on the folder in which they are counted.
    """

    code: int
    seconds: float
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

    @property
    def operations(self) -> int:
        return int(self.stderr.rsplit("\n", 2)[-2].removesuffix(" operations"))


@dataclass(frozen=True)
class CommandServer:
    """This program, as a test sees it."""

    orders: IO[str]
    answers: IO[str]

    def run(
        self,
        *arguments: object,
        folder: Path,
        counted: Path | None = None,
        operation: int = 0,
        seconds: float | None = None,
        number: int = signal.SIGKILL,
    ) -> Ended:
        """Run `msd` in a working folder, and send it a signal before it has ended.

        It gets it before its n-th `operation` on the folder `counted` (0: it does not), or, with
        its children, when so many `seconds` have passed (None: it does not).
        """
        order = {"arguments": list(map(str, arguments)), "folder": str(folder)}
        where = {"counted": counted and str(counted), "operation": operation}
        return Ended(**self._send(order | where | {"seconds": seconds, "signal": number}))

    def load_exporters(self, run: Path, forms: Iterable[str]) -> None:
        """Export a run in the server itself, by which it loads the libraries of these forms."""
        self._send({"run": str(run), "forms": list(forms)})

    def _send(self, order: Order) -> Order:
        self.orders.write(json.dumps(order) + "\n")
        self.orders.flush()
        answer = json.loads(self.answers.readline())
        assert isinstance(answer, dict)
        return answer


@contextmanager
def command_server() -> Iterator[CommandServer]:
    """Start this program, and end it with the block."""
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "cli", "export", "mobile_bench"))
    with subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield CommandServer(process.stdin, process.stdout)
        process.stdin.close()


def _become_command(order: Order) -> None:
    """Run a command in this process; does not return."""
    from killing import kill_before

    from msd_cli.main import main

    count = None
    if order["counted"]:
        count = kill_before(order["operation"], Path(order["counted"]), order["signal"])
    sys.argv = ["msd", *order["arguments"]]
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        if count is not None:
            sys.stderr.write(f"{count()} operations\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _run(order: Order) -> Order:
    """Run a command in a process group of its own; see `CommandServer.run`."""
    reading, writing = os.pipe()  # at its end when every process of the command has ended
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        begun = time.monotonic()
        child = os.fork()
        os.setpgid(child, child)  # by both: whichever comes first
        if child == 0:
            os.close(reading)
            os.chdir(order["folder"])
            inputs = os.open(os.devnull, os.O_RDONLY)
            for descriptor, source in enumerate((inputs, stdout.fileno(), stderr.fileno())):
                os.dup2(source, descriptor)
            _become_command(order)
        os.close(writing)
        ended, _, _ = select.select([reading], [], [], order["seconds"])
        if not ended:
            os.killpg(child, order["signal"])
        _, status = os.waitpid(child, 0)
        os.close(reading)
        answer = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}
        for name, file in (("stdout", stdout), ("stderr", stderr)):
            file.seek(0)
            answer[name] = file.read().decode(errors="replace")
    return answer


def _load_exporters(order: Order) -> Order:
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_export.config import ExportConfig
    from msd_export.pipeline import export_student

    wanted = tuple(tuple(form.split("-", 1)) for form in order["forms"])
    export_student(RunDirectory(Path(order["run"])), ExportConfig(wanted, examples=8))
    return {}


def _serve() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints is no answer
    for name in _MODULES:
        importlib.import_module(name)
    gc.freeze()  # a fork that collects garbage would copy every object of the libraries
    for line in sys.stdin:
        order = json.loads(line)
        answer = _load_exporters(order) if "forms" in order else _run(order)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    _serve()
