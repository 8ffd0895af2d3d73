"""The graph that is exported: a model behind `ModelSignature`, with normalisation inside.

Also the groups of layers that an integer variant can keep in float.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.folders import LoadedModel
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.models.towers import has_text
from msd_deploy.problem import Problem
from msd_deploy.temperatures import UNCALIBRATED, Temperatures
from msd_export.layers import ROOT, WORD_EMBEDDINGS, group_of
from msd_export.signature import INPUT_NAMES, TEXT_ENTRY, ModelInputs, ModelSignature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ImageLayout = Literal["nhwc", "nchw"]


class ExportGraph(nn.Module):
    """A classifier of our own from pixels and token ids to logits and probabilities.

    Args:
        model: Put into eval mode.
        problem: single_label gives softmax probabilities, the others sigmoid ones.
        image_layout: nhwc takes uint8 [batch, height, width, 3]; nchw takes float32
            [batch, 3, height, width] of 0..255, as Core ML passes an image.
        temperatures: The temperatures of the probabilities.
    """

    def __init__(
        self,
        model: FusionForClassification,
        *,
        problem: Problem,
        image_layout: ImageLayout,
        temperatures: Temperatures = UNCALIBRATED,
    ) -> None:
        super().__init__()
        self.model: FusionForClassification = model
        nn.Module.eval(self.model)
        self.probabilities = _Probabilities(problem, temperatures)
        self.image_layout = image_layout

    def forward(
        self, image: Tensor, image_present: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, float32 [batch, classes]."""
        tokens = self.model.embed_image(_channels_first(image, self.image_layout))
        text = self.model.embed_text(input_ids)
        features = self.model.fuse(text, attention_mask, tokens, image_present)
        logits = self.model.classifier(features)
        return logits, self.probabilities(logits, image_present, attention_mask)


class TextGraph(nn.Module):
    """A classifier of our own from token ids alone: no image encoder, and no tokens of an image.

    Args:
        graph: The whole one, whose layers it shares.
    """

    def __init__(self, graph: ExportGraph) -> None:
        super().__init__()
        self.model = graph.model
        self.probabilities = graph.probabilities

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, float32 [batch, classes]."""
        features = self.model.fuse(self.model.embed_text(input_ids), attention_mask)
        logits = self.model.classifier(features)
        return logits, self.probabilities.of_text(logits)


class FamilyGraph(nn.Module):
    """A teacher of another family, or of one view, behind the same inputs; see `ExportGraph`.

    Args:
        model: Put into eval mode.
        problem: As there.
        image_layout: As there.
        temperatures: As there.
    """

    def __init__(
        self,
        model: FamilyForClassification | SpecialistForClassification,
        *,
        problem: Problem,
        image_layout: ImageLayout,
        temperatures: Temperatures = UNCALIBRATED,
    ) -> None:
        super().__init__()
        self.model: FamilyForClassification | SpecialistForClassification = model
        nn.Module.eval(self.model)
        self.probabilities = _Probabilities(problem, temperatures)
        self.image_layout = image_layout

    def forward(
        self, image: Tensor, image_present: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, float32 [batch, classes]."""
        images = self.model.encode_images(_channels_first(image, self.image_layout))
        features = self.model.fuse(
            images, input_ids.long(), attention_mask.long(), image_present.bool()
        )
        logits = self.model.classifier(features)
        return logits, self.probabilities(logits, image_present, attention_mask)


def _channels_first(image: Tensor, layout: ImageLayout) -> Tensor:
    return image.permute(0, 3, 1, 2) if layout == "nhwc" else image


class _Probabilities(nn.Module):
    """Probabilities of logits over the temperature of the modalities that a row has.

    Selections, a product and, where classes are independent, a sum: quantizers leave them in float.
    A model that is not calibrated has none.

    Args:
        problem: single_label gives a softmax, the others a sigmoid of each class.
        temperatures: The temperatures.
    """

    multimodal: Tensor
    image: Tensor
    text: Tensor
    multimodal_bias: Tensor
    image_bias: Tensor
    text_bias: Tensor

    def __init__(self, problem: Problem, temperatures: Temperatures) -> None:
        super().__init__()
        self.problem = problem
        self.is_calibrated = temperatures.is_fitted
        for view, temperature in temperatures.by_view.items():
            self.register_buffer(view.value, torch.tensor([[1 / temperature]]), persistent=False)
        self.has_biases = bool(temperatures.biases)
        for view, bias in temperatures.biases.items():
            self.register_buffer(f"{view}_bias", torch.tensor([[bias]]), persistent=False)

    def forward(self, logits: Tensor, image_present: Tensor, attention_mask: Tensor) -> Tensor:
        """Return float32 [batch, classes]."""
        if self.is_calibrated:
            with_text = has_text(attention_mask)[:, None]
            with_image = (image_present > 0)[:, None]
            of_image = torch.where(with_text, self.multimodal, self.image)
            logits = logits * torch.where(with_image, of_image, self.text)
            if self.has_biases:
                bias = torch.where(with_text, self.multimodal_bias, self.image_bias)
                logits = logits + torch.where(with_image, bias, self.text_bias)
        return self._of_scaled(logits)

    def of_text(self, logits: Tensor) -> Tensor:
        """Return those of texts alone, float32 [batch, classes]."""
        if self.is_calibrated:
            logits = logits * self.text
            if self.has_biases:
                logits = logits + self.text_bias
        return self._of_scaled(logits)

    def _of_scaled(self, logits: Tensor) -> Tensor:
        if self.problem == "single_label":
            return torch.softmax(logits, dim=-1)
        return torch.sigmoid(logits)


