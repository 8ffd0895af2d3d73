"""The signature of every exported variant: names, shapes and dtypes of its inputs and outputs.

One file takes both modalities, the image alone or the text alone: an absent image is
`image_present` 0, an absent text is an `attention_mask` of the first token ([CLS]) alone. Also the
Predictor protocols, and the check that a model's probabilities match its logits: an app reads
probabilities, we compare logits. Torch-free.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from msd_deploy.errors import ParityError
from msd_deploy.metrics import probabilities
from msd_deploy.problem import Problem
from msd_deploy.temperatures import UNCALIBRATED, Temperatures, temperatures_from_text
from msd_export.formats import FORMATS, Target

ModelInputs = dict[str, NDArray[np.generic]]
"""image uint8 [batch, height, width, 3] RGB; image_present int32 [batch]; input_ids int32
[batch, length]; attention_mask int32 [batch, length]."""

Logits = NDArray[np.float32]
"""[batch, classes]."""

INPUT_NAMES = ("image", "image_present", "input_ids", "attention_mask")
OUTPUT_NAMES = ("logits", "probabilities")
TEXT_INPUT_NAMES = ("input_ids", "attention_mask")
TEXT_ENTRY = "text"
"""The entry point for a text alone: a signature of LiteRT's, a method of ExecuTorch's."""
CLASS_OUTPUTS = {"classLabel": "string", "classLabel_probs": "dictionary"}
"""Further outputs of a Core ML package whose single label is its class, with coremltools' names."""
COMPARED = frozenset({"labels", "problem", "preprocess_digest", "temperatures"})
"""The entries of a model file's metadata that are compared with the files beside it."""


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """Shapes and meanings of a model's inputs and outputs.

    Attributes:
        image_size: Height and width of the image in pixels.
        max_length: Tokens of text, padded; includes [CLS] and [SEP].
        labels: Names of the classes, in the order of the logits.
        problem: single_label has softmax probabilities, the others sigmoid ones; of logits over the
            temperature of the modalities that are present.
    """

    image_size: tuple[int, int]
    max_length: int
    labels: tuple[str, ...]
    problem: Problem

    def as_json(self, target: Target, *, has_text_entry: bool) -> dict[str, object]:
        """Return the signature as an export's manifest holds it.

        Core ML packages take an image of the system's own type, and one example at a time; of a
        single label they also name the class, as Xcode expects of a classifier.

        Args:
            target: The format.
            has_text_entry: Whether the file has an entry point for a text alone.
        """
        height, width = self.image_size
        batch: object = "batch" if FORMATS[target].has_dynamic_batch else 1
        text = {"dtype": "int32", "shape": [batch, self.max_length]}
        classes = {"dtype": "float32", "shape": [batch, len(self.labels)]}
        of_text = {
            "inputs": dict.fromkeys(TEXT_INPUT_NAMES, text),
            "outputs": dict.fromkeys(OUTPUT_NAMES, classes),
        }
        image: dict[str, object] = {"dtype": "uint8", "shape": [batch, height, width, 3]}
        named: dict[str, object] = {}
        if target == "coreml":
            if self.problem == "single_label":
                named = {name: {"dtype": dtype} for name, dtype in CLASS_OUTPUTS.items()}
            image = {"dtype": "image", "color": "RGB", "height": height, "width": width}
        return {
            "problem": self.problem,
            "inputs": {
                "image": image,
                "image_present": {"dtype": "int32", "shape": [batch]},
                "input_ids": text,
                "attention_mask": text,
            },
            "outputs": {**dict.fromkeys(OUTPUT_NAMES, classes), **named},
            **({"entry_points": {TEXT_ENTRY: of_text}} if has_text_entry else {}),
        }


def single_example(inputs: Mapping[str, NDArray[np.generic]], row: int) -> ModelInputs:
    """Return one row of a batch of inputs, its batch dimension kept."""
    return {name: inputs[name][row : row + 1] for name in INPUT_NAMES}


def single_examples(
    inputs: Mapping[str, NDArray[np.generic]], names: Sequence[str] = INPUT_NAMES
) -> Iterator[ModelInputs]:
    """Yield the rows of a batch one by one, their batch dimension kept, with some of the inputs."""
    for row in range(len(inputs[names[0]])):
        yield {name: inputs[name][row : row + 1] for name in names}


def without_image(inputs: ModelInputs) -> ModelInputs:
    """Return inputs of which no row has an image, for what an entry point for texts answers."""
    return {**inputs, "image_present": np.zeros_like(inputs["image_present"])}


_PROBABILITY_ERROR = 0.01
"""float16 keeps a probability to .0005, a logit of 30 to .015: that moves a probability by .004, or
by more over a temperature below 1."""


def refuse_other_probabilities(
    outputs: tuple[Logits, NDArray[np.float32]],
    inputs: ModelInputs,
    metadata: Mapping[str, str],
    path: Path,
) -> None:
    """Check that a model's probabilities, which an app reads, are those of its logits.

    Args:
        outputs: Logits and probabilities, float32 [rows, classes]; logits that are not finite are
            left to the comparison with the source.
        inputs: Of these rows.
        metadata: Of the file: its problem (unknown: any problem is accepted) and temperatures
            (unknown: 1).
        path: The file.

    Raises:
        ParityError: They are others.
        ArtifactError: The metadata states temperatures that are malformed.
    """
    logits, given = outputs
    if not np.isfinite(logits).all():
        return
    problem = metadata.get("problem")
    possible = get_args(Problem) if problem is None else (problem,)
    stated = metadata.get("temperatures")
    known = UNCALIBRATED if stated is None else temperatures_from_text(stated, path)
    scaled = calibrated(logits, inputs, known)
    errors = [np.abs(given - probabilities(scaled, cast(Problem, p))).max() for p in possible]
    if not min(errors) <= _PROBABILITY_ERROR / min(1.0, *known.by_view.values()):
        raise ParityError(
            f"its probabilities differ by up to {min(errors):.3f} from those of its logits",
            where=path,
        )


def calibrated(logits: Logits, inputs: ModelInputs, temperatures: Temperatures) -> Logits:
    """Return logits of inputs over the temperatures of the modalities that each row has."""
    has_text = inputs["attention_mask"].sum(axis=1) > 1
    return temperatures.applied(logits, inputs["image_present"].astype(bool), has_text)


class Predictor(Protocol):
    """A model that predicts, in any variant.

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

        Leaves out what only Python does to pass arrays.
        """
        ...


class ExportPredictor(TimedPredictor, Protocol):
    """Runs an exported file, which has metadata."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata that `ExportSource.metadata` wrote into the file, where it did."""
        ...

    @property
    def text_entry(self) -> Predictor | None:
        """The file's entry point for a text alone, which ignores images; None if it has none."""
        ...
