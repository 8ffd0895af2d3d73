"""Run an .mlpackage: in Core ML on a Mac, in the MIL evaluator anywhere."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    Logits,
    ModelInputs,
    refuse_other_probabilities,
    single_example,
)


class MilPredictor:
    """A Core ML package, run by the MIL evaluator on any machine: right numbers, no Core ML speed.

    Args:
        path: The .mlpackage.

    Raises:
        ExportError: It holds an operation that the evaluator does not know.
    """

    runtime = "MIL evaluator"

    def __init__(self, path: Path) -> None:
        from msd_export.coreml.mil.evaluator import MilEvaluator
        from msd_export.coreml.package import recorded_metadata

        self._evaluator = MilEvaluator.load(path)
        self.metadata = recorded_metadata(path)
        self._path = path

    def predict(self, inputs: ModelInputs) -> Logits:
        """Return logits; see `Predictor`. Core ML packages take one example at a time.

        Raises:
            ParityError: The package's probabilities are not its logits'.
        """
        rows = range(len(inputs["image"]))
        outputs = [self._evaluator.run(single_example(inputs, row)) for row in rows]
        logits, given = (
            np.concatenate([output[name] for output in outputs]) for name in OUTPUT_NAMES
        )
        if "problem" in self.metadata:
            refuse_other_probabilities((logits, given), inputs, self.metadata, self._path)
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
        from msd_deploy.quiet import quiet_python

        with quiet_python():
            import coremltools

            self._model = coremltools.models.MLModel(str(path))
        self._path = path

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the package; see `ExportPredictor`."""
        from msd_export.coreml.package import recorded_metadata

        return recorded_metadata(self._path)

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
