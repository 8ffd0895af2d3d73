"""ViewClassifier, the common interface of students and teachers."""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from msd_deploy.data.batch import Batch
from msd_deploy.errors import ArtifactError
from msd_deploy.problem import Problem, transformers_problem
from msd_deploy.views import View


class ViewClassifier(PreTrainedModel):
    """A vision-and-language classifier for both modalities, the image alone or the text alone.

    Images are normalised in the model: `pixel_values` are 0..255 everywhere.

    Attributes:
        classifier: The last layer, from features to logits.
        pretrained: Names of the parameters that were loaded from a checkpoint in this process.
    """

    classifier: nn.Linear
    image_mean: Tensor
    image_std: Tensor
    pretrained: frozenset[str] = frozenset()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the initialization of each module; a checkpoint's weights are loaded later."""

    def set_channels(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the standard deviation per RGB channel, in units of 0..255."""
        self.register_buffer("image_mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(std).view(1, 3, 1, 1))

    def normalised(self, pixel_values: Tensor) -> Tensor:
        """Return images of 0..255 as the vision encoder takes them."""
        return (pixel_values.to(self.image_mean.dtype) - self.image_mean) / self.image_std

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute the classifier's input, float [batch, features], of each view.

        A withheld modality is absent: its content in the batch has no effect.
        """
        raise NotImplementedError

    def logits_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute the logits [batch, classes] of each view; see `features_by_view`."""
        features = self.features_by_view(batch, views)
        return {view: self.classifier(values) for view, values in features.items()}

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules of the vision encoder, all that `encode_images` calls; empty without one."""
        raise NotImplementedError

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """Modules that `encode_rows` calls; empty if rows cannot be encoded separately."""
        return ()

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images with the vision encoder, as [images, ...].

        Args:
            pixel_values: uint8 or float [images, 3, height, width], 0..255.
        """
        raise NotImplementedError

    def encoded_images(self, batch: Batch) -> Tensor:
        """Return a batch's encoded images, cached or computed."""
        return (
            self.encode_images(batch.pixel_values)
            if batch.encoded_images is None
            else batch.encoded_images
        )

    def encode_rows(self, batch: Batch) -> Tensor:
        """Encode rows for the cache in `Batch.encoded_rows`, as [batch, ...]."""
        raise NotImplementedError

    def freeze(self, names: Container[str]) -> None:
        """Freeze parameters; modules without trainable ones stay in eval mode."""
        for name, parameter in self.named_parameters():
            if name in names:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; frozen modules stay in eval mode.

        A frozen BatchNorm keeps its statistics, and dropout of a frozen module is off.
        """
        super().train(mode)
        for module in filter(is_frozen, self.modules()):
            nn.Module.train(module, False)
        return self

    def mark_pretrained(self, *modules: nn.Module, exclude: Iterable[nn.Parameter] = ()) -> None:
        """Add the parameters of modules, except the excluded ones, to `pretrained`."""
        loaded = {id(parameter) for module in modules for parameter in module.parameters()}
        loaded -= {id(parameter) for parameter in exclude}
        self.pretrained |= {name for name, p in self.named_parameters() if id(p) in loaded}

    def checkpoint_activations(self) -> None:
        """Enable activation checkpointing: recompute activations in the backward pass."""
        raise NotImplementedError


def is_frozen(*modules: nn.Module) -> bool:
    """Return whether modules have parameters, none of them trainable."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def check_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """Check the weights that were read from a file.

    Raises:
        ArtifactError: One holds NaN or infinity; names the file and the tensor.
    """
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ArtifactError(
                f"the weights {name} hold NaN or infinity",
                where=file,
                fix="Use another copy of the model, or train it again",
            )


def task_config(labels: tuple[str, ...], problem: Problem) -> dict[str, Any]:
    """Return the entries of a model's configuration that describe its task."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": transformers_problem(problem),
    }
