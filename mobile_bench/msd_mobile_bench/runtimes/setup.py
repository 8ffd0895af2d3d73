"""What a row of the benchmark measures: a variant in a runtime with a number of threads.

A `Runtime` starts a process that answers the requests of `msd_mobile_bench.runtimes.worker`; the
runtimes of this Python are here, others have a file each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from msd_deploy.errors import ConfigError, MsdError, RuntimeUnavailableError
from msd_export.formats import FORMATS, Target, require_target
from msd_export.predictors import UNTIMED_RUNTIMES, TorchPredictor, runtime_of
from msd_mobile_bench.variants import TORCH, Variant

_MOST_THREADS = 256


class Runtime(Protocol):
    """What runs a model, in a process of its own.

    Attributes:
        key: Its name in bench.json and on the command line, for example onnxruntime.
        title: Its name for people, for example ONNX Runtime.
        is_timed: Whether its latency and memory are those of an app; if not, predictions alone
            are compared.
    """

    @property
    def key(self) -> str:
        """Return its name on the command line."""

    @property
    def title(self) -> str:
        """Return its name for people."""

    @property
    def is_timed(self) -> bool:
        """Return whether its latency counts."""

    def runs(self, target: str) -> bool:
        """Return whether it runs variants of a target."""

    def unavailable(self, target: str) -> MsdError | None:
        """Return why it cannot be used here, with what to install; None: it can."""

    def command(self, target: str, threads: int) -> Sequence[str]:
        """Return what starts its worker process; empty: the worker of this Python."""

    def environment(self, threads: int) -> dict[str, str]:
        """Return the environment variables that its worker needs besides `worker_environment`."""


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """A runtime that this Python can import; see `Runtime`.

    Attributes:
        key: Its name.
        title: Its name for people.
        targets: What it runs.
        is_timed: Whether its latency is that of an app.
    """

    key: str
    title: str
    targets: tuple[str, ...]
    is_timed: bool = True

    def runs(self, target: str) -> bool:
        """Return whether it runs variants of a target."""
        return target in self.targets

    def unavailable(self, target: str) -> MsdError | None:
        """Return which package is missing, or None."""
        if target == TORCH:
            return None
        try:
            require_target(cast(Target, target))
        except RuntimeUnavailableError as error:
            return error
        return None

    def command(self, target: str, threads: int) -> Sequence[str]:
        """Return nothing: it is run by the worker of this Python."""
        return ()

    def environment(self, threads: int) -> dict[str, str]:
        """Return nothing more than `worker_environment`."""
        return {}


def python_runtimes() -> tuple[PythonRuntime, ...]:
    """Return PyTorch, and what runs each target on this machine."""
    runtimes = {TORCH: PythonRuntime(TORCH, TorchPredictor.runtime, (TORCH,))}
    for target in FORMATS:
        title = runtime_of(target)
        key = title.lower().replace(" ", "").replace("(", "-").replace(")", "")
        same = runtimes.get(key)
        targets = (*same.targets, target) if same else (target,)
        runtimes[key] = PythonRuntime(key, title, targets, is_timed=title not in UNTIMED_RUNTIMES)
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
    def takes_batches(self) -> bool:
        """Whether it takes any number of examples at once."""
        return self.variant.takes_batches


def requested_runtimes(names: Sequence[str], threads: int) -> list[tuple[Runtime, int]]:
    """Return the runtimes of some names, each with its number of threads.

    Args:
        names: native, the key of a runtime, or one of both with :N for N threads.
        threads: For names without a number.

    Raises:
        ConfigError: A name is unknown, or a number of threads is not one.
    """
    known = python_runtimes()
    found: dict[tuple[str, int], tuple[Runtime, int]] = {}
    for name in names:
        word, colon, number = name.partition(":")
        count = _thread_count(name, number) if colon else threads
        matching = [each for each in known if word in ("native", each.key)]
        if not matching:
            raise ConfigError(
                f"unknown: {word}",
                where="runtimes",
                fix=f"Known: native, {', '.join(each.key for each in known)}",
            )
        for runtime in matching:
            found.setdefault((runtime.key, count), (runtime, count))
    if not found:
        raise ConfigError("is empty", where="runtimes", fix="Use native")
    return list(found.values())


def _thread_count(name: str, number: str) -> int:
    if not (number.isdecimal() and 1 <= int(number) <= _MOST_THREADS):
        raise ConfigError(
            f"has no number of threads from 1 to {_MOST_THREADS} after the colon: {name}",
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
