"""LiteRT: the student's graph through litert-torch as a float32 .tflite file."""

from pathlib import Path

import litert_torch
from torch import Tensor, nn

from msd_export.graph import ExportableGraph, example_inputs
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, ModelSignature


class StudentSignature(nn.Module):
    """A graph whose outputs have names; LiteRT numbers those of a tuple.

    Args:
        graph: The model with uint8 pixels [1, height, width, 3].
    """

    def __init__(self, graph: ExportableGraph) -> None:
        super().__init__()
        self.exported = graph  # GraphModules have a graph of their own

    def forward(
        self, image: Tensor, image_present: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Return logits and probabilities, float32 [1, classes]."""
        answers = self.exported(image, image_present, input_ids, attention_mask)
        return dict(zip(OUTPUT_NAMES, answers, strict=True))


def export_litert(graph: ExportableGraph, signature: ModelSignature, path: Path) -> None:
    """Write a float32 .tflite file that takes one example at a time.

    Args:
        graph: The model with uint8 pixels [1, height, width, 3].
        signature: Names and shapes.
        path: The file to write.
    """
    module = StudentSignature(graph).eval()
    examples = dict(zip(INPUT_NAMES, example_inputs(signature, batch=1), strict=True))
    litert_torch.convert(module, sample_kwargs=examples).export(str(path))
