"""Arguments, paths, streams and environment variables as people's machines have them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.launcher import forget_invalid_variables
from msd_cli.options import utf8_text
from msd_deploy.artifacts.manifest import read_json, write_json
from tests.cli.conftest import ROOTS

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\u2028\r\n[red]:fire:"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\u2028\r\n[red]:fire:"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_msd(
    shell: str, *arguments: str | bytes, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run `msd` from a shell line in which "$@" is the command."""
    command = [sys.executable, "-m", "msd_cli", *arguments]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, ROOTS))}
    return subprocess.run(
        ["bash", "-c", shell, "bash", *command],
        env=os.environ | paths | (env or {}),
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("doctor",)])
def test_a_closed_stream_is_an_empty_one(streams: str, arguments: tuple[str, ...]) -> None:
    answer = run_msd(f'"$@" {streams}', *arguments)
    assert (answer.returncode, answer.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("doctor",), ("--help",)])
def test_a_reader_that_stops_reading_is_no_error(arguments: tuple[str, ...]) -> None:
    assert run_msd('"$@" | true', *arguments).stderr == b""


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("doctor",)])
def test_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    answer = run_msd('"$@" > /dev/full', *arguments)
    assert answer.returncode == 1
    assert answer.stderr.startswith(b"error: the output cannot be written (No space left")
    assert answer.stderr.count(b"\n") == 1


@pytest.mark.parametrize("env", [{}, C_LOCALE, {"PYTHONIOENCODING": "latin-1"}])
@pytest.mark.parametrize("name", [b"caf\xe9", "caf\u00e9 \u732b".encode()])
def test_a_path_of_any_bytes_is_an_error_of_one_line(name: bytes, env: dict[str, str]) -> None:
    answer = run_msd('"$@"', b"inspect", name, env=env)
    assert answer.returncode == 1
    assert answer.stderr.startswith(b"error: caf")
    assert answer.stderr.count(b"\n") == 1


def test_a_path_of_any_bytes_is_kept_in_json(tmp_path: Path) -> None:
    path = os.fsdecode(b"/data/caf\xe9.jsonl")
    write_json(tmp_path / "run.json", {"spec": path})
    assert read_json(tmp_path / "run.json") == {"spec": path}


def test_a_text_that_is_not_utf8_is_a_usage_error() -> None:
    answer = run_msd('"$@"', "predict", "nowhere", "--text", b"caf\xe9 red")
    assert answer.returncode == 2
    assert b"Invalid value for --text: is not UTF-8 (byte 0xe9)" in answer.stderr


def test_a_text_is_read_as_utf8_in_every_locale() -> None:
    assert utf8_text("caf\u00e9", "--text") == "caf\u00e9"
    # As Python reads the bytes of an argument where the locale's encoding is ASCII.
    assert utf8_text(b"caf\xc3\xa9".decode("ascii", "surrogateescape"), "--text") == "caf\u00e9"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_the_same_object_in_every_encoding(encoding: str) -> None:
    code = (
        "from msd_cli.launcher import open_streams; from msd_cli.console import print_json;"
        "open_streams(); print_json({'caf\\u00e9 \\u732b\\udce9': '\\x9b\\x1b\\u202e'})"
    )
    env = {"PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(map(str, ROOTS))}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, check=True
    )
    text = answer.stdout.decode(encoding)
    assert json.loads(text) == {"caf\u00e9 \u732b\udce9": "\x9b\x1b\u202e"}
    assert not set(text) & set("\x9b\x1b\u202e")


def test_nothing_in_data_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay()
    display.on_stage(HOSTILE)
    display.on_note(HOSTILE)
    display.on_count(HOSTILE, 1, 1)
    print_note(f"error: {HOSTILE}")
    table = new_table(HOSTILE, HOSTILE)
    table.add_row(HOSTILE)
    result_console().print(table)
    shown = capsys.readouterr()
    lines = [f"> {SHOWN}", f"  {SHOWN}", f"  {SHOWN} 1/1", f"error: {SHOWN}"]
    assert shown.err.splitlines() == lines
    assert shown.out.count(SHOWN) == 3
    print_json({HOSTILE: HOSTILE})
    assert not set(capsys.readouterr().out) & set(HOSTILE[:1] + "\x07\x9b\u202e\u2028\r")


