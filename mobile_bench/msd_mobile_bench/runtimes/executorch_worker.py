"""A process that runs a .pte file without PyTorch, for ExecuTorch under emulation.

    python -m msd_mobile_bench.runtimes.executorch_worker LIBRARY

It has the protocol of `worker`, with the tasks open and predict: time and memory are not measured
under emulation. ExecuTorch's C++ runtime is called through LIBRARY, which `install_arm64` compiles.
Every array is handed over with its own type and shape.
"""

import ctypes
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import ArtifactError, MsdError
from msd_export.executorch.predictor import MAIN_METHOD
from msd_export.signature import (
    COMPARED,
    INPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_examples,
)
from msd_mobile_bench.footprint import rss_bytes
from msd_mobile_bench.runtimes.worker import load_arrays, save_arrays, serve

_MOST_DIMENSIONS = 16
# The numbers of ExecuTorch's ScalarType, which are PyTorch's.
_TYPES: Mapping[np.dtype[Any], int] = {
    np.dtype(np.uint8): 0,
    np.dtype(np.int8): 1,
    np.dtype(np.int16): 2,
    np.dtype(np.int32): 3,
    np.dtype(np.int64): 4,
    np.dtype(np.float16): 5,
    np.dtype(np.float32): 6,
    np.dtype(np.float64): 7,
    np.dtype(np.bool_): 11,
}
_DTYPES = {number: dtype for dtype, number in _TYPES.items()}


