"""What teacher and student minimise: the trainer's two objectives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_deploy.data.batch import Batch
from msd_deploy.distill.losses import LABELS_TERM, ViewWeights, distillation_terms, label_loss
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.distill.trainer import ViewLogits
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class LabelObjective:
    """Cross-entropy with the labels, on a single view in some of the steps (modality dropout).

    Attributes:
        modality_dropout: Share of steps on one modality alone, half of them each.
    """

    modality_dropout: float

    def __call__(self, model: ViewLogits, batch: Batch) -> dict[str, Tensor]:
        """Return the loss as the term "labels"."""
        view = self._draw_view()
        return {LABELS_TERM: label_loss(model(batch, (view,))[view], batch.labels)}

    def _draw_view(self) -> View:
        draw = torch.rand(()).item()
        if draw < self.modality_dropout / 2:
            return View.IMAGE
        return View.TEXT if draw < self.modality_dropout else View.MULTIMODAL


@dataclass(frozen=True, slots=True)
class DistillationObjective:
    """Labels and the teacher's views; see `losses`.

    Attributes:
        predictions: The teacher's logits of the training split.
        weights: Weights of the views.
        alpha: Weight of the labels' loss.
        temperature: tau.
    """

    predictions: TeacherPredictions
    weights: ViewWeights
    alpha: float
    temperature: float

    def __call__(self, model: ViewLogits, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms by name."""
        views = tuple(dict.fromkeys((View.MULTIMODAL, *self.weights.views())))
        return distillation_terms(
            model(batch, views),
            self.predictions.of_rows("train", batch.rows),
            batch.labels,
            weights=self.weights,
            alpha=self.alpha,
            temperature=self.temperature,
        )
