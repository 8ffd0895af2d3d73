"""Start, query and stop a worker process; `RemotePredictor` is its model as a predictor."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy import errors
from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import MsdError
from msd_export.signature import ModelInputs
from msd_mobile_bench.runtimes.worker import load_arrays, save_arrays
from msd_mobile_bench.variants import Variant

_COMMAND = (
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


class WorkerProcess:
    """A fresh process with one opened model; a context manager that ends it.

    Args:
        variant: What it opens.
        threads: CPU threads.
        examples: Folder of the inputs that are timed; see `save_arrays`.
        scratch: An existing folder for its log and arrays.
    """

    def __init__(self, variant: Variant, *, threads: int, examples: Path, scratch: Path) -> None:
        self.variant = variant
        self.scratch = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{variant.name}-"))
        self._threads, self._examples = threads, examples
        self._log = self.scratch / "stderr.txt"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._is_killed = False

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if self._process is None:
            return
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                if pipe is not None:
                    pipe.close()

    def kill(self) -> None:
        """End the process at once; waiting for its answer raises an error."""
        self._is_killed = True
        if self._process is not None:
            self._process.kill()

    def open(self) -> Json:
        """Start the process and let it open its model.

        Returns:
            load_time_ms and rss_before_load_bytes.

        Raises:
            MsdError: The model cannot be opened, or the process died.
        """
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=worker_environment(self._threads),
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is the benchmark's to handle
            )
        return self.request(
            "open",
            target=self.variant.target,
            path=str(self.variant.model_path.resolve()),
            manifest=self.variant.manifest,
            threads=self._threads,
            examples=str(self._examples),
        )

    def ensure_open(self) -> None:
        """Open the model unless that was done; see `open`."""
        with self._lock:
            if self._process is None:
                self.open()

    def request(self, task: str, **arguments: object) -> Json:
        """Run a task in the worker and return its answer; threads take turns.

        Raises:
            MsdError: What the worker raised, or that the process died.
        """
        process = self._process
        assert process is not None  # open comes first
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        with self._lock:
            if self._is_killed:
                raise MsdError("was stopped", where=self.variant.folder)
            try:
                process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise self._death(task, process.wait())
        answer = cast(Json, json.loads(line))
        if "error" in answer:
            raise _error(cast(dict[str, str], answer["error"]))
        return answer

    def _death(self, task: str, code: int) -> MsdError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return MsdError(
            f"its worker process died during {task!r} ({reason}){last}",
            where=self.variant.folder,
            fix="Check the free memory, and the runtime with `msd doctor`",
        )


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


def _error(parts: dict[str, str]) -> MsdError:
    kind = getattr(errors, parts["kind"], MsdError)
    return cast(MsdError, kind(parts["what"], where=parts["where"], fix=parts["fix"]))


class RemotePredictor:
    """A worker's model as a `msd_export.signature.Predictor`.

    Args:
        worker: An opened worker.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self.runtime = worker.variant.runtime

    def predict(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Return logits, float32 [batch, classes]; see `Predictor`."""
        with tempfile.TemporaryDirectory(dir=self._worker.scratch) as name:
            there, back = Path(name) / "inputs", Path(name) / "outputs"
            save_arrays(there, inputs)
            self._worker.request("predict", inputs=str(there), outputs=str(back))
            return load_arrays(back)["logits"].astype(np.float32)
