"""Run a .pte file in ExecuTorch; its Python binding requires torch for tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from msd_deploy.errors import ArtifactError
from msd_deploy.quiet import quiet
from msd_export.signature import (
    COMPARED,
    INPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_example,
)

if TYPE_CHECKING:
    from torch import Tensor


_METHOD = "forward"


class ExecutorchPredictor:
    """A .pte file, run by ExecuTorch on the CPU (XNNPACK and portable kernels), row by row.

    Args:
        path: The file.
        threads: Threads of XNNPACK, in the whole process.

    Raises:
        ArtifactError: ExecuTorch cannot load it.
    """

    runtime = "ExecuTorch"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._path = path
        self._metadata: dict[str, str] | None = None
        try:
            with quiet():
                from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
                from executorch.runtime import Runtime

                _unsafe_reset_threadpool(threads)
                self._program = Runtime.get().load_program(path)
                self._method = self._program.load_method(_METHOD)
        except (RuntimeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtifactError(f"ExecuTorch cannot load it ({reason})", where=path) from error

    @property
    def metadata(self) -> dict[str, str]:
        """The results of the program's metadata methods; see `signature.ExportPredictor`."""
        if self._metadata is None:
            names = self._program.method_names & COMPARED
            self._metadata = {
                name: str(self._program.load_method(name).execute([])[0]) for name in names
            }
        return self._metadata

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `signature.Predictor`.

        Raises:
            ParityError: The program's probabilities are not its logits'.
        """
        outputs = [
            [output.numpy().copy() for output in self._method.execute(row)] for row in _rows(inputs)
        ]
        logits, given = map(np.concatenate, zip(*outputs, strict=True))
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return cast(Logits, logits)

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call that runs the inputs, which tensors share memory with.

        See `signature.TimedPredictor`.
        """
        rows = _rows(inputs)
        return lambda: [self._method.execute(row) for row in rows]


def _rows(inputs: ModelInputs) -> "list[tuple[Tensor, ...]]":
    import torch

    examples = [single_example(inputs, row) for row in range(len(inputs["image"]))]
    return [tuple(torch.from_numpy(e[name]) for name in INPUT_NAMES) for e in examples]
