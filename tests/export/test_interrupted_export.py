"""kill -9, Ctrl-C and SIGTERM while `msd export` runs, and what later commands make of the rest.

Moments are drawn at random from the whole duration of an export. The last steps, which complete and
rename a folder, take a thousandth of it: there, a process is killed before each of its operations.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import load_model
from msd_deploy.run.record import data_of_run, read_run
from msd_export.folder import open_export
from msd_export.formats import FORMATS, Precision, Target, variant_name
from msd_export.inspection import inspect_export
from msd_export.opened_model import open_model
from msd_export.parity import predict_every_view
from msd_mobile_bench.variants import TORCH, find_variants
from tests.command_server import CommandServer, Ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / name for name in (".", "cli", "export", "mobile_bench")]
EXAMPLES = ("--examples", "8")
# LiteRT's libraries start threads, which no fork survives: the real command alone exports to it.
PRECISIONS: dict[Target, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "coreml": ("fp16",),
    "ort": ("fp32",),
    "executorch": ("fp32",),
}
KILLS: dict[Target, int] = {"onnx": 6, "coreml": 3, "ort": 2, "executorch": 1}
TARGETS = [t for t in KILLS if all(map(importlib.util.find_spec, FORMATS[t].modules))]
Answers = dict[str, list[np.ndarray[Any, np.dtype[np.float32]]]]


@dataclass(frozen=True)
class Server:
    """A process that has loaded what exports a run, and what it makes of one undisturbed.

    Attributes:
        commands: The process.
        here: The working folder of commands.
        run: The run, without exports.
        rows: Examples to compare exports by.
        undisturbed: The folder of its exports.
        expected: What each of them answers to the examples.
    """

    commands: CommandServer
    here: Path
    run: RunDirectory
    rows: PreparedSplit
    undisturbed: Path
    expected: Answers


def ask(folder: Path, rows: PreparedSplit) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return list(predict_every_view(open_model(folder).predictor, rows).values())


@dataclass(frozen=True)
class Exports:
    """The exports of a run of the test's own, and a server that exports it again."""

    server: Server
    run: RunDirectory

    def order(self, *arguments: str, **how: Any) -> Ended:
        """Run a command, and end it before it has ended; see the server."""
        here, counted = self.server.here, self.run.exports
        return self.server.commands.run(*arguments, folder=here, counted=counted, **how)

    def export(
        self,
        target: Target,
        *arguments: str,
        precisions: Iterable[Precision] | None = None,
        **how: Any,
    ) -> Ended:
        wanted = PRECISIONS[target] if precisions is None else precisions
        words = [word for name in wanted for word in ("--precision", name)]
        command = ("export", str(self.run.root), "--target", target, *words, *EXAMPLES)
        return self.order(*command, *arguments, **how)

    def reset(self, *, with_exports: bool, tidy: bool = False) -> None:
        """Remove all exports, or put the undisturbed ones there.

        What a kill left half-built stays, for the next command to find, unless `tidy` says else.
        """
        for folder in self.visible() + (self.hidden() if tidy else []):
            shutil.rmtree(folder)
        if with_exports:
            shutil.copytree(self.server.undisturbed, self.run.exports, dirs_exist_ok=True)

    def visible(self) -> list[Path]:
        return sorted(path for path in self.run.exports.iterdir() if path.name[0] != ".")

    def hidden(self) -> list[Path]:
        return sorted(path for path in self.run.exports.iterdir() if path.name[0] == ".")

    def check(self) -> None:
        """Assert that all that a later command takes for whole answers as the undisturbed one."""
        exported = [form.folder for form in find_variants(self.run) if form.target != TORCH]
        assert sorted(exported) == self.visible()
        for folder in self.visible():
            assert open_export(folder).name == folder.name
            expected = self.server.expected[folder.name]
            for answer, of_whole in zip(ask(folder, self.server.rows), expected, strict=True):
                np.testing.assert_array_equal(answer, of_whole)
        for folder in self.hidden():
            if is_accepted(folder):  # killed between its manifest and its renaming: it is whole
                whole = self.server.undisturbed / form_of(folder)
                assert digests(folder).keys() == digests(whole).keys()

    def check_again(self, target: Target) -> None:
        """Assert that the next commands write what is missing, and replace all, and tidy up."""
        there = {folder.name for folder in self.visible()}
        missing = [p for p in PRECISIONS[target] if variant_name((target, p)) not in there]
        if missing:
            ended = self.export(target, precisions=missing)
            assert ended.code == 0, ended.stderr
            assert self.hidden() == []
        ended = self.export(target)
        assert ended.code == 1
        assert "already exists. Set overwrite (--overwrite)" in ended.stderr
        self.check()
        ended = self.export(target, "--overwrite")
        assert ended.code == 0, ended.stderr
        assert self.hidden() == []
        self.check()


def form_of(hidden: Path) -> str:
    return hidden.name[1:].partition(".")[0]


def digests(folder: Path) -> dict[str, str]:
    found = open_export(folder).manifest["files"]
    assert isinstance(found, dict)
    return found


def is_accepted(folder: Path) -> bool:
    try:
        inspect_export(folder)
    except ArtifactError:
        return False
    return True


