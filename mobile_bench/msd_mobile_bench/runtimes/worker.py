"""A new process that runs one model: `python -m msd_mobile_bench.runtimes.worker`.

It reads one JSON object per line from stdin, {"task": ..., arguments}, and writes one line to
stdout for each, until stdin ends. It runs for all rounds, since importing PyTorch takes
seconds, and imports nothing but the model's own runtime, so that the reported memory is the
model's. Arrays are exchanged as plain .npy files in a folder, never as a pickle. `WorkerProcess` is
the other end.
"""

import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import Json
from msd_deploy.artifacts.write_errors import write_error
from msd_deploy.errors import MsdError
from msd_deploy.views import View
from msd_export.formats import FORMATS, Target
from msd_export.predictors import TorchPredictor, open_predictor
from msd_export.signature import ModelInputs, TimedPredictor, single_examples
from msd_mobile_bench.footprint import peak_rss_bytes, rss_bytes
from msd_mobile_bench.latency import SamplingPlan, time_calls, time_control_kernel

_Session = TypeVar("_Session")
_TORCH_MODULES = ("msd_deploy.models.folders", "msd_export.graph")
"""What opening a model folder in PyTorch imports; see `Format.runtime_modules`."""


class Session:
    """One opened model and the tasks that can be run on it, one per method.

    Args:
        target: torch, or a target of exports.
        path: A model folder (torch), or an exported file or package.
        manifest: Of the folder, its files verified before; None: a model folder is verified
            here.
        threads: CPU threads.
        examples: Folder of the inputs that are timed, in a folder of each view, written by
            `save_arrays`.
    """

    def __init__(
        self, *, target: str, path: str, threads: int, examples: str, manifest: Json | None = None
    ) -> None:
        self._examples = {
            view: list(single_examples(load_arrays(Path(examples) / view.value))) for view in View
        }
        # Before the clock: load_time_ms and the increase of memory are the model's alone.
        is_torch = target == "torch"
        modules = _TORCH_MODULES if is_torch else FORMATS[cast(Target, target)].runtime_modules
        for name in modules:
            importlib.import_module(name)
        self._rss_before_load = rss_bytes()
        start = time.perf_counter_ns()
        self._predictor: TimedPredictor = (
            TorchPredictor(Path(path), manifest=manifest, threads=threads)
            if is_torch
            else open_predictor(cast(Target, target), Path(path), threads=threads)
        )
        self._load_time_ms = (time.perf_counter_ns() - start) / 1e6

    def describe(self) -> Json:
        """Return how opening went."""
        return {
            "load_time_ms": round(self._load_time_ms, 3),
            "rss_before_load_bytes": self._rss_before_load,
        }

    def first(self) -> Json:
        """Time the first inference, of image and text together."""
        call = self._predictor.prepare(self._examples[View.MULTIMODAL][0])
        return {"first_ms": time_calls(lambda number: call(), SamplingPlan(0, 1))[0]}

    def latency(self, *, plans: Mapping[str, Mapping[str, float]]) -> Json:
        """Time single examples of each view, each time another one.

        Args:
            plans: The arguments of a `SamplingPlan` by view, in the order of the measurement.
        """
        timed = {
            view: self._time_view(View(view), SamplingPlan(**plan))  # type: ignore[arg-type]
            for view, plan in plans.items()
        }
        return {"latency_ms": timed}

    def _time_view(self, view: View, plan: SamplingPlan) -> list[float]:
        calls = [self._predictor.prepare(example) for example in self._examples[view]]
        return time_calls(lambda number: calls[number % len(calls)](), plan)

    def memory(self) -> Json:
        """Return the most memory that was held so far."""
        return {"peak_rss_bytes": peak_rss_bytes()}

    def throughput(self, *, batch_size: int, batches: int, most_seconds: float) -> Json:
        """Time batches, the examples repeated to fill them, after one batch that does not count."""
        examples = self._examples[View.MULTIMODAL]
        rows = [examples[row % len(examples)] for row in range(batch_size)]
        batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        call = self._predictor.prepare(batch)
        plan = SamplingPlan(warm_up=1, runs=batches, most_seconds=most_seconds)
        return {"batch_ms": time_calls(lambda number: call(), plan)}

    def predict(self, *, inputs: str, outputs: str) -> Json:
        """Read a batch of inputs from one folder and write its logits into another."""
        batch: ModelInputs = load_arrays(Path(inputs))
        logits = self._predictor.predict(batch)
        save_arrays(Path(outputs), {"logits": logits})
        return {"rows": len(logits)}


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write each array as NAME.npy into a folder, which is made if it is missing.

    Raises:
        ArtifactError: It cannot be written, for example on a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            content = io.BytesIO()  # numpy reports a failed write to a file without its reason
            np.save(content, array, allow_pickle=False)
            (folder / f"{name}.npy").write_bytes(content.getbuffer())
    except OSError as error:
        failure = write_error(OSError(error.errno, error.strerror, str(folder)))
        if failure is None:
            raise
        raise failure from error


def load_arrays(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Read what `save_arrays` wrote."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def _run_task(session: Session | None, request: Json) -> tuple[Session | None, Json]:
    task = request.pop("task")
    if task == "control":
        return session, {"control_ms": time_control_kernel()}
    if task == "open":
        session = Session(**request)  # type: ignore[arg-type]  # WorkerProcess wrote the request
        return session, session.describe()
    if session is None:
        raise RuntimeError("the first task is open")
    tasks: dict[object, Callable[..., Json]] = {
        "first": session.first,
        "latency": session.latency,
        "memory": session.memory,
        "throughput": session.throughput,
        "predict": session.predict,
    }
    return session, tasks[task](**request)


def _reserve_stdout() -> TextIO:
    """Reserve stdout for results; from now on, libraries print to stderr."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return results


def serve(run_task: Callable[[_Session | None, Json], tuple[_Session | None, Json]]) -> None:
    """Answer one request per line of stdin, until it ends.

    Args:
        run_task: Takes the session, None before the first task, and a request; returns the session
            and the answer. An MsdError is an answer too.
    """
    results = _reserve_stdout()
    session: _Session | None = None
    for line in sys.stdin:
        try:
            session, result = run_task(session, json.loads(line))
        except MsdError as error:
            parts = {"what": error.what, "where": error.where, "fix": error.fix}
            result = {"error": {"kind": type(error).__name__, **parts}}
        results.write(json.dumps(result) + "\n")
        results.flush()


if __name__ == "__main__":
    serve(_run_task)