class _Tensor(ctypes.Structure):
    """MsdTensor of executorch_calls.cpp."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """Load the library that was compiled from executorch_calls.cpp.

    Raises:
        MsdError: It cannot be loaded.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise MsdError(f"cannot be loaded ({error})", where=path) from error
    handle, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("msd_error", ctypes.c_char_p, []),
        ("msd_open", handle, [ctypes.c_char_p]),
        ("msd_close", None, [handle]),
        ("msd_methods", ctypes.c_char_p, [handle]),
        ("msd_load", number, [handle, ctypes.c_char_p]),
        ("msd_run", number, [handle, ctypes.c_char_p, number, ctypes.POINTER(_Tensor)]),
        ("msd_results", number, [handle]),
        (
            "msd_tensor",
            number,
            [
                *(handle, number, ctypes.POINTER(handle), ctypes.POINTER(number)),
                *(ctypes.POINTER(number), ctypes.POINTER(ctypes.c_int64), number),
            ],
        ),
        ("msd_text", handle, [handle, number, ctypes.POINTER(ctypes.c_int64)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class NativeProgram:
    """A .pte file in ExecuTorch's C++ runtime.

    Args:
        library: See `load_library`.
        path: The file.

    Raises:
        ArtifactError: ExecuTorch cannot read it.
    """

    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        self._library, self._path = library, path
        self._handle = library.msd_open(str(path).encode())
        if not self._handle:
            raise self._error()

    def close(self) -> None:
        """Release its memory; it cannot be used any more."""
        self._library.msd_close(self._handle)
        self._handle = None

    @cached_property
    def methods(self) -> frozenset[str]:
        """The names of its methods."""
        names = self._library.msd_methods(self._handle)
        if names is None:
            raise self._error()
        return frozenset(names.decode().splitlines())

    def load(self, method: str) -> None:
        """Prepare a method.

        Raises:
            ArtifactError: ExecuTorch cannot load it, for example for an unknown operator.
        """
        self._check(self._library.msd_load(self._handle, method.encode()))

    def run(self, method: str, inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Run a method whose results are tensors, and return copies of them.

        Raises:
            ArtifactError: ExecuTorch refuses the inputs or fails.
        """
        self._run(method, [np.ascontiguousarray(array) for array in inputs])
        count = self._library.msd_results(self._handle)
        return [self._tensor(index) for index in range(count)]

    def text(self, method: str) -> str:
        """Run a method without inputs that returns a text.

        Raises:
            ArtifactError: The method does not exist, or its result is not a text.
        """
        self._run(method, [])
        length = ctypes.c_int64()
        start = self._library.msd_text(self._handle, 0, ctypes.byref(length))
        if not start:
            raise self._error()
        return ctypes.string_at(start, length.value).decode()

    def _run(self, method: str, arrays: Sequence[NDArray[np.generic]]) -> None:
        tensors = (_Tensor * len(arrays))(*map(_as_tensor, arrays))
        self._check(self._library.msd_run(self._handle, method.encode(), len(arrays), tensors))

    def _tensor(self, index: int) -> NDArray[np.generic]:
        data, number, dimensions = ctypes.c_void_p(), ctypes.c_int32(), ctypes.c_int32()
        sizes = (ctypes.c_int64 * _MOST_DIMENSIONS)()
        places = map(ctypes.byref, (data, number, dimensions))
        self._check(self._library.msd_tensor(self._handle, index, *places, sizes, _MOST_DIMENSIONS))
        if (dtype := _DTYPES.get(number.value)) is None:
            raise ArtifactError(f"a result has the type {number.value}", where=self._path)
        shape = tuple(sizes[: dimensions.value])
        bytes_ = ctypes.string_at(data.value or 0, math.prod(shape) * dtype.itemsize)
        return np.frombuffer(bytes_, dtype).reshape(shape)

    def _check(self, code: int) -> None:
        if code:
            raise self._error()

    def _error(self) -> ArtifactError:
        reason = self._library.msd_error().decode(errors="replace")
        return ArtifactError(f"ExecuTorch cannot run it ({reason})", where=self._path)


def _as_tensor(array: NDArray[np.generic]) -> _Tensor:
    sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
    return _Tensor(array.ctypes.data, _TYPES[array.dtype], array.ndim, sizes)


class NativePredictor:
    """A .pte file in ExecuTorch's C++ runtime, row by row; see `signature.Predictor`.

    Args:
        library: See `load_library`.
        path: The file.

    Raises:
        ArtifactError: ExecuTorch cannot load it.
    """

    runtime = "ExecuTorch"

    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        self._program, self._path = NativeProgram(library, path), path
        self._program.load(MAIN_METHOD)

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The results of the program's metadata methods; see `signature.ExportPredictor`."""
        return {name: self._program.text(name) for name in self._program.methods & COMPARED}

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits, float32 [batch, classes]; see `signature.Predictor`.

        Raises:
            ParityError: The program's probabilities are not its logits'.
        """
        rows = list(self._rows(inputs))
        logits, given = (
            np.concatenate(parts).astype(np.float32) for parts in zip(*rows, strict=True)
        )
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return logits

    def _rows(self, inputs: ModelInputs) -> Iterator[list[NDArray[Any]]]:
        for example in single_examples(inputs):
            logits, given = self._program.run(MAIN_METHOD, [example[name] for name in INPUT_NAMES])
            yield [logits, given]


class Session:
    """One opened file and the tasks of `worker` that can be run on it.

    Args:
        library: See `load_library`.
        path: The file.
    """

    def __init__(self, library: ctypes.CDLL, path: Path) -> None:
        start = time.perf_counter_ns()
        self._predictor = NativePredictor(library, path)
        self._load_time_ms = (time.perf_counter_ns() - start) / 1e6

    def describe(self) -> Json:
        """Return how opening went, under the names of `worker`; of emulated code."""
        return {"load_time_ms": round(self._load_time_ms, 3), "rss_before_load_bytes": rss_bytes()}

    def predict(self, *, inputs: str, outputs: str) -> Json:
        """Read a batch of inputs from one folder and write its logits into another."""
        logits = self._predictor.predict(load_arrays(Path(inputs)))
        save_arrays(Path(outputs), {"logits": logits})
        return {"rows": len(logits)}


def _run_task(library: ctypes.CDLL, session: Session | None, request: Json) -> tuple[Session, Json]:
    task = request.pop("task")
    if task == "open":
        # Threads and examples are for what is timed.
        session = Session(library, Path(str(request["path"])))
        return session, session.describe()
    if session is None:
        raise RuntimeError("the first task is open")
    tasks = {"predict": session.predict}
    return session, tasks[str(task)](**request)  # type: ignore[arg-type]  # of our own request


if __name__ == "__main__":
    serve(partial(_run_task, load_library(Path(sys.argv[1]))))
