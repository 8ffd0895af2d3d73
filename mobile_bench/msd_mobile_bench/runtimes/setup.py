"""What a row of the benchmark measures: a variant in a runtime with a number of threads.

A `Runtime` starts a process that answers the requests of `msd_mobile_bench.runtimes.worker`; the
runtimes of this Python are here, others have a file each.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from msd_deploy.errors import ConfigError, RuntimeUnavailableError
from msd_export.formats import FORMATS, Target, require_target
from msd_export.predictors import UNTIMED_RUNTIMES, TorchPredictor, runtime_of
from msd_mobile_bench.config import MOST_THREADS
from msd_mobile_bench.runtimes.arm64 import ARM64_RUNTIMES
from msd_mobile_bench.runtimes.web import web_runtimes
from msd_mobile_bench.variants import TORCH, Variant

NEEDS_A_DEVICE = "latency needs a Mac or an iPhone"
PYTHON_WORKER = (
    sys.executable,
    "-P",
    "-m",
    "msd_mobile_bench.runtimes.worker",
)  # -P: not from the user's folder
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Runtime(Protocol):
    """What runs a model, in a process of its own."""

    @property
    def key(self) -> str:
        """Return its name in bench.json and on the command line, for example onnxruntime."""

    @property
    def title(self) -> str:
        """Return its name for people, for example ONNX Runtime."""

    @property
    def measures(self) -> frozenset[str]:
        """Return what is measured with it: answers, and latency where that is an app's."""

    @property
    def untimed_note(self) -> str:
        """Return why its latency is not measured, for the row; "": it is."""

    def runs(self, target: str) -> bool:
        """Return whether it runs variants of a target."""

    def unavailable(self) -> str | None:
        """Return why it cannot be used here, with what to install; None: it can."""

    def command(self, target: str, threads: int) -> Sequence[str]:
        """Return what starts its worker process."""

    def environment(self, threads: int) -> dict[str, str]:
        """Return the whole environment of its worker process."""


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """A runtime that this Python can import; see `Runtime`.

    Attributes:
        key: Its name.
        title: Its name for people.
        targets: What it runs.
    """

    key: str
    title: str
    targets: tuple[str, ...]

    @property
    def measures(self) -> frozenset[str]:
        """Return answers, and latency unless it stands in for a phone's runtime."""
        return frozenset({"answers"} if self.untimed_note else {"answers", "latency"})

    @property
    def untimed_note(self) -> str:
        """Return what its latency needs; "": nothing."""
        return NEEDS_A_DEVICE if self.title in UNTIMED_RUNTIMES else ""

    def runs(self, target: str) -> bool:
        """Return whether it runs variants of a target."""
        return target in self.targets

    def unavailable(self) -> str | None:
        """Return which package is missing, with what to install; None: none."""
        if TORCH in self.targets:
            return None
        try:
            require_target(cast(Target, self.targets[0]), only_to_run=True)
        except RuntimeUnavailableError as error:
            return f"{error.what}. {error.fix}"
        return None

    def command(self, target: str, threads: int) -> Sequence[str]:
        """Return what starts the worker of this Python."""
        return PYTHON_WORKER

    def environment(self, threads: int) -> dict[str, str]:
        """Return the environment of the worker of this Python."""
        return worker_environment(threads)


def worker_environment(threads: int) -> dict[str, str]:
    """Return the worker's environment: thread counts, the way to our packages, no network."""
    packages = ("msd_deploy", "msd_export", "msd_mobile_bench")
    folders = dict.fromkeys(Path(sys.modules[name].__path__[0]).parent for name in packages)
    # A checkout is not installed. Site-packages in front would hide the standard library.
    paths = [str(folder) for folder in folders if not folder.name.endswith("-packages")]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
    }


def python_runtimes() -> tuple[PythonRuntime, ...]:
    """Return PyTorch, and what runs each target on this machine."""
    runtimes = {TORCH: PythonRuntime(TORCH, TorchPredictor.runtime, (TORCH,))}
    for target in FORMATS:
        title = runtime_of(target)
        key = title.lower().replace(" ", "").replace("(", "-").replace(")", "")
        same = runtimes.get(key)
        targets = (*same.targets, target) if same else (target,)
        runtimes[key] = PythonRuntime(key, title, targets)
    return tuple(runtimes.values())


@dataclass(frozen=True, slots=True)
class Setup:
    """One variant in one runtime.

    Attributes:
        variant: The model.
        runtime: What runs it.
        threads: CPU threads.
    """

    variant: Variant
    runtime: Runtime
    threads: int = 1

    @property
    def key(self) -> str:
        """The name of its row, for example student-onnx-int8@onnxruntime-1."""
        return f"{self.variant.name}@{self.runtime.key}-{self.threads}"

    @property
    def is_timed(self) -> bool:
        """Whether its latency is measured."""
        return "latency" in self.runtime.measures

    @property
    def takes_batches(self) -> bool:
        """Whether it takes any number of examples at once."""
        return self.variant.takes_batches


def requested_runtimes(names: Sequence[str], threads: int) -> list[tuple[Runtime, int]]:
    """Return the runtimes of some names, each with its number of threads.

    Args:
        names: A group (native, web, arm64) or the key of a runtime, each with or without :N for N
            threads.
        threads: For names without a number.

    Raises:
        ConfigError: A name is unknown, or a number of threads is not one.
    """
    groups = _groups()
    known = [runtime for group in groups.values() for runtime in group]
    found: dict[tuple[str, int], tuple[Runtime, int]] = {}
    for name in names:
        word, colon, number = name.partition(":")
        count = _thread_count(name, number) if colon else threads
        matching = [*groups.get(word, ()), *(each for each in known if each.key == word)]
        if not matching:
            raise ConfigError(
                f"unknown: {word}",
                where="runtimes",
                fix=f"Known: {', '.join([*groups, *(each.key for each in known)])}",
            )
        for runtime in matching:
            found.setdefault((runtime.key, count), (runtime, count))
    if not found:
        raise ConfigError("is empty", where="runtimes", fix="Use native")
    return list(found.values())


def _groups() -> dict[str, tuple[Runtime, ...]]:
    """Return the runtimes by the name of their group."""
    return {"native": python_runtimes(), "web": tuple(web_runtimes()), "arm64": ARM64_RUNTIMES}


def _thread_count(name: str, number: str) -> int:
    if not (number.isdecimal() and 1 <= int(number) <= MOST_THREADS):
        raise ConfigError(
            f"has no number of threads from 1 to {MOST_THREADS} after the colon: {name}",
            where="runtimes",
            fix="Write, for example, onnxruntime:2",
        )
    return int(number)


def setups_of(variants: Sequence[Variant], runtimes: Sequence[tuple[Runtime, int]]) -> list[Setup]:
    """Return every variant in each of some runtimes that runs it.

    Args:
        variants: In the order of the rows.
        runtimes: With their numbers of threads; PyTorch, in which both models are compared, is
            added if it is missing.
    """
    torch = next(each for each in python_runtimes() if each.key == TORCH)
    if not any(runtime.key == TORCH for runtime, _ in runtimes):
        runtimes = [(torch, 1), *runtimes]
    return [
        Setup(variant, runtime, threads)
        for variant in variants
        for runtime, threads in runtimes
        if runtime.runs(variant.target)
    ]
