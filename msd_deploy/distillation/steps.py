"""Interfaces of a training step: a model's outputs per view, and the objective's loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from msd_deploy.data.batch import Batch
from msd_deploy.distillation.weighting import ExampleWeights
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """A model's outputs for a batch.

    Attributes:
        logits: Per view float [batch, classes].
        features: Per view float [batch, hidden], the classifier's input.
        hint: float [batch, hidden of the teacher], the projected features of the first view; None
            without a projection.
    """

    logits: dict[View, Tensor]
    features: dict[View, Tensor]
    hint: Tensor | None = None


class MultiViewModel(nn.Module):
    """Module whose forward computes several views, and which also holds the hint projection.

    Args:
        model: The classifier.
        projection: Linear map of its features to the teacher's width; discarded after training.
    """

    def __init__(self, model: ViewClassifier, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, batch: Batch, views: tuple[View, ...]) -> ModelOutputs:
        """Compute the outputs of each view; each image is encoded once."""
        features = self.model.features_by_view(batch, views)
        # Losses are computed in float32 even where matrices were multiplied in bfloat16.
        logits = {view: self.model.classifier(values).float() for view, values in features.items()}
        hint = None if self.projection is None else self.projection(features[views[0]])
        return ModelOutputs(logits, features, hint)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Loss of a batch.

    Attributes:
        terms: Scalar loss terms by name; their sum is the loss.
        weights: Weights of each view and example; empty without distillation.
    """

    terms: dict[str, Tensor]
    weights: ExampleWeights


class Objective(Protocol):
    """A function from a model and a batch to the loss."""

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Compute the loss of a batch."""
        ...


@runtime_checkable
class StochasticObjective(Protocol):
    """An objective that differs by step, not by the parts that a step is computed in."""

    def draw(self, share_done: float) -> "Objective":
        """Sample the objective of one step.

        Args:
            share_done: Share of the planned steps before this one, from 0 to below 1.
        """
        ...


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective that is trained too; checkpoints include its state."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return its state by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state_tensors`."""
        ...
