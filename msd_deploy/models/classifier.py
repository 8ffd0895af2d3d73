"""ViewClassifier: what trainer, cache and metrics ask of a model, whatever it is made of."""

from collections.abc import Container, Iterable
from typing import Any, Self

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

    @property
    def vision_modules(self) -> tuple[nn.Module, ...]:
        """Modules of the vision encoder, all that `encode_images` calls; empty without one."""
        raise NotImplementedError

    @property
    def row_modules(self) -> tuple[nn.Module, ...]:
        """The modules that `encode_rows` calls; none if rows cannot be encoded by themselves."""
        return ()

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return what the vision encoder makes of pictures, [images, ...].

        Args:
            pixel_values: uint8 or float [images, 3, height, width], 0..255.
        """
        raise NotImplementedError

    def encoded_images(self, batch: Batch) -> Tensor:
        """Return what the vision encoder makes, or made before, of a batch's pictures."""
        return (
            self.encode_images(batch.pixel_values)
            if batch.encoded_images is None
            else batch.encoded_images
        )

    def encode_rows(self, batch: Batch) -> Tensor:
        """Return what `Batch.encoded_rows` holds of a batch, [batch, ...]."""
        raise NotImplementedError

    def freeze(self, names: Container[str]) -> None:
        """Keep parameters as they are; modules that have no others stay in eval mode."""
        for name, parameter in self.named_parameters():
            if name in names:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Put the model into training or eval mode, but for what is frozen: that is in eval mode.

        So a frozen BatchNorm keeps its statistics, and a frozen layer drops nothing.
        """
        super().train(mode)
        for module in filter(is_frozen, self.modules()):
            nn.Module.train(module, False)
        return self

    def mark_pretrained(self, *modules: nn.Module, but: Iterable[nn.Parameter] = ()) -> None:
        """Note that the parameters of some modules, but for some, started from a checkpoint."""
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        known -= {id(parameter) for parameter in but}
        self.pretrained |= {name for name, p in self.named_parameters() if id(p) in known}

    def checkpoint_activations(self) -> None:
        """Compute activations again for the gradient, in training, instead of keeping them."""
        raise NotImplementedError


def is_frozen(*modules: nn.Module) -> bool:
    """Return whether modules have parameters, none of which learns."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def task_config(labels: tuple[str, ...], problem: Problem) -> dict[str, Any]:
    """Return what every model's configuration states of its task."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": transformers_problem(problem),
    }
