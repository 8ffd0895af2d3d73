"""Run a .tflite file in LiteRT's interpreter; imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from msd_deploy.errors import ArtifactError
from msd_deploy.quiet import quiet
from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_example,
)

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


class LiteRTPredictor:
    """A .tflite file, run by LiteRT on the CPU (XNNPACK), one example at a time.

    Args:
        path: The file.
        threads: Threads within an operator.

    Raises:
        ArtifactError: LiteRT cannot load it, or its inputs are not a student's.
    """

    runtime = "LiteRT"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._path = path
        self._metadata: dict[str, str] | None = None
        try:
            with quiet():
                from ai_edge_litert.interpreter import Interpreter

                self._interpreter = Interpreter(str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
                self._inputs, self._outputs = _places(self._interpreter)
        except (ValueError, RuntimeError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtifactError(f"LiteRT cannot load it ({reason})", where=path) from error

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file; see `signature.ExportPredictor`."""
        if self._metadata is None:
            with quiet():
                from msd_export.litert.program import metadata_of

                self._metadata = metadata_of(self._path)
        return self._metadata

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `signature.Predictor`.

        Raises:
            ParityError: The file's probabilities are not its logits'.
        """
        rows = range(len(inputs["image"]))
        outputs = [self._predict_one(single_example(inputs, row)) for row in rows]
        logits, given = map(np.concatenate, zip(*outputs, strict=True))
        refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
        return logits

    def prepare(self, inputs: ModelInputs) -> Callable[[], object]:
        """Return a call that copies the inputs into LiteRT's memory, as an app does, and runs.

        See `signature.TimedPredictor`.
        """
        examples = [single_example(inputs, row) for row in range(len(inputs["image"]))]

        def run() -> None:
            for example in examples:
                self._run(example)

        return run

    def _run(self, example: ModelInputs) -> None:
        for name, place in self._inputs.items():
            self._interpreter.set_tensor(place, example[name])
        self._interpreter.invoke()

    def _predict_one(self, example: ModelInputs) -> list[Logits]:
        self._run(example)
        return [cast(Logits, self._interpreter.get_tensor(place)) for place in self._outputs]


def _places(interpreter: "Interpreter") -> tuple[dict[str, int], list[int]]:
    """Return the numbers of the tensors that the file's signature calls by our names."""
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return (
        {name: inputs[name]["index"] for name in INPUT_NAMES},
        [outputs[name]["index"] for name in OUTPUT_NAMES],
    )
