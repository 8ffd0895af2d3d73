"""ViewClassifier: what trainer, cache and metrics ask of a model, whatever it is made of."""

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel

from msd_deploy.data.batch import Batch
from msd_deploy.views import View


class ViewClassifier(PreTrainedModel):
    """A vision-and-language classifier that answers for the pair, the image and the text alone.

    Attributes:
        classifier: The last layer; its logits are those of the classes.
    """

    classifier: nn.Linear

    def features_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Return what the classifier reads, float [batch, features], of each view.

        A withheld modality is absent: whatever the batch holds of it changes nothing.
        """
        raise NotImplementedError

    def logits_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Return the logits [batch, classes] of each view; see `features_by_view`."""
        features = self.features_by_view(batch, views)
        return {view: self.classifier(values) for view, values in features.items()}
