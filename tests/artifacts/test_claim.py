"""One process at a time writes an output: who is refused, what is taken over, what is left."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msd_deploy.artifacts import claim
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from msd_export.config import ExportConfig
from msd_export.opened_model import open_model
from msd_export.pipeline import export_model, export_student
from msd_mobile_bench.pipeline import run_bench
from tests.full_disk import largest_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no flock")

ROOT = Path(__file__).parents[2]
_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from msd_deploy.artifacts.claim import claimed
with claimed(Path(sys.argv[2])):
    print("claimed", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(output: Path) -> Iterator["subprocess.Popen[str]"]:
    """Hold a claim in another process, until the block ends or that process is killed."""
    command = [sys.executable, "-S", "-c", _CHILD, str(ROOT), str(output), "--seed", "7"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.communicate("\n")


def test_a_claim_is_held_on_a_full_disk_and_leaves_nothing_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with largest_file(0), claimed(run):
        with pytest.raises(ArtifactError, match="is in use by another process"), claimed(run):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".run.claim"]
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "run") as first:
        with pytest.raises(ArtifactError) as refusal, claimed(tmp_path / "run"):
            pass
        message = str(refusal.value)
        assert f"run: is in use by process {first.pid} on {os.uname().nodename} since 2" in message
        assert "--seed 7). Wait until it has ended, or stop it." in message
        assert "\n" not in message
    with claimed(tmp_path / "run"):
        pass


def test_a_run_in_training_is_not_one_to_resume_but_names_its_process(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    run.run_json.write_text(
        json.dumps({"schema_version": 1, "config": {}, "dataset_digest": "0" * 64})
    )
    unfinished = (
        r"run: is unfinished: it has no metrics\.json\. Continue it with `msd distill --resum"
    )
    with held_elsewhere(run.root) as first:
        with pytest.raises(
            ArtifactError, match=rf"not finished: .* process {first.pid} on"
        ) as used:
            open_model(run.root)
        assert "--resume" not in str(used.value)
    with pytest.raises(ArtifactError, match=unfinished):
        open_model(run.root)
    with claimed(run.root), pytest.raises(ArtifactError, match=unfinished):
        open_model(run.root)  # this process itself is not at work on it


@pytest.mark.parametrize("output", ["link", "run/../run", "run/reports/page.html", "run/teacher-x"])
def test_a_run_has_one_claim_under_all_its_names_and_for_all_in_it(
    tmp_path: Path, output: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to("run")
    with held_elsewhere(tmp_path / "run"):
        with pytest.raises(ArtifactError, match="run: is in use"), claimed(tmp_path / output):
            pass
        with claimed(tmp_path / "run-2"):
            pass


def test_the_claim_of_a_killed_process_is_taken_over_and_names_the_new_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held_elsewhere(run) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert [path.name for path in tmp_path.iterdir()] == [".run.claim"]
        with held_elsewhere(run) as second:
            assert f"process {second.pid} " in (tmp_path / ".run.claim").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    deep = tmp_path / "new" / "deeper" / "run"
    with claimed(deep):
        assert not deep.exists()
    assert list(tmp_path.iterdir()) == []
    with claimed(deep):
        deep.mkdir()
    assert [path.name for path in deep.parent.iterdir()] == ["run"]


def test_a_mount_point_is_claimed_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        with held_elsewhere(folder):
            assert [path.name for path in tmp_path.iterdir()] == ["run"]
            message = "run: is in use by another process"
            with pytest.raises(ArtifactError, match=message), claimed(folder):
                pass
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_without_locks_is_used_unclaimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with held_elsewhere(tmp_path / "run"):
        monkeypatch.setattr(claim.fcntl, "flock", refuse)
        with claimed(tmp_path / "run"):
            pass


ONNX = ExportConfig((("onnx", "fp32"),), overwrite=True)
TEACHING = TeachingConfig(finetune=FineTuneConfig(model="none"))
COMMANDS: dict[str, Callable[[RunDirectory], object]] = {
    "distill": lambda run: run_distillation(RunConfig(), run, overwrite=True),
    "distill --resume": lambda run: run_distillation(RunConfig(), run, resume=True),
    "teacher": lambda run: fine_tune_teacher(TEACHING, run.root, overwrite=True),
    "compare": lambda run: run_study(StudyConfig(), run.root, overwrite=True),
    "export": lambda run: export_student(run, ONNX),
    "export of a model": lambda run: export_model(
        run.student, "synthetic:memes", ONNX, options=SourceOptions(), out=run.exports
    ),
    "bench": run_bench,
    "report": lambda run: write_distillation_report([run], ReportConfig()),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_that_writes_respects_the_claim(own_run: RunDirectory, name: str) -> None:
    def content() -> list[tuple[Path, bytes]]:
        return [(path, path.read_bytes()) for path in sorted(own_run.root.rglob("*.*"))]

    before = content()
    with (
        held_elsewhere(own_run.root),
        pytest.raises(ArtifactError, match="is in use by process"),
    ):
        COMMANDS[name](own_run)
    assert content() == before
