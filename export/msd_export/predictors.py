"""Open a model for inference: PyTorch, or the runtime of an exported variant.

Each runtime is imported only by its own predictor: a process that runs an ONNX file loads no torch,
so that load time and memory in `msd bench` are those of the file.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from msd_deploy.artifacts.manifest import Json
from msd_export.coreai.predictor import PIP_RUNTIME, core_ai_runtime
from msd_export.coreml.predictor import CoreMLPredictor, MilPredictor
from msd_export.formats import FORMATS, Target, needing
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.signature import ExportPredictor, Logits, ModelInputs, Predictor

if TYPE_CHECKING:
    from msd_deploy.models.classifier import ViewClassifier
    from msd_deploy.models.folders import LoadedModel


@contextmanager
def torch_threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads, which `TorchPredictor` sets for the whole process."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchPredictor:
    """A model, run by PyTorch.

    Args:
        source: Its folder, or the loaded model.
        manifest: The folder's, where its files were verified already; see `load_classifier`.
        threads: CPU threads of the whole process.

    Raises:
        ArtifactError: It cannot be loaded.
    """

    runtime = "PyTorch"

    def __init__(
        self,
        source: "Path | LoadedModel[ViewClassifier]",
        *,
        manifest: Json | None = None,
        threads: int = 1,
    ) -> None:
        import torch

        from msd_deploy.models.folders import load_classifier
        from msd_export.graph import graph_around

        torch.set_num_threads(threads)
        loaded = load_classifier(source, manifest) if isinstance(source, Path) else source
        self._graph = graph_around(loaded)

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `Predictor`."""
        import torch

        from msd_export.graph import as_tensors

        with torch.inference_mode():
            logits, _ = self._graph(*as_tensors(inputs))
        return cast(Logits, logits.numpy())

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call on the inputs, which tensors share memory with; see `TimedPredictor`."""
        return partial(self.predict, inputs)


UNTIMED_RUNTIMES = {
    MilPredictor.runtime: "Core ML variants were run by the MIL evaluator",
    PIP_RUNTIME: "Core AI variants were run by the Core AI that pip installs",
}
"""Runtimes that give an app's numbers and not its speed, each with a sentence that says so."""


def runtime_of(target: Target) -> str:
    """Return the name of the runtime that `open_predictor` uses on this machine."""
    if target == "coreml" and sys.platform != "darwin":
        return MilPredictor.runtime
    if target == "coreai":
        return core_ai_runtime()
    return FORMATS[target].runtime


def open_predictor(target: Target, path: Path, *, threads: int = 1) -> ExportPredictor:
    """Open an exported file or package with its target's runtime.

    Core ML packages run in Core ML on macOS, in the MIL evaluator elsewhere.

    Args:
        target: The file's format.
        path: The model's file or package, not the export folder around it.
        threads: CPU threads.

    Raises:
        ArtifactError: The runtime cannot load it.
        RuntimeUnavailableError: It is not installed.
    """
    with needing(target, only_to_run=True):  # a machine that runs exports need not convert any
        return _open(target, path, threads)


def _open(target: Target, path: Path, threads: int) -> ExportPredictor:
    match target:
        case "onnx" | "ort":
            return OnnxPredictor(path, threads=threads)
        case "coreml":
            return CoreMLPredictor(path) if sys.platform == "darwin" else MilPredictor(path)
        case "executorch":
            from msd_export.executorch.predictor import ExecutorchPredictor

            return ExecutorchPredictor(path, threads=threads)
        case "litert":
            from msd_export.litert.predictor import LiteRTPredictor

            return LiteRTPredictor(path, threads=threads)
        case "coreai":
            from msd_export.coreai.predictor import CoreAIPredictor

            return CoreAIPredictor(path)


def second_predictor(target: Target, path: Path) -> Predictor | None:
    """Open a model in the other runtime that verifies it too; None where there is none.

    On macOS a Core ML package runs in Core ML, which is what an app uses, and in the evaluator,
    which is what verifies packages everywhere else: so each verifies the other.
    """
    if target == "coreml" and sys.platform == "darwin":
        return MilPredictor(path)
    return None
