"""ViewClassifier: what trainer, cache and metrics ask of a model, whatever it is made of."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from msd_deploy.data.batch import Batch
from msd_deploy.problem import Problem, transformers_problem
from msd_deploy.views import View


class ViewClassifier(PreTrainedModel):
    """A vision-and-language classifier that answers for the pair, the image and the text alone.

    Attributes:
        classifier: The last layer; its logits are those of the classes.
        pretrained: Names of the parameters that started from a checkpoint in this process.
    """

    classifier: nn.Linear
    pretrained: frozenset[str] = frozenset()

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Return what the classifier reads, float [batch, features], of each view.

        A withheld modality is absent: whatever the batch holds of it changes nothing.
        """
        raise NotImplementedError

    def logits_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Return the logits [batch, classes] of each view; see `features_by_view`."""
        features = self.features_by_view(batch, views)
        return {view: self.classifier(values) for view, values in features.items()}

    def mark_pretrained(self, *modules: nn.Module) -> None:
        """Note that the parameters of some modules started from a checkpoint."""
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        self.pretrained |= {name for name, p in self.named_parameters() if id(p) in known}

    def checkpoint_activations(self) -> None:
        """Compute activations again for the gradient, in training, instead of keeping them."""
        raise NotImplementedError


def task_config(labels: tuple[str, ...], problem: Problem) -> dict[str, Any]:
    """Return what every model's configuration states of its task."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": transformers_problem(problem),
    }
