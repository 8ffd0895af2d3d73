"""Run a .pte file in ExecuTorch; its Python binding requires torch for tensors."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from msd_deploy.errors import ArtifactError
from msd_deploy.quiet import quiet
from msd_export.signature import (
    COMPARED,
    INPUT_NAMES,
    TEXT_ENTRY,
    TEXT_INPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_examples,
    without_image,
)

if TYPE_CHECKING:
    from executorch.runtime import Method
    from torch import Tensor


MAIN_METHOD = "forward"
"""The method for image and text."""


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
                self._method = self._program.load_method(MAIN_METHOD)
        except (RuntimeError, KeyError) as error:
            raise _cannot_load(path, error) from error

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
        return self.run(self._method, rows_of(inputs, INPUT_NAMES), inputs)

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call that runs the inputs, which tensors share memory with.

        A text alone is given to the method for it. See `signature.TimedPredictor`.
        """
        if not inputs["image_present"].any() and self.text_entry is not None:
            method, rows = self.text_entry.method, rows_of(inputs, TEXT_INPUT_NAMES)
        else:
            method, rows = self._method, rows_of(inputs, INPUT_NAMES)
        return lambda: [method.execute(row) for row in rows]

    def run(
        self, method: "Method", rows: "list[tuple[Tensor, ...]]", inputs: ModelInputs
    ) -> Logits:
        """Return the logits, [rows, classes], that a method gives for rows of inputs.

        Raises:
            ParityError: Its probabilities are not its logits'.
        """
        outputs = [[output.numpy().copy() for output in method.execute(row)] for row in rows]
        logits, given = map(np.concatenate, zip(*outputs, strict=True))
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return cast(Logits, logits)

    @cached_property
    def text_entry(self) -> "ExecutorchTextEntry | None":
        """The method for a text alone, loaded when it is first asked for; see `ExportPredictor`."""
        if TEXT_ENTRY not in self._program.method_names:
            return None
        return ExecutorchTextEntry(self._load(TEXT_ENTRY), self)

    def _load(self, name: str) -> "Method":
        try:
            with quiet():
                return self._program.load_method(name)
        except (RuntimeError, KeyError) as error:
            raise _cannot_load(self._path, error) from error


class ExecutorchTextEntry:
    """The method of a .pte file that takes a text alone; see `signature.Predictor`.

    Args:
        method: The method.
        whole: The file's predictor.
    """

    runtime = ExecutorchPredictor.runtime

    def __init__(self, method: "Method", whole: ExecutorchPredictor) -> None:
        self.method, self._whole = method, whole

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits of texts, whatever their images; see `signature.Predictor`.

        Raises:
            ParityError: The program's probabilities are not its logits'.
        """
        rows = rows_of(inputs, TEXT_INPUT_NAMES)
        return self._whole.run(self.method, rows, without_image(inputs))


def _cannot_load(path: Path, error: Exception) -> ArtifactError:
    reason = str(error).partition("\n")[0]
    return ArtifactError(f"ExecuTorch cannot load it ({reason})", where=path)


def rows_of(inputs: ModelInputs, names: Sequence[str]) -> "list[tuple[Tensor, ...]]":
    """Return the tensors of each example, those of the named inputs, in their order."""
    import torch

    examples = single_examples(inputs, names)
    return [tuple(torch.from_numpy(example[name]) for name in names) for example in examples]
