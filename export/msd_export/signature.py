"""The one signature that every exported form has: names, shapes and dtypes of inputs and outputs.

One file answers with both modalities, with the image alone or with the text alone: an absent image
is `image_present` 0, an absent text is an `attention_mask` of the first token ([CLS]) alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_deploy.problem import Problem
from msd_export.formats import FORMATS, Target

ModelInputs = dict[str, NDArray[np.generic]]
"""image uint8 [batch, height, width, 3] RGB; image_present int32 [batch]; input_ids int32
[batch, length]; attention_mask int32 [batch, length]."""

Logits = NDArray[np.float32]
"""[batch, classes]."""

INPUT_NAMES = ("image", "image_present", "input_ids", "attention_mask")
OUTPUT_NAMES = ("logits", "probabilities")


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """Shapes and meanings of a model's inputs and outputs.

    Attributes:
        image_size: Height and width of the image in pixels.
        max_length: Tokens of text, padded; includes [CLS] and [SEP].
        labels: Names of the classes, in the order of the logits.
        problem: single_label has softmax probabilities, the others sigmoid ones.
    """

    image_size: tuple[int, int]
    max_length: int
    labels: tuple[str, ...]
    problem: Problem

    def as_json(self, target: Target) -> dict[str, object]:
        """Return the signature as it is stated in an export's manifest.

        Core ML packages take a picture of the system's own type, and one example at a time.
        """
        height, width = self.image_size
        batch: object = "batch" if FORMATS[target].has_dynamic_batch else 1
        text = {"dtype": "int32", "shape": [batch, self.max_length]}
        classes = {"dtype": "float32", "shape": [batch, len(self.labels)]}
        image: dict[str, object] = {"dtype": "uint8", "shape": [batch, height, width, 3]}
        if target == "coreml":
            image = {"dtype": "image", "color": "RGB", "height": height, "width": width}
        return {
            "problem": self.problem,
            "inputs": {
                "image": image,
                "image_present": {"dtype": "int32", "shape": [batch]},
                "input_ids": text,
                "attention_mask": text,
            },
            "outputs": dict.fromkeys(OUTPUT_NAMES, classes),
        }


def single_example(inputs: Mapping[str, NDArray[np.generic]], row: int) -> ModelInputs:
    """Return one row of a batch of inputs, its batch dimension kept."""
    return {name: inputs[name][row : row + 1] for name in INPUT_NAMES}
