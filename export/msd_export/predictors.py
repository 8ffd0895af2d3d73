"""Run what was written: one interface over PyTorch and the runtimes of the exported forms.

Each runtime is imported by its own predictor alone: a process that runs an ONNX file holds no
torch, so that its start and its memory, which `msd bench` measures, are the file's own.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy.errors import ArtifactError
from msd_export.answers import refuse_other_probabilities
from msd_export.export_folder import ExportFolder
from msd_export.formats import FORMATS, Target, needing
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, Logits, ModelInputs, single_example

if TYPE_CHECKING:
    import onnxruntime

    from msd_deploy.models.classifier import ViewClassifier
    from msd_deploy.models.folders import LoadedModel


class Predictor(Protocol):
    """A model that can be asked, in whatever form.

    Attributes:
        runtime: What runs it, for example "ONNX Runtime".
    """

    runtime: str

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits, float32 [batch, classes], of a batch of inputs (see `ModelInputs`)."""
        ...


class TimedPredictor(Predictor, Protocol):
    """A model in this process, whose calls can be timed."""

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Hand inputs over to the runtime; return a call that runs the model on them.

        What Python does to hand over arrays, an app does not.
        """
        ...


class ExportPredictor(TimedPredictor, Protocol):
    """Runs an exported file, which states what it is."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file states of itself, as `ExportSource.metadata` made it, where it does."""
        ...


class TorchPredictor:
    """A model, run by PyTorch.

    Args:
        source: Its folder, or the loaded model.
        threads: CPU threads of the whole process.

    Raises:
        ArtifactError: It cannot be loaded.
    """

    runtime = "PyTorch"

    def __init__(self, source: "Path | LoadedModel[ViewClassifier]", *, threads: int = 1) -> None:
        import torch

        from msd_deploy.models.folders import load_classifier
        from msd_export.graph import graph_around

        torch.set_num_threads(threads)
        loaded = load_classifier(source) if isinstance(source, Path) else source
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


class OnnxPredictor:
    """An ONNX or .ort file, run by ONNX Runtime on the CPU.

    Args:
        path: The file.
        threads: Threads within an operator.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """

    runtime = "ONNX Runtime"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session, self._path = open_session(path, options), path
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `Predictor`.

        Raises:
            ParityError: The file's probabilities are not its logits'.
        """
        feed = {name: inputs[name] for name in INPUT_NAMES}
        logits, answered = self._session.run(list(OUTPUT_NAMES), feed)
        refuse_other_probabilities(logits, answered, self.metadata.get("problem"), self._path)
        return cast(Logits, logits)

    def prepare(self, inputs: ModelInputs) -> "PreparedOnnx":
        """Bind the inputs; see `TimedPredictor`."""
        return PreparedOnnx(self._session, inputs)


def open_session(
    path: Path, options: "onnxruntime.SessionOptions"
) -> "onnxruntime.InferenceSession":
    """Open a file in ONNX Runtime on the CPU.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise ArtifactError(f"ONNX Runtime cannot load it ({error})", where=path) from error


class PreparedOnnx:
    """An ONNX model with its inputs bound: a call runs it, and copies nothing.

    Args:
        session: The model.
        inputs: Copied into ONNX Runtime's memory.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", inputs: ModelInputs) -> None:
        import onnxruntime

        self._session, self._binding = session, session.io_binding()
        for name in INPUT_NAMES:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(inputs[name])
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output("logits")

    def __call__(self) -> None:
        """Run the model."""
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> Logits:
        """Return what the last call answered, float32 [batch, classes]."""
        return cast(Logits, self._binding.copy_outputs_to_cpu()[0])


class MilPredictor:
    """A Core ML package, run by the MIL evaluator on any machine: right numbers, no Core ML speed.

    Args:
        path: The .mlpackage.

    Raises:
        ExportError: It holds an operation that the evaluator does not know.
    """

    runtime = "MIL evaluator"

    def __init__(self, path: Path) -> None:
        from msd_export.coreml_statement import stated_metadata
        from msd_export.mil_evaluator import MilEvaluator

        self._evaluator = MilEvaluator.load(path)
        self.metadata = stated_metadata(path)
        self._path = path

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `Predictor`. Core ML packages take one example at a time.

        Raises:
            ParityError: The package's probabilities are not its logits'.
        """
        rows = range(len(inputs["image"]))
        outputs = [self._evaluator.run(single_example(inputs, row)) for row in rows]
        logits, answered = (
            np.concatenate([output[name] for output in outputs]) for name in OUTPUT_NAMES
        )
        if "problem" in self.metadata:
            refuse_other_probabilities(logits, answered, self.metadata["problem"], self._path)
        return logits

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call on the inputs; see `TimedPredictor`."""
        return partial(self.predict, inputs)


class CoreMLPredictor:
    """A Core ML package, run by Core ML itself; macOS only.

    Args:
        path: The .mlpackage.
    """

    runtime = "Core ML"

    def __init__(self, path: Path) -> None:
        from msd_export.coreml_package import quiet_coremltools

        with quiet_coremltools():
            import coremltools

            self._model = coremltools.models.MLModel(str(path))
        self._path = path

    @property
    def metadata(self) -> dict[str, str]:
        """What the package states of itself; see `ExportPredictor`."""
        from msd_export.coreml_statement import stated_metadata

        return stated_metadata(self._path)

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `Predictor`."""
        rows = range(len(inputs["image"]))
        return np.concatenate([self._predict_one(single_example(inputs, row)) for row in rows])

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call on the inputs; see `TimedPredictor`."""
        return partial(self.predict, inputs)

    def _predict_one(self, example: ModelInputs) -> Logits:
        from PIL import Image

        feed: dict[str, object] = {name: example[name] for name in INPUT_NAMES[1:]}
        feed["image"] = Image.fromarray(cast(NDArray[np.uint8], example["image"][0]))
        return np.asarray(self._model.predict(feed)["logits"], np.float32)


def runtime_of(target: Target) -> str:
    """Return the name of the runtime that `open_predictor` uses on this machine."""
    if target == "coreml" and sys.platform != "darwin":
        return MilPredictor.runtime
    return FORMATS[target].runtime


def open_predictor(export: ExportFolder, *, threads: int = 1) -> ExportPredictor:
    """Open an export with the runtime that is right for it on this machine.

    Core ML packages run in Core ML on macOS, in the MIL evaluator elsewhere.

    Raises:
        ArtifactError: The runtime cannot load it.
        RuntimeUnavailableError: It is not installed.
    """
    with needing(export.target):
        return _open(export, threads)


def _open(export: ExportFolder, threads: int) -> ExportPredictor:
    path = export.model_path
    match export.target:
        case "onnx" | "ort":
            return OnnxPredictor(path, threads=threads)
        case "coreml":
            return CoreMLPredictor(path) if sys.platform == "darwin" else MilPredictor(path)
        case "executorch":
            from msd_export.executorch_predictor import ExecutorchPredictor

            return ExecutorchPredictor(path, threads=threads)
        case "litert":
            from msd_export.litert_predictor import LiteRTPredictor

            return LiteRTPredictor(path, threads=threads)


def second_predictor(export: ExportFolder) -> Predictor | None:
    """Return another runtime that an export is verified in too; None where there is none.

    On macOS a Core ML package runs in Core ML, which is what an app uses, and in the evaluator,
    which is what verifies packages everywhere else: so each tells whether the other can be trusted.
    """
    if export.target == "coreml" and sys.platform == "darwin":
        return MilPredictor(export.model_path)
    return None
