"""Worker processes: started, queried by one JSON object per line, and ended.

`ModelWorker` has a model opened in a runtime, `RemotePredictor` is that model as a predictor.
"""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy import errors
from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import MsdError, RuntimeUnavailableError
from msd_export.signature import ModelInputs
from msd_mobile_bench.runtimes.setup import PYTHON_WORKER, Setup, worker_environment
from msd_mobile_bench.runtimes.worker import load_arrays, save_arrays

_CHECK = "Check the free memory, and the runtime with `msd doctor`"
_ENDING_SECONDS = 10.0


class WorkerError(MsdError):
    """A worker process died, or did not answer within its time limit.

    Args:
        what: What happened.
        where: The model concerned.
        fix: What to do.
        has_timed_out: Whether it was ended since it did not answer.
    """

    def __init__(
        self, what: str, *, where: object = None, fix: str = "", has_timed_out: bool = False
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.has_timed_out = has_timed_out


class WorkerProcess:
    """A process that answers requests; a context manager that ends it.

    Args:
        command: What starts it.
        environment: Its environment variables.
        name: Of its folder, for its log.
        where: What errors name.
        scratch: An existing folder for its log and arrays.
        timeout: Seconds that a request may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        name: str,
        where: object,
        scratch: Path,
        timeout: float,
    ) -> None:
        self.scratch = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{name}-"))
        self._command, self._environment = list(command), dict(environment)
        self._where, self._timeout = where, timeout
        self._log = self.scratch / "stderr.txt"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._is_killed = self._is_late = False

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        if kind is None and not self._is_killed and self._process.stdin is not None:
            # It ends by itself, and removes what it has written, as a browser's profile.
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._process.stdin.close()
                self._process.wait(timeout=_ENDING_SECONDS)
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                if pipe is not None:
                    pipe.close()

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return self._process is not None

    def start(self) -> None:
        """Start the process.

        Raises:
            WorkerError: The program cannot be run.
        """
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is the benchmark's to handle
                )
        except OSError as error:
            what = f"{self._command[0]} cannot be run ({error.strerror})"
            raise WorkerError(what, where=self._where, fix="Check it with `msd doctor`") from error

    def kill(self) -> None:
        """End the process, and what it has started, at once; waiting for its answer is an error."""
        self._is_killed = True
        # Also of a process that has died by itself: those that it has started may live on.
        if self._process is not None and self._process.returncode is None:
            end_session(self._process)

    def request(self, task: str, *, planned_seconds: float = 0.0, **arguments: object) -> Json:
        """Run a task in the worker and return its answer; threads take turns.

        Args:
            task: Its name.
            planned_seconds: How long it is meant to take, beyond the time limit.
            arguments: Of the task.

        Raises:
            WorkerError: The process died, did not answer in time, or gave no answer.
            MsdError: What the worker raised.
        """
        process = self._process
        assert process is not None  # start comes first
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        with self._lock:
            if self._is_late:
                raise self._death(task, 0)
            if self._is_killed:
                raise WorkerError("was stopped", where=self._where)
            timer = threading.Timer(self._timeout + planned_seconds, self._end_late)
            timer.start()
            try:
                process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            except UnicodeDecodeError:
                line = "not UTF-8"
            finally:
                timer.cancel()
        if not line:
            raise self._death(task, self._wait())
        try:
            answer = json.loads(line)
        except ValueError as error:
            what = f"answered {task!r} with {line[:80]!r}, which is not JSON"
            raise WorkerError(what, where=self._where, fix=_CHECK) from error
        if not isinstance(answer, dict):
            what = f"answered {task!r} with {line[:80]!r}, which is not a JSON object"
            raise WorkerError(what, where=self._where, fix=_CHECK)
        if "error" in answer:
            raise _error(cast(dict[str, str], answer["error"]))
        return answer

    def _wait(self) -> int:
        """Return the exit code of a process that has closed its output."""
        assert self._process is not None
        try:
            return self._process.wait(timeout=_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def _end_late(self) -> None:
        self._is_late = True
        self.kill()

    def _death(self, task: str, code: int) -> WorkerError:
        if self._is_late:
            return WorkerError(
                f"did not answer {task!r} within {self._timeout:g} s",
                where=self._where,
                fix="Raise --timeout if the model is that slow",
                has_timed_out=True,
            )
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerError(
            f"its worker process died during {task!r} ({reason}){last}",
            where=self._where,
            fix=_CHECK,
        )


def end_session(process: "subprocess.Popen[str]") -> None:
    """Kill a process that leads a session of its own, and the others of the session."""
    if hasattr(os, "killpg"):
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def control_worker(*, scratch: Path, timeout: float) -> WorkerProcess:
    """Return a process, not started, that times the control kernel ("control") on one thread."""
    environment = worker_environment(1)
    where = "control kernel"
    return WorkerProcess(
        PYTHON_WORKER, environment, name="control", where=where, scratch=scratch, timeout=timeout
    )


class ModelWorker:
    """A fresh process with one opened model; a context manager that ends it.

    Args:
        setup: What it opens, and in which runtime.
        examples: Folder of the inputs that are timed; see `save_arrays`.
        scratch: An existing folder for its log and arrays.
        timeout: Seconds that a request may take.
    """

    def __init__(
        self, setup: Setup, *, examples: Path, scratch: Path, timeout: float = 600.0
    ) -> None:
        self.setup = setup
        self._examples = examples
        self._lock = threading.RLock()
        self._process = WorkerProcess(
            setup.runtime.command(setup.variant.target, setup.threads),
            setup.runtime.environment(setup.threads),
            name=setup.key,
            where=setup.variant.folder,
            scratch=scratch,
            timeout=timeout,
        )

    def __enter__(self) -> "ModelWorker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.__exit__(kind, error, traceback)

    @property
    def scratch(self) -> Path:
        """A folder for arrays."""
        return self._process.scratch

    def kill(self) -> None:
        """End the process at once; waiting for its answer raises an error."""
        self._process.kill()

    def open(self) -> Json:
        """Start the process and let it open its model.

        Returns:
            load_time_ms and rss_before_load_bytes.

        Raises:
            MsdError: The runtime is missing, the model cannot be opened, or the process died.
        """
        setup = self.setup
        missing = setup.runtime.unavailable()
        if missing is not None:
            raise RuntimeUnavailableError(missing, where=setup.runtime.title)
        self._process.start()
        return self._process.request(
            "open",
            target=setup.variant.target,
            path=str(setup.variant.model_path.resolve()),
            manifest=setup.variant.manifest,
            threads=setup.threads,
            examples=str(self._examples),
        )

    def ensure_open(self) -> None:
        """Open the model unless that was done; see `open`."""
        with self._lock:
            if not self._process.is_started:
                self.open()

    def request(self, task: str, *, planned_seconds: float = 0.0, **arguments: object) -> Json:
        """Run a task in the worker and return its answer; see `WorkerProcess.request`."""
        return self._process.request(task, planned_seconds=planned_seconds, **arguments)


def _error(parts: dict[str, str]) -> MsdError:
    if parts["kind"] == "WorkerError":  # of a process that the worker has started
        return WorkerError(parts["what"], where=parts["where"], fix=parts["fix"])
    kind = getattr(errors, parts["kind"], MsdError)
    return cast(MsdError, kind(parts["what"], where=parts["where"], fix=parts["fix"]))


class RemotePredictor:
    """A worker's model as a `msd_export.signature.Predictor`.

    Args:
        worker: An opened worker.
    """

    def __init__(self, worker: ModelWorker) -> None:
        self._worker = worker
        self.runtime = worker.setup.runtime.title

    def predict(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Return logits, float32 [batch, classes]; see `Predictor`.

        Raises:
            ArtifactError: The runtime returned no logits, or of another number of examples.
        """
        with tempfile.TemporaryDirectory(dir=self._worker.scratch) as name:
            there, back = Path(name) / "inputs", Path(name) / "outputs"
            save_arrays(there, inputs)
            self._worker.request("predict", inputs=str(there), outputs=str(back))
            try:
                logits = load_arrays(back).get("logits")
            except (EOFError, OSError, ValueError) as error:
                raise errors.ArtifactError(
                    f"returned logits that cannot be read ({error})",
                    where=self._worker.setup.variant.folder,
                    fix=_CHECK,
                ) from error
        rows = len(next(iter(inputs.values())))
        if logits is None or logits.ndim != 2 or len(logits) != rows:
            shape = "none" if logits is None else list(logits.shape)
            raise errors.ArtifactError(
                f"returned logits of the shape {shape} for {rows} examples",
                where=self._worker.setup.variant.folder,
                fix="Export the model again",
            )
        return logits.astype(np.float32)
