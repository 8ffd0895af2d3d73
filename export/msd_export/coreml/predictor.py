"""Run an .mlpackage: in Core ML on a Mac, in the MIL evaluator anywhere."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy.errors import ArtifactError
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
        ArtifactError: It is a classifier of other classes, or of something else than its
            probabilities.
    """

    runtime = "MIL evaluator"
    text_entry = None

    def __init__(self, path: Path) -> None:
        from msd_export.coreml.mil.evaluator import MilEvaluator
        from msd_export.coreml.package import read_spec

        self._evaluator = MilEvaluator.load(path)
        description = read_spec(path).description
        self.metadata = dict(description.metadata.userDefined)
        self._path = path
        named = (description.predictedFeatureName, description.predictedProbabilitiesName)
        self._refuse_other_classes(named)

    def _refuse_other_classes(self, named: tuple[str, str]) -> None:
        """Check that the class which Core ML names is that of the highest probability.

        Args:
            named: The outputs that the description calls the class and its probabilities; empty
                where the package is no classifier.
        """
        classifier = self._evaluator.classifier
        if classifier is None and named == ("", ""):
            return
        labels = tuple(json.loads(self.metadata.get("labels", "[]")))
        if (
            classifier is None
            or classifier.outputs != named
            or classifier.probabilities != OUTPUT_NAMES[1]
            or classifier.classes != labels
        ):
            raise ArtifactError(
                "the class that it names is not the label of its highest probability",
                where=self._path,
                fix="Export the run again",
            )

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
    text_entry = None

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
