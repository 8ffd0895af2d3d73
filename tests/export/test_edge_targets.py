"""ExecuTorch, LiteRT and Core AI through `msd export`, with their extras and without."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import RuntimeUnavailableError
from msd_export.formats import FORMATS, Target, require_target

ROOTS = [str(Path(__file__).parents[2] / name) for name in (".", "cli", "export", "mobile_bench")]
# What is hidden is as if it were not installed: nobody finds it.
HIDE = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("executorch", "ai_edge_litert", "litert_torch", "coreai"):
            return None
        return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def msd(*arguments: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    code = f"{before}\nimport sys; sys.path[:0] = {ROOTS}\nfrom msd_cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_is_not_installed_is_named_with_its_remedy_and_the_others_are_written(
    own_run: RunDirectory,
) -> None:
    names = ("executorch", "litert", "coreai", "onnx")
    targets = [part for name in names for part in ("--target", name)]
    options = ("--precision", "fp32", "--examples", "20", "--max-drop", "100")
    answer = msd("export", str(own_run.root), *targets, *options, before=HIDE)
    assert answer.returncode == 1, answer.stderr
    assert [path.name for path in own_run.exports.iterdir()] == ["onnx-fp32"]
    error = answer.stderr.splitlines()[-1]
    assert (
        "executorch-fp32: ExecuTorch requires packages that are not installed: executorch" in error
    )
    assert (
        "litert-fp32: LiteRT requires packages that are not installed: ai_edge_litert, litert_torch"
        in error
    )
    assert "coreai-fp32: Core AI requires packages that are not installed: coreai" in error
    assert "written: onnx-fp32" in error
    for extra in ("executorch", "litert", "coreai"):
        assert f'Run pip install "msd-deploy[{extra}]"' in error


@pytest.mark.parametrize(
    ("target", "converter"), [("onnx", "onnxscript"), ("litert", "litert_torch")]
)
def test_an_export_is_opened_without_its_converter(
    monkeypatch: pytest.MonkeyPatch, target: Target, converter: str
) -> None:
    runtime = FORMATS[target].modules_to_run
    if not all(map(importlib.util.find_spec, runtime)):
        pytest.skip(f"{target} is not installed")
    monkeypatch.setitem(sys.modules, converter, None)  # as if it were not installed
    require_target(target, only_to_run=True)
    with pytest.raises(RuntimeUnavailableError, match=f"not installed: {converter}"):
        require_target(target)
    monkeypatch.setitem(sys.modules, runtime[0], None)
    with pytest.raises(RuntimeUnavailableError, match=f"not installed: {runtime[0]}"):
        require_target(target, only_to_run=True)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("m.pte", "executorch"), ("m.tflite", "litert"), ("m.aimodel", "coreai")],
)
def test_what_inspect_needs_is_one_line(tmp_path: Path, name: str, extra: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    answer = msd("inspect", str(tmp_path / name), before=HIDE)
    assert (answer.returncode, answer.stdout) == (1, "")
    (line,) = answer.stderr.splitlines()
    assert f'Run pip install "msd-deploy[{extra}]"' in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "module"), [("executorch", "executorch"), ("litert", "litert_torch")]
)
def test_a_trained_student_passes_its_gate_and_nothing_else_is_said(
    own_run: RunDirectory, target: str, module: str
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the extra [{target}]")
    answer = msd("export", str(own_run.root), "--target", target, "--max-drop", "100", "--json")
    assert answer.returncode == 0, answer.stderr
    assert sorted(json.loads(answer.stdout)["parity"]) == [f"{target}-fp32", f"{target}-int8"]
    ours = ("> ", "  ", "Wrote ")
    assert [line for line in answer.stderr.splitlines() if not line.startswith(ours)] == []


@pytest.mark.slow
def test_what_is_installed_but_broken_is_one_line_and_the_others_are_written(
    own_run: RunDirectory, tmp_path: Path
) -> None:
    """A package that is found and fails when it is imported, as one of another platform does."""
    for name in ("ai_edge_litert", "litert_torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('libwrong.so: not here')")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    targets = ("--target", "litert", "--target", "onnx")
    options = ("--precision", "fp32", "--examples", "20", "--max-drop", "100")
    answer = msd("export", str(own_run.root), *targets, *options, before=before)
    assert answer.returncode == 1, answer.stderr
    assert [path.name for path in own_run.exports.iterdir()] == ["onnx-fp32"]
    error = answer.stderr.splitlines()[-1]
    assert "installed but cannot be imported (libwrong.so: not here)" in error
    assert 'pip install --force-reinstall "msd-deploy[litert]"' in error
    (tmp_path / "m.tflite").write_bytes(b"no model")
    answer = msd("inspect", str(tmp_path / "m.tflite"), before=before)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "cannot be imported (libwrong.so: not here)" in answer.stderr
    assert "Traceback" not in answer.stderr
