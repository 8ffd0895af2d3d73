"""Help texts: complete, quick, and without loading what only the work needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / name for name in (".", "cli", "export", "mobile_bench")]
COMMANDS = (
    *("distill", "teacher", "export", "inspect", "bench", "report", "evaluate", "predict"),
    *("compare", "doctor", "calibrate"),
)
HEAVY = (
    "accelerate",
    "coremltools",
    "datasets",
    "jinja2",
    "numpy",
    "onnx",
    "onnxruntime",
    "PIL",
    "psutil",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
# The name that help shows is the script's.
RUN = "import sys; sys.argv[0] = 'msd'; from msd_cli.main import main; main()"
# Prints, on stderr, which of the heavy packages are loaded when the command has ended.
RUN_AND_NAME_MODULES = f"""
import sys
from msd_cli.main import main
try:
    main()
finally:
    loaded = sorted(set({HEAVY!r}) & set(sys.modules))
    sys.stderr.write("loaded:" + ",".join(loaded))
"""


def run_msd(
    *arguments: str, script: str = RUN, columns: int = 100
) -> "subprocess.CompletedProcess[str]":
    """Run `msd` in a fresh process, from a bare checkout or an installed one."""
    paths = os.pathsep.join(str(root) for root in ROOTS)
    # Typer colours its help on GitHub's machines unless it is told not to.
    plain = {"COLUMNS": str(columns), "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | plain,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [("--help",), *((name, "--help") for name in COMMANDS), ("--version",)]
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    answer = run_msd(*arguments, script=RUN_AND_NAME_MODULES)
    assert answer.returncode == 0
    assert answer.stderr == "loaded:"


@pytest.mark.parametrize("name", ["predict", "evaluate", "calibrate"])
def test_a_missing_model_is_an_error_before_anything_heavy_is_loaded(name: str) -> None:
    answer = run_msd(name, "nowhere", script=RUN_AND_NAME_MODULES)
    assert answer.returncode == 1
    error, loaded = answer.stderr.splitlines()
    assert error.startswith("error: nowhere: no such folder. ")
    assert loaded == "loaded:"


def test_help_names_every_command() -> None:
    answer = run_msd("--help")
    assert answer.returncode == 0
    for name in COMMANDS:
        assert f" {name} " in answer.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples(name: str) -> None:
    answer = run_msd(name, "--help")
    assert answer.returncode == 0
    assert "Usage: msd" in answer.stdout
    assert "Examples:" in answer.stdout
    example = answer.stdout.partition("Examples:")[2].splitlines()[1]
    assert example.startswith(f"     msd {name}")  # a column of help's own, and four


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_help_is_cut_in_a_narrow_terminal(name: str) -> None:
    assert "…" not in run_msd(name, "--help", columns=60).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_a_usage_error(name: str) -> None:
    answer = run_msd(name, "--no-such-option")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "--no-such-option" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    answer = run_msd("no-such-command")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "no-such-command" in answer.stderr
