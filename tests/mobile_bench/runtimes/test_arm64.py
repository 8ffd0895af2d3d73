"""The runtimes under ARM64 emulation, against the same files on this machine, and their installer.

Those marked arm64 run what `msd doctor --install arm64` has installed in the user's cache, and are
skipped where it has not. The library that calls ExecuTorch is also compiled for this machine, and
compared with ExecuTorch's own binding.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, MsdError, RuntimeUnavailableError
from msd_deploy.models.folders import load_model
from msd_deploy.views import View
from msd_export.converters import converter_for
from msd_export.formats import FORMATS, Precision, Target
from msd_export.predictors import open_predictor
from msd_export.signature import Logits, ModelInputs
from msd_export.source import ExportSource
from msd_mobile_bench.runtimes import arm64, executorch_worker
from msd_mobile_bench.runtimes.arm64 import ARM64_RUNTIMES, EXECUTORCH, LITERT, ONNX_RUNTIME
from msd_mobile_bench.runtimes.install_arm64 import (
    compiler_arguments,
    install_arm64,
    open_archive,
)
from msd_mobile_bench.runtimes.process import worker_environment
from msd_mobile_bench.runtimes.worker import load_arrays, save_arrays
from tests.command_server import CommandServer

Ask = Callable[..., dict[str, object]]
_EXAMPLES = 30
_FORMS: list[tuple[Target, Precision]] = [
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("ort", "fp32"),
    ("litert", "fp32"),
    ("litert", "int8"),
    ("executorch", "fp32"),
    ("executorch", "int8"),
]
# The same arithmetic, summed in another order: 8.3e-7 for one tiny student, 4.8e-6 for another.
_FLOAT_ERROR = 2e-5
# A rounding that falls on the other side moves an activation by one of 255 steps: .0128 was
# measured, which is .0023 of the range of those logits.
_INTEGER_ERROR = 0.02


def export(
    run: RunDirectory, data: PreparedData, target: Target, precision: Precision, folder: Path
) -> Path:
    """Export the run's student, and return the model's file."""
    if not all(map(importlib.util.find_spec, FORMATS[target].modules)):
        pytest.skip(f"{target} is not installed")
    source = ExportSource(load_model(run.student), data, "untrained", folder)
    path = folder / FORMATS[target].model_file
    converter_for(target, source).convert(precision, path)
    return path


@pytest.fixture(scope="module")
def inputs(memes: tuple[PreparedData, Preprocessor]) -> dict[View, ModelInputs]:
    split = memes[0].splits["test"]
    return {view: split.inputs(np.arange(_EXAMPLES), view) for view in View}


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[Ask]:
    """Start a worker and yield what asks it for a task."""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(task: str, **arguments: object) -> dict[str, object]:
            process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
            process.stdin.flush()
            answer: dict[str, object] = json.loads(process.stdout.readline())
            return answer

        yield ask
        process.stdin.close()


def answers(
    ask: Ask, target: Target, path: Path, inputs: dict[View, ModelInputs], scratch: Path
) -> dict[View, Logits]:
    """Open a file in a worker and return its logits, by view."""
    for view in View:
        few = {name: array[:2] for name, array in inputs[view].items()}
        save_arrays(scratch / "examples" / view.value, few)
        save_arrays(scratch / "inputs" / view.value, inputs[view])
    examples = str(scratch / "examples")
    opened = ask("open", target=target, path=str(path), threads=1, examples=examples)
    assert opened["load_time_ms"] is not None
    logits = {}
    for view in View:
        there, back = scratch / "inputs" / view.value, scratch / "outputs" / view.value
        assert ask("predict", inputs=str(there), outputs=str(back)) == {"rows": _EXAMPLES}
        logits[view] = load_arrays(back)["logits"].astype(np.float32)
    return logits


@pytest.mark.arm64
@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), _FORMS)
def test_emulated_answers_are_those_of_this_machine(
    target: Target,
    precision: Precision,
    untrained_run: RunDirectory,
    memes: tuple[PreparedData, Preprocessor],
    inputs: dict[View, ModelInputs],
    tmp_path: Path,
) -> None:
    runtime = next(each for each in ARM64_RUNTIMES if each.runs(target))
    if (reason := runtime.unavailable()) is not None:
        pytest.skip(f"{runtime.title}: {reason}")
    path = export(untrained_run, memes[0], target, precision, tmp_path)
    here = open_predictor(target, path)
    with started(runtime.command(target, 1), runtime.environment(1)) as ask:
        emulated = answers(ask, target, path, inputs, tmp_path)
    for view in View:
        expected = here.predict(inputs[view])
        is_float = precision == "fp32"
        tolerance = _FLOAT_ERROR if is_float else _INTEGER_ERROR * float(np.ptp(expected))
        assert np.abs(emulated[view] - expected).max() <= tolerance
        ordered = np.sort(expected, axis=1)
        is_sure = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
        assert is_sure.sum() >= _EXAMPLES // 2
        assert (emulated[view].argmax(axis=1) == expected.argmax(axis=1))[is_sure].all()


@pytest.mark.arm64
def test_the_emulated_python_is_of_arm64_and_imports_no_package_of_this_machine() -> None:
    if (reason := ONNX_RUNTIME.unavailable()) is not None:
        pytest.skip(reason)
    script = (
        "import json, platform, numpy, onnxruntime, psutil, msd_mobile_bench.runtimes.worker, sys;"
        "print(json.dumps([platform.machine(), numpy.__version__, onnxruntime.__version__,"
        " [numpy.__file__, onnxruntime.__file__, psutil.__file__], 'torch' in sys.modules]))"
    )
    folder = arm64.installation_folder()
    done = subprocess.run(
        [*arm64.emulated_python(folder), "-P", "-c", script],
        env=ONNX_RUNTIME.environment(1),
        capture_output=True,
        text=True,
        check=True,
    )
    machine, numpy_version, onnx_version, files, has_torch = json.loads(done.stdout)
    assert machine == "aarch64"
    pinned = arm64.pinned_versions()
    assert (numpy_version, onnx_version) == (pinned["numpy"], pinned["onnxruntime"])
    assert all(Path(name).is_relative_to(folder / "site") for name in files)
    assert not has_torch


@pytest.mark.arm64
@pytest.mark.parametrize("runtime", ARM64_RUNTIMES, ids=lambda runtime: runtime.key)
def test_a_file_that_an_emulated_runtime_refuses_is_an_error_of_its_kind(
    runtime: arm64.Arm64Runtime, inputs: dict[View, ModelInputs], tmp_path: Path
) -> None:
    if (reason := runtime.unavailable()) is not None:
        pytest.skip(reason)
    (target, *_) = runtime.targets - {"ort"}
    (tmp_path / "broken").write_bytes(b"no model")
    for view in View:
        save_arrays(tmp_path / view.value, inputs[view])
    with started(runtime.command(target, 1), runtime.environment(1)) as ask:
        opening = {"path": str(tmp_path / "broken"), "threads": 1, "examples": str(tmp_path)}
        answer = ask("open", target=target, **opening)
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "ArtifactError"
    assert runtime.engine in error["what"]
    assert error["where"] == str(tmp_path / "broken")


@pytest.mark.parametrize(
    ("runtime", "targets"),
    [(ONNX_RUNTIME, {"onnx", "ort"}), (LITERT, {"litert"}), (EXECUTORCH, {"executorch"})],
)
def test_a_runtime_runs_its_own_targets_and_measures_answers_alone(
    runtime: arm64.Arm64Runtime, targets: set[str]
) -> None:
    assert {target for target in ("torch", *FORMATS) if runtime.runs(target)} == targets
    assert runtime.measures == {"answers"}
    assert runtime.title.endswith(", ARM64 emulated")


@pytest.mark.skipif(arm64.unsupported_here() is not None, reason="ARM64 is not emulated here")
def test_a_runtime_that_is_not_installed_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ONNX_RUNTIME.unavailable() == "not installed: run msd doctor --install arm64"
    folder = arm64.installation_folder()
    assert folder.parent == tmp_path / "msd-deploy"
    folder.mkdir(parents=True)  # without what is written last
    assert ONNX_RUNTIME.unavailable() is not None


@pytest.mark.parametrize(
    ("system", "machine", "reason"),
    [
        ("darwin", "arm64", "this machine is ARM64 itself"),
        ("linux", "aarch64", "this machine is ARM64 itself"),
        ("win32", "AMD64", "on Linux alone"),
    ],
)
def test_other_machines_say_why_nothing_is_emulated(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, reason: str
) -> None:
    """The name of the machine is a stand-in for it."""
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    for runtime in ARM64_RUNTIMES:
        assert reason in (runtime.unavailable() or "")
    with pytest.raises(RuntimeUnavailableError, match=reason):
        install_arm64()


def test_another_version_of_a_package_is_another_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = arm64.installation_folder()
    (tmp_path / "psutil-99.0.dist-info").mkdir()
    (tmp_path / "psutil-99.0.dist-info/METADATA").write_text("Name: psutil\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert arm64.pinned_versions()["psutil"] == "99.0"
    assert arm64.installation_folder() != before


def test_a_worker_has_the_arm64_packages_first_and_no_libraries_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONSTARTUP", "x.py")
    monkeypatch.delenv("QEMU_CPU", raising=False)
    environment = ONNX_RUNTIME.environment(2)
    folder = arm64.installation_folder()
    first, *others = environment["PYTHONPATH"].split(os.pathsep)
    assert first == str(folder / "site")
    assert all((Path(other) / "msd_deploy").is_dir() for other in others[:1])
    assert not {"LD_PRELOAD", "PYTHONSTARTUP"} & environment.keys()
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["QEMU_CPU"] == "cortex-a76"
    monkeypatch.setenv("QEMU_CPU", "neoverse-n1")
    assert ONNX_RUNTIME.environment(1)["QEMU_CPU"] == "neoverse-n1"
    library = str(folder / arm64.EXECUTORCH_LIBRARY)
    assert EXECUTORCH.command("executorch", 1)[-1] == library


is_debian = shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None
on_debian = pytest.mark.skipif(
    not is_debian or arm64.unsupported_here() is not None, reason="needs Debian's apt-get"
)


@pytest.mark.skipif(arm64.unsupported_here() is not None, reason="ARM64 is not emulated here")
def test_a_system_without_debians_tools_is_told_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match="no apt-get and dpkg-deb") as error:
        install_arm64()
    assert "on Debian, or in a container" in error.value.fix
    assert not (tmp_path / "cache").exists()


@on_debian
def test_an_installation_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the port that discards: nobody listens
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stages: list[str] = []
    with pytest.raises(RuntimeUnavailableError, match="apt-get failed"):
        install_arm64(stages.append)
    assert stages == ["Fetching QEMU of Debian trixie"]
    assert list(tmp_path.iterdir()) == []


@on_debian
def test_an_installation_that_does_not_start_is_made_again_and_kept_until_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = arm64.installation_folder()
    folder.mkdir(parents=True)
    (folder / arm64.STAMP).write_text("{}")
    stages: list[str] = []
    with pytest.raises(RuntimeUnavailableError, match="apt-get failed"):
        install_arm64(stages.append)
    assert stages == ["Starting the ARM64 runtimes", "Fetching QEMU of Debian trixie"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == [arm64.STAMP]


@on_debian
def test_an_archive_without_debians_signature_is_refused(tmp_path: Path) -> None:
    packages = tmp_path / "archive/dists/bookworm/main/binary-arm64"
    packages.mkdir(parents=True)
    (packages / "Packages").touch()
    (tmp_path / "archive/dists/bookworm/Release").write_text("Suite: bookworm\nComponents: main\n")
    with pytest.raises(RuntimeUnavailableError, match="is not signed"):
        open_archive(f"file:{tmp_path}/archive", "bookworm", "arm64", tmp_path / "apt")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that calls ExecuTorch, compiled for this machine against its wheel."""
    found = importlib.util.find_spec("executorch")
    compiler = shutil.which("g++")
    if found is None or found.submodule_search_locations is None or compiler is None:
        pytest.skip("needs executorch and g++")
    wheel = Path(found.submodule_search_locations[0])
    if sys.platform != "linux" or not (wheel / "lib/libexecutorch.so").is_file():
        pytest.skip("executorch has no C++ runtime here")
    path = tmp_path_factory.mktemp("library") / "libmsd_executorch.so"
    arguments = compiler_arguments(wheel / "include", wheel / "lib", path)
    subprocess.run([compiler, *arguments, f"-Wl,-rpath,{wheel}/lib"], check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_library_for_executorch_gives_the_logits_of_its_binding_to_the_bit(
    precision: Precision,
    library: Path,
    untrained_run: RunDirectory,
    memes: tuple[PreparedData, Preprocessor],
    inputs: dict[View, ModelInputs],
    tmp_path: Path,
) -> None:
    path = export(untrained_run, memes[0], "executorch", precision, tmp_path)
    binding = open_predictor("executorch", path)
    module = "msd_mobile_bench.runtimes.executorch_worker"
    command = [sys.executable, "-P", "-m", module, str(library)]
    with started(command, worker_environment(1)) as ask:
        found = answers(ask, "executorch", path, inputs, tmp_path)
    for view in View:
        assert np.array_equal(found[view], binding.predict(inputs[view]))
    native = executorch_worker.NativePredictor(executorch_worker.load_library(library), path)
    assert native.metadata == dict(binding.metadata)
    assert "problem" in native.metadata


def test_a_file_that_is_no_program_is_refused(library: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"model\.pte: ExecuTorch cannot run it \(the program"):
        executorch_worker.NativeProgram(
            executorch_worker.load_library(library), tmp_path / "model.pte"
        )


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"no library")
    with pytest.raises(MsdError, match=r"lib\.so: cannot be loaded"):
        executorch_worker.load_library(tmp_path / "lib.so")


def test_doctor_names_the_emulated_runtimes_and_how_to_install_them(
    commands: CommandServer, tmp_path: Path
) -> None:
    reasons = commands.run("doctor", "--json", folder=tmp_path).json()["arm64_runtimes"]
    assert reasons == {each.title: each.unavailable() for each in ARM64_RUNTIMES}
    assert commands.run("doctor", "--install", "toaster", folder=tmp_path).code == 2
