"""Run an .onnx or .ort file in ONNX Runtime; imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from msd_deploy.errors import ArtifactError
from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
)

if TYPE_CHECKING:
    import onnxruntime


class OnnxPredictor:
    """An ONNX or .ort file, run by ONNX Runtime on the CPU.

    Args:
        path: The file.
        threads: Threads within an operator.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """

    runtime = "ONNX Runtime"
    text_entry = None  # the one graph skips what a text alone does not need

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
        logits, given = self._session.run(list(OUTPUT_NAMES), feed)
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
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
        """Return the logits of the last call, float32 [batch, classes]."""
        return cast(Logits, self._binding.copy_outputs_to_cpu()[0])