ExportableGraph = ExportGraph | FamilyGraph


class HalfPrecision(nn.Module):
    """A graph that computes in float16 between borders that stay as they are.

    Args:
        graph: Its weights become float16.
    """

    def __init__(self, graph: ExportableGraph | TextGraph) -> None:
        super().__init__()
        self.exported = graph.half()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return logits and probabilities, float32 [1, classes], of the graph's inputs."""
        return tuple(output.float() for output in self.exported(*inputs))


def graph_around(loaded: LoadedModel[ViewClassifier]) -> ExportableGraph:
    """Return a loaded model behind the signature, unchanged, for reference logits in PyTorch."""
    return _graph(loaded, loaded.model, "nhwc")


def graph_of(loaded: LoadedModel[ViewClassifier], *, image_layout: ImageLayout) -> ExportableGraph:
    """Return the module that is converted: a copy of the model, its BatchNorm folded."""
    model = copy.deepcopy(loaded.model)
    nn.Module.eval(model)
    fold_batch_norms(model)
    return _graph(loaded, model, image_layout)


def _graph(
    loaded: LoadedModel[ViewClassifier], model: ViewClassifier, image_layout: ImageLayout
) -> ExportableGraph:
    problem, temperatures = loaded.problem, loaded.temperatures
    if isinstance(model, FusionForClassification):
        return ExportGraph(
            model, problem=problem, image_layout=image_layout, temperatures=temperatures
        )
    assert isinstance(model, (FamilyForClassification, SpecialistForClassification))  # all kinds
    return FamilyGraph(model, problem=problem, image_layout=image_layout, temperatures=temperatures)


def text_graph_of(graph: ExportableGraph) -> TextGraph | None:
    """Return the graph for a text alone that shares the layers of a whole one.

    None where a model has no part that an image alone uses and a text does without.
    """
    return TextGraph(graph) if isinstance(graph, ExportGraph) else None


def entry_points_of(graph: ExportableGraph, main: str) -> dict[str, ExportableGraph | TextGraph]:
    """Return the graphs of a file's entry points, by name: the whole, and that for a text alone.

    Args:
        graph: The whole one.
        main: What the format calls its entry point.
    """
    text = text_graph_of(graph)
    return {main: graph} if text is None else {main: graph, TEXT_ENTRY: text}


def fold_batch_norms(model: nn.Module) -> int:
    """Fold every BatchNorm2d that directly follows a convolution in a Sequential into it.

    In eval mode the two are one linear map: y = g (W x - m) / sqrt(v + eps) + b is a convolution
    with W' = g W / sqrt(v + eps) and bias b - g m / sqrt(v + eps). Changes the model.

    Returns:
        How many were folded.
    """
    folded = 0
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1, 0, -1):
            before, norm = module[index - 1], module[index]
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index - 1] = fusion.fuse_conv_bn_eval(before, norm)
                module[index] = nn.Identity()
                folded += 1
    return folded


def signature_of(loaded: LoadedModel[ViewClassifier]) -> ModelSignature:
    """Return the signature of a model's exported variants."""
    return ModelSignature(
        image_size=loaded.preprocessor.image.size,
        max_length=loaded.preprocessor.max_length,
        labels=loaded.labels,
        problem=loaded.problem,
    )


def example_inputs(signature: ModelSignature, *, batch: int) -> tuple[Tensor, ...]:
    """Return tensors of the signature's shapes and dtypes, in its order, for tracing."""
    height, width = signature.image_size
    length = signature.max_length
    return (
        torch.zeros(batch, height, width, 3, dtype=torch.uint8),
        torch.ones(batch, dtype=torch.int32),
        torch.ones(batch, length, dtype=torch.int32),
        torch.ones(batch, length, dtype=torch.int32),
    )


def program_of(
    module: nn.Module, signature: ModelSignature, names: Sequence[str]
) -> "ExportedProgram":
    """Trace a module for one example.

    Args:
        module: In eval mode.
        signature: Shapes of the inputs.
        names: Those that it takes, in its order.
    """
    tensors = dict(zip(INPUT_NAMES, example_inputs(signature, batch=1), strict=True))
    with torch.no_grad():
        return torch.export.export(module, tuple(tensors[name] for name in names), strict=False)


def as_tensors(inputs: ModelInputs) -> tuple[Tensor, ...]:
    """Return numpy inputs as tensors, in the signature's order."""
    return tuple(torch.from_numpy(inputs[name]) for name in INPUT_NAMES)


_WEIGHTED = (nn.Conv2d, nn.Linear)


def layer_groups(graph: nn.Module) -> tuple[str, ...]:
    """Return the names of the groups that have weights, in the order of the model.

    Args:
        graph: The exported graph; its model stands under `layers.ROOT`.
    """
    return tuple(dict.fromkeys(map(group_of, weighted_layers(graph))))


def weighted_layers(graph: nn.Module) -> list[str]:
    """Return the names, in the graph, of the layers with weights that can be quantized."""
    return [
        name
        for name, module in graph.named_modules()
        if isinstance(module, _WEIGHTED) or name == ROOT + WORD_EMBEDDINGS
    ]
