"""One step of a training: what a model is asked, what an objective answers, what is reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from msd_deploy.data.batch import Batch
from msd_deploy.distill.weighting import ExampleWeights
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """What a model says of a batch.

    Attributes:
        logits: Per view float [batch, classes].
        features: Per view float [batch, hidden], what the classifier read.
        hint: float [batch, hidden of the teacher], the projection of the first view's features;
            None without a projection.
    """

    logits: dict[View, Tensor]
    features: dict[View, Tensor]
    hint: Tensor | None = None


class MultiViewModel(nn.Module):
    """A model whose forward answers for several views, as data parallelism needs it.

    Args:
        model: The model.
        projection: Maps its features to the teacher's width; trained with it and then left.
    """

    def __init__(self, model: ViewClassifier, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, batch: Batch, views: tuple[View, ...]) -> ModelOutputs:
        """Answer for each view; every picture is encoded once."""
        features = self.model.features_by_view(batch, views)
        # Losses are taken in float32, also where matrices were multiplied in bfloat16.
        logits = {view: self.model.classifier(values).float() for view, values in features.items()}
        hint = None if self.projection is None else self.projection(features[views[0]])
        return ModelOutputs(logits, features, hint)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What an objective returns.

    Attributes:
        terms: Scalar loss terms by name; their sum is the loss.
        weights: The views' weights of each example; empty where there are none.
    """

    terms: dict[str, Tensor]
    weights: ExampleWeights


class Objective(Protocol):
    """What a training minimises."""

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the loss of a batch."""
        ...


@runtime_checkable
class StochasticObjective(Protocol):
    """An objective that draws something for a whole step, whatever parts it is computed in."""

    def draw(self) -> "Objective":
        """Return the objective of one step, its draws made."""
        ...


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective that learns too: its state is kept in every checkpoint."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all that changes while it trains, by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `state_tensors`."""
        ...