@pytest.mark.parametrize("arguments", [("inspect", "a", "b\x1b[31m"), ("--\x1b[31m",), ("\x9b1m",)])
def test_a_usage_error_quotes_no_controls(arguments: tuple[str, ...]) -> None:
    answer = run_msd('"$@"', *arguments)
    assert answer.returncode == 2
    assert not set(answer.stderr.decode()) & set("\x1b\x9b")


@pytest.mark.parametrize("value", ["", " ", "abc", "-1", "0", "1.5"])
def test_an_invalid_number_of_a_library_is_as_if_unset(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    for name in ("OMP_NUM_THREADS", "COLUMNS", "WORLD_SIZE"):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hides all GPUs
    monkeypatch.setenv("RANK", "0")
    forget_invalid_variables()
    assert not {"OMP_NUM_THREADS", "COLUMNS", "WORLD_SIZE", "HF_HOME"} & set(os.environ)
    assert {"CUDA_VISIBLE_DEVICES", "RANK"} <= set(os.environ)


def test_invalid_variables_do_not_change_the_output() -> None:
    names = ("COLUMNS", "NO_COLOR", "TERM", "WORLD_SIZE", "RANK", "OMP_NUM_THREADS", "HF_HOME")
    expected = run_msd(f'unset {" ".join(names)}; "$@"', "doctor")
    assert expected.returncode == 0
    for value in ("", "0"):
        answer = run_msd('"$@"', "doctor", env=dict.fromkeys(names, value))
        assert (answer.returncode, answer.stdout) == (0, expected.stdout)


_INTERRUPTED = """
import importlib.abc, signal, sys
module = sys.argv.pop(1)

# A shell has its background processes ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from msd_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "rich", "numpy"])
def test_ctrl_c_during_imports_is_one_line(module: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, module, "predict", ".", "--text", "a"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, ROOTS))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (130, "error: stopped.\n")


def test_an_image_name_that_the_locale_cannot_write_is_a_row_that_is_named(tmp_path: Path) -> None:
    rows = ({"image": f"caf\u00e9{n}.png", "label": "ab"[n % 2]} for n in range(20))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("distill", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run"))
    answer = run_msd('"$@"', *arguments, env=C_LOCALE)
    assert answer.returncode == 1
    assert b"Traceback" not in answer.stderr
    assert b"in this locale" in answer.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write in")
def test_a_cache_that_cannot_be_made_is_named_and_done_without(tmp_path: Path) -> None:
    rows = ({"text": f"word {n}", "label": "ab"[n % 2]} for n in range(60))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("distill", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run"))
    short = ("--epochs", "1", "--teacher-epochs", "1")
    answer = run_msd('"$@"', *arguments, *short, env={"HF_HOME": "/proc/nowhere"})
    assert answer.returncode == 0, answer.stderr
    (note,) = [line for line in answer.stderr.splitlines() if b"without a cache" in line]
    assert b"/proc/nowhere" in note
    assert b"Set HF_HOME" in note


@pytest.mark.parametrize("arguments", [("doctor",), ("distill", "--dry-run")])
def test_a_current_folder_that_is_gone_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    answer = run_msd(
        f'mkdir "{tmp_path}/a"; cd "{tmp_path}/a"; rmdir "{tmp_path}/a"; "$@"', *arguments
    )
    assert answer.returncode == 1
    assert answer.stderr.decode() == (
        "error: the current folder no longer exists. Change to another folder (cd).\n"
    )


def test_of_an_endless_word_the_beginning_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    path = "a" * 999
    print_note(f"{path} {'b' * 20_000} end")
    assert capsys.readouterr().err == f"{path} {'b' * 200}... (20,000 characters) end\n"