@pytest.fixture(scope="module")
def server(
    commands: CommandServer, finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Exports a copy of the finished run undisturbed, and puts the exports aside."""
    root = tmp_path_factory.mktemp("interrupted")
    run = RunDirectory(Path(shutil.copytree(finished_run.root, root / "run")))
    here = root / "here"
    here.mkdir()
    rows = data_of_run(read_run(run), load_model(run.student).preprocessor).splits["test"].head(3)
    forms = [variant_name((target, p)) for target in TARGETS for p in PRECISIONS[target]]
    commands.load_exporters(run.root, forms)
    undisturbed = Path(shutil.move(run.exports, root / "undisturbed"))
    expected = {folder.name: ask(folder, rows) for folder in undisturbed.iterdir()}
    yield Server(commands, here, run, rows, undisturbed, expected)
    assert list(here.iterdir()) == []  # nothing is left where a command was started


@pytest.fixture
def exports(server: Server, tmp_path: Path) -> Exports:
    run = RunDirectory(Path(shutil.copytree(server.run.root, tmp_path / "run")))
    run.exports.mkdir()
    return Exports(server, run)


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_killed_at_random_moments_leaves_nothing_that_is_taken_for_whole(
    exports: Exports, target: Target
) -> None:
    exports.reset(with_exports=False)
    whole = exports.export(target)
    assert whole.code == 0, whole.stderr
    moments = np.random.default_rng(0).uniform(0, whole.seconds, KILLS[target]).tolist()
    was_half_built = False
    for number, moment in enumerate(moments):
        replaces = number % 2 == 1
        exports.reset(with_exports=replaces)
        before = exports.visible()
        options = ["--overwrite"] if replaces else []
        ended = exports.export(target, *options, seconds=moment)
        assert ended.code in (0, -signal.SIGKILL), ended.stderr
        assert set(before) <= set(exports.visible())
        exports.check()
        was_half_built |= bool(exports.hidden())
    assert was_half_built
    exports.check_again(target)


@pytest.mark.parametrize("replaces", [False, True])
def test_an_export_killed_while_it_is_completed_leaves_the_old_or_the_new_one(
    exports: Exports, replaces: bool
) -> None:
    options = ["--overwrite"] if replaces else []
    exports.reset(with_exports=replaces, tidy=True)
    before = exports.visible()
    last = exports.export("onnx", *options, precisions=["fp32"]).operations
    # About ten removals come last where an old one goes.
    for operation in range(last - (12 if replaces else 4), last + 1, 2 if replaces else 1):
        exports.reset(with_exports=replaces, tidy=True)
        ended = exports.export("onnx", *options, precisions=["fp32"], operation=operation)
        assert ended.code == -signal.SIGKILL, ended.stderr
        assert set(before) <= set(exports.visible())
        exports.check()


@pytest.mark.parametrize(
    ("number", "code", "last_words"),
    [
        (signal.SIGINT, 130, "error: stopped. No partial output was kept; run the command again."),
        (signal.SIGTERM, 143, ""),
    ],
    ids=["ctrl-c", "sigterm"],
)
@pytest.mark.parametrize("operation", [2, 30])
def test_a_polite_end_leaves_nothing_and_no_traceback(
    exports: Exports, number: int, code: int, last_words: str, operation: int
) -> None:
    exports.reset(with_exports=False, tidy=True)
    ended = exports.export("onnx", operation=operation, number=number)
    assert ended.code == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert last_words in ended.stderr
    assert exports.hidden() == []
    exports.check()


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Start the real command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "msd_cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, ROOTS))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {words!r}")


def test_the_real_command_to_litert_killed_while_it_is_verified(exports: Exports) -> None:
    for module in FORMATS["litert"].modules:
        pytest.importorskip(module)
    exports.reset(with_exports=False)
    with start("export", exports.run.root, "--target", "litert", *EXAMPLES) as process:
        wait_for(process, "Verifying litert-fp32")
        os.killpg(process.pid, signal.SIGKILL)
    assert exports.visible() == []
    assert not any(map(is_accepted, exports.hidden()))


@pytest.mark.parametrize("words", ["Reading", "Converting to onnx-fp32"])
def test_the_real_command_killed_in_each_stage(exports: Exports, words: str) -> None:
    exports.reset(with_exports=False)
    with start("export", exports.run.root, "--target", "onnx", *EXAMPLES) as process:
        wait_for(process, words)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert exports.visible() == []
    assert not any(map(is_accepted, exports.hidden()))


def test_a_benchmark_measures_what_was_finished_before_a_kill(exports: Exports) -> None:
    exports.reset(with_exports=False)
    # Each precision begins with two operations that check its folder, all before the first export.
    finished = exports.export("onnx", precisions=["fp32"]).operations
    exports.reset(with_exports=False)
    ended = exports.export("onnx", operation=finished + 4)
    assert ended.code == -signal.SIGKILL, ended.stderr
    assert [form_of(folder) for folder in exports.hidden()] == ["onnx-int8"]
    exports.check()
    few = ("--rounds", "1", "--runs", "5", "--seconds", "0", "--warm-up", "1")
    ended = exports.order("bench", str(exports.run.root), *few, *EXAMPLES, "--json")
    assert ended.code == 0, ended.stderr
    assert "student-onnx-fp32" in ended.stdout
    assert "student-onnx-int8" not in ended.stdout
