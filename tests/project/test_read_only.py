"""What tests share is read-only: each way to change it fails the test, see `tests/read_only.py`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """
import contextlib, shutil, subprocess
from pathlib import Path
import numpy as np, pytest, torch

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "file").write_text("as it was")
    return folder

@pytest.fixture(scope="module")
def values():
    return {"array": np.zeros(3), "list": [1]}

@pytest.fixture(scope="module")
def model():
    return torch.nn.Linear(2, 2)

@pytest.fixture(scope="module")
def longer(folder):
    (folder / "another").write_text("of another fixture")

def test_fine_reads_and_copies(folder, values, model, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / "file").write_text((folder / "file").read_text() + str(values["list"]))
    shutil.rmtree(copied)
    assert model(torch.zeros(1, 2)).shape == (1, 2)

def test_opens_to_write(folder):
    (folder / "file").write_text("changed")

def test_catches_the_refusal(folder):
    with contextlib.suppress(Exception):
        (folder / "new").mkdir()

def test_removes_a_folder(folder):
    shutil.rmtree(folder)

def test_renames(folder, tmp_path):
    (folder / "file").rename(tmp_path / "file")

def test_lets_another_process_write(folder):
    subprocess.run(["touch", folder / "new"], check=True)

def test_lets_another_process_remove(folder):
    subprocess.run(["rm", folder / "new"], check=True)

def test_writes_by_another_fixture(longer):
    pass

def test_changes_an_array(values):
    values["array"][0] = 1

def test_changes_a_list(values):
    values["list"].append(2)

def test_changes_weights(model):
    with torch.no_grad():
        model.weight += 1

def test_changes_the_mode(model):
    model.eval()

def test_fine_after_all_these(folder, values, model):
    assert (folder / "file").read_text() == "as it was"
"""


def test_each_change_of_what_tests_share_fails_the_test_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "test_shared.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "tests.read_only", "-rA"]
    ended = subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'temporary'}", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
    outcomes = dict(
        line.partition(" - ")[0].split(" test_shared.py::")[::-1]
        for line in ended.stdout.splitlines()
        if " test_shared.py::" in line
    )
    names = [line[4:].partition("(")[0] for line in TESTS.splitlines() if "def test_" in line]
    expected = {name: "PASSED" if "fine" in name else "FAILED" for name in names}
    expected["test_writes_by_another_fixture"] = "ERROR"
    assert outcomes == expected, ended.stdout
    assert "shared0/file, of the fixture folder: what tests share is read-only" in ended.stdout
