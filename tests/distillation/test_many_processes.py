"""Two processes of `accelerate launch` (gloo, real ones) against one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from msd_deploy.distillation.data_parallel import ShardedBatches, split_between_images

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("shared_training.py")
# A hang is a failure; nothing here takes a tenth of it.
PATIENCE_SECONDS = 300
# Float32 sums in another order differ by 1e-7 of their size. AdamW divides a gradient by its own
# size, so that where a gradient is nearly 0 the difference grows to a share of the step; over these
# steps it moves losses of about 1 in the sixth digit.
TOLERANCE = 1e-4
Results = dict[str, Any]


def launch(*command: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in two processes, as a user does."""
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "cli", "export", "mobile_bench"))
    environment = os.environ | {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    return subprocess.run(
        [*launcher, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


@pytest.fixture(scope="module")
def shared() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Trained:
    """A folder of trainings, and the results of each process."""

    folder: Path
    results: list[Results]


@pytest.fixture(scope="module")
def trained_by_one(shared: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("one")
    return Trained(folder, [shared.run_all(folder)])


@pytest.fixture(scope="module")
def trained_by_two(trained_by_one: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    parent = tmp_path_factory.mktemp("two")
    shutil.copytree(trained_by_one.folder / "meta-stopped", parent / "taken" / "meta-stopped")
    folder = parent / "two"
    ended = launch(SCRIPT, folder, parent / "taken")
    assert ended.returncode == 0, ended.stderr
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return Trained(folder, ranks)


@pytest.fixture(scope="module")
def one(trained_by_one: Trained) -> Results:
    return trained_by_one.results[0]


@pytest.fixture(scope="module")
def two(trained_by_two: Trained) -> list[Results]:
    return trained_by_two.results


CASES = ("labels", "kd", "fixed", "meta", "meta-exact")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(one: Results, two: list[Results], case: str) -> None:
    assert two[0]["count"] == 2
    expected, found = one[case], two[0][case]
    assert found["losses"] == pytest.approx(expected["losses"], rel=TOLERANCE)
    assert found["steps"] == expected["steps"]
    assert len(found["steps"]) == len(found["losses"]) >= 8
    assert len(found["validation"]) == 2
    for before, after in zip(expected["weights"], found["weights"], strict=True):
        for view, spread in before.items():
            assert after[view] == pytest.approx(spread, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "batch-norm", "int8"])
def test_all_processes_end_with_the_same_bits(two: list[Results], case: str) -> None:
    assert two[0][case] == two[1][case]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["labels", "meta"])
def test_two_processes_resume_to_the_same_bits(two: list[Results], case: str) -> None:
    for results in two:
        resumed, whole = results[f"{case}-again"], results[case]
        assert resumed["model"] == whole["model"]
        assert resumed["losses"] == whole["losses"][-len(resumed["losses"]) :]
        assert resumed["steps"] == whole["steps"]


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_continued_by_two(one: Results, two: list[Results]) -> None:
    found = two[0]["meta-taken-over"]
    expected = one["meta"]["losses"][4:]
    assert found["losses"] == pytest.approx(expected, rel=TOLERANCE)
    assert two[1]["meta-taken-over"] == found


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_continued_by_one(
    shared: ModuleType, one: Results, trained_by_two: Trained, tmp_path: Path
) -> None:
    assert trained_by_two.results[1]["meta-stopped"]["stopped"]
    folder = shutil.copytree(trained_by_two.folder / "meta-stopped", tmp_path / "meta-stopped")
    found = shared.run("meta", folder)
    assert found["losses"] == pytest.approx(one["meta"]["losses"][4:], rel=TOLERANCE)


@pytest.mark.slow
def test_predictions_shared_by_two_processes_are_those_of_one_to_the_bit(
    shared: ModuleType, two: list[Results]
) -> None:
    expected = sha256(shared.answers()).hexdigest()
    assert [results["answers"] for results in two] == [expected, expected]


@pytest.mark.slow
def test_a_usage_error_is_reported_once_and_ends_all_processes(tmp_path: Path) -> None:
    ended = launch("-m", "msd_cli", "distill", "--data", tmp_path / "none.jsonl")
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.count("error: ") == 1
    assert "none.jsonl" in ended.stderr


_ONE_FAILS = """
import sys
from msd_cli import main as command
from msd_deploy import process_group
from msd_deploy.errors import DataError

def app():
    process_group.begin()
    if process_group.rank() == 1:
        raise DataError("broken", where="row 7") if sys.argv[1] == "known" else ValueError("odd")
    process_group.barrier()

command.app = app
command.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "told"), [("known", "error: row 7: broken"), ("odd", "odd")])
def test_an_error_in_one_process_ends_all_with_its_message(
    tmp_path: Path, kind: str, told: str
) -> None:
    script = tmp_path / "one_fails.py"
    script.write_text(_ONE_FAILS)
    ended = launch(script, kind)
    assert ended.returncode != 0
    assert told in ended.stderr
    assert "another process" not in ended.stderr


def test_a_batch_is_split_between_images() -> None:
    images = np.array([0, 0, 0, 1, -1, -1, 2, 2])
    rows = list(range(8))
    parts = split_between_images(rows, images, 3)
    assert [row for part in parts for row in part] == rows
    assert parts == [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_a_batch_of_fewer_images_than_processes_counts_equally_in_each(
    shared: ModuleType,
) -> None:
    split = shared.make_split(40, 1)
    batches = ShardedBatches.__new__(ShardedBatches)
    batches.__init__([[3]], split)  # type: ignore[misc]
    shares = [batches.share_of([3], rank, 4) for rank in range(4)]
    assert [share.rows for share in shares] == [[3]] * 4
    assert [share.of_rows for share in shares] == [0.25] * 4
    assert sum(share.of_labels for share in shares) == 1
