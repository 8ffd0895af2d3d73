"""ARM64 under user-mode emulation: runtimes of phones' processors on an x86 machine.

ONNX Runtime, LiteRT and ExecuTorch are run as their ARM64 builds, by QEMU. Covered is what a model
answers with the kernels of ARM64, which differ from those of x86. Time and memory are not: QEMU
translates instructions, and translated code ranks int8 and fp32 in another order than native code.

What is needed lies in the user's cache; `install_arm64` writes it, and this module looks it up.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import msd_deploy
import msd_export
from msd_deploy.artifacts.output import user_cache

INSTALL = "msd doctor --install arm64"
CPU = "cortex-a76"
"""The processor that is emulated: a phone's large core of ARMv8.2, with half precision and 8-bit
dot products, which later ones have too. QEMU's "max" has extensions beyond those of phones (SVE,
SME), which select other kernels, and is ten times slower: it computes pointer authentication."""
PYTHON = "3.11"
"""Of the worker: the Python of `SUITE`, whatever Python runs this."""
SUITE, EMULATOR_SUITE = "bookworm", "trixie"
"""The releases of Debian that Python, and QEMU, are taken from. QEMU 7.2 of bookworm cannot run
ONNX Runtime 1.32 and LiteRT 2.3: they crash."""
EXECUTORCH_SOURCE = Path(__file__).with_name("executorch_calls.cpp")
EXECUTORCH_LIBRARY = "lib/libmsd_executorch.so"
STAMP = "installed.json"
_WORKER_PACKAGES = ("numpy", "psutil", "flatbuffers")
"""What our worker imports, besides a runtime."""
_LAYOUT = 1
"""To be raised when the content of the folder changes, other than by versions."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_OF_THIS_MACHINE = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT")
"""Variables that name libraries of this machine, which an ARM64 program cannot load."""


@dataclass(frozen=True, slots=True)
class Arm64Runtime:
    """A runtime of `msd bench`: its ARM64 build, emulated.

    Attributes:
        key: Its name in reports.
        engine: Its name for people, without version.
        distribution: What pip calls it.
        targets: The targets that it runs.
        worker: What is started: a module, and files of the installation that are its arguments.
        extra: The extra of this project that installs it for this machine; "" if all
            installations have it.
        measures: What is measured with it.
    """

    key: str
    engine: str
    distribution: str
    targets: frozenset[str]
    worker: tuple[str, ...] = ("msd_mobile_bench.runtimes.worker",)
    extra: str = ""
    measures: frozenset[str] = frozenset({"answers"})

    @property
    def untimed_note(self) -> str:
        """Why its latency is not measured."""
        return "emulated: latency is not measured"

    @property
    def title(self) -> str:
        """The name for people, for example "ONNX Runtime 1.32, ARM64 emulated"."""
        version = ".".join(pinned_versions().get(self.distribution, "").split(".")[:2])
        return f"{self.engine} {version}".rstrip() + ", ARM64 emulated"

    def runs(self, target: str) -> bool:
        """Return whether it runs the exports of a target."""
        return target in self.targets

    def unavailable(self) -> str | None:
        """Return why it cannot be used now, and what to type; None: it can be."""
        if (reason := unsupported_here()) is not None:
            return reason
        if self.distribution not in pinned_versions():
            return f'not installed: run pip install "msd-deploy[{self.extra}]", then {INSTALL}'
        return None if is_installed() else f"not installed: run {INSTALL}"

    def command(self, target: str, threads: int) -> list[str]:
        """Return the command that starts a worker; see `environment`.

        Args:
            target: One that it runs.
            threads: CPU threads; the worker is told them when it opens a model.
        """
        folder, (module, *files) = installation_folder(), self.worker
        return [
            *emulated_python(folder),
            "-P",
            "-m",
            module,
            *(str(folder / name) for name in files),
        ]

    def environment(self, threads: int) -> dict[str, str]:
        """Return the whole environment of the worker.

        Args:
            threads: CPU threads.
        """
        return worker_environment(installation_folder(), threads)


ONNX_RUNTIME = Arm64Runtime(
    "onnxruntime-arm64", "ONNX Runtime", "onnxruntime", frozenset({"onnx", "ort"})
)
LITERT = Arm64Runtime(
    "litert-arm64", "LiteRT", "ai-edge-litert", frozenset({"litert"}), extra="litert"
)
EXECUTORCH = Arm64Runtime(
    "executorch-arm64",
    "ExecuTorch",
    "executorch",
    frozenset({"executorch"}),
    ("msd_mobile_bench.runtimes.executorch_worker", EXECUTORCH_LIBRARY),
    extra="executorch",
)
ARM64_RUNTIMES = (ONNX_RUNTIME, LITERT, EXECUTORCH)


def unsupported_here() -> str | None:
    """Return why ARM64 cannot be emulated on this machine; None: it can be."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "not needed: this machine is ARM64 itself, and the other rows are measured on it"
    if sys.platform != "linux":
        return "not possible here: QEMU emulates programs on Linux alone; run it in a container"
    return None


def pinned_versions() -> dict[str, str]:
    """Return the versions of this installation that are installed for ARM64 too, by name.

    A runtime that is not installed here is left out.
    """
    versions = {}
    for name in (*_WORKER_PACKAGES, *(runtime.distribution for runtime in ARM64_RUNTIMES)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def recipe() -> dict[str, object]:
    """Return all that decides what an installation has; another recipe is another folder."""
    source = hashlib.sha256(EXECUTORCH_SOURCE.read_bytes()).hexdigest()
    return {
        "layout": _LAYOUT,
        "suites": [SUITE, EMULATOR_SUITE],
        "machine": platform.machine(),
        "packages": pinned_versions(),
        **({"executorch_calls": source} if "executorch" in pinned_versions() else {}),
    }


def installation_folder() -> Path:
    """Return where the emulator and the ARM64 packages of these versions are kept."""
    text = json.dumps(recipe(), sort_keys=True)
    return user_cache() / f"arm64-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_installed() -> bool:
    """Return whether `install_arm64` has finished for these versions."""
    return (installation_folder() / STAMP).is_file()


def emulated_python(folder: Path) -> list[str]:
    """Return the command that starts the ARM64 Python of an installation."""
    return [str(folder / "qemu-aarch64"), str(folder / f"system/usr/bin/python{PYTHON}")]


def worker_environment(folder: Path, threads: int) -> dict[str, str]:
    """Return the environment of an emulated Python: its packages, ours, and no network.

    QEMU's own variable selects another processor where the user has set it.
    """
    others = (Path(module.__path__[0]).parent for module in (msd_deploy, msd_export))
    ours = [*others, Path(__file__).parents[2]]
    # The ARM64 packages first: where ours are installed, x86's numpy lies beside them.
    paths = [folder / "site", *dict.fromkeys(ours)]
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THIS_MACHINE and not name.startswith("PYTHON")
    }
    return {
        "QEMU_CPU": CPU,
        **kept,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "QEMU_LD_PREFIX": str(folder / "system"),
        "PYTHONHOME": str(folder / "system/usr"),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",  # not into folders of the user, for this Python
        "HF_HUB_OFFLINE": "1",
    }
