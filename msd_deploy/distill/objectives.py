"""What teacher and student minimise: the trainer's objectives, the learned one apart (`meta`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_deploy import process_group
from msd_deploy.data.batch import Batch
from msd_deploy.distill.distances import Distance
from msd_deploy.distill.feature_losses import FeatureTerms
from msd_deploy.distill.losses import LABELS_TERM, distillation_terms, label_loss
from msd_deploy.distill.steps import ModelOutputs, MultiViewModel, StepLoss
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.distill.weighting import Weighting
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class LabelObjective:
    """Cross-entropy with the labels, on a single view in some of the steps (modality dropout).

    Attributes:
        modality_dropout: Share of steps on one modality alone, half of them each.
        class_weights: See `label_loss`.
    """

    modality_dropout: float
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the loss as the term "labels"."""
        return self.draw()(model, batch)

    def draw(self) -> "LabelsOfView":
        """Draw the view that all rows of a step are shown."""
        return LabelsOfView(draw_view(self.modality_dropout), self.class_weights)


@dataclass(frozen=True, slots=True)
class LabelsOfView:
    """Cross-entropy with the labels on one view.

    Attributes:
        view: What is shown.
        class_weights: See `label_loss`.
    """

    view: View
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the loss as the term "labels"; of mixed pictures, by the shares of both labels."""
        logits = model(batch, (self.view,)).logits[self.view]
        loss = label_loss(logits, batch.labels, self.class_weights)
        if batch.mixed is not None and self.view.has_image:
            other = label_loss(logits, batch.mixed.labels, self.class_weights)
            loss = torch.lerp(loss, other, batch.mixed.share)
        return StepLoss({LABELS_TERM: loss}, {})


def draw_view(modality_dropout: float) -> View:
    """Draw a view from torch's global generator: a single one with the given probability.

    All processes draw, and take what the main one has drawn.
    """
    draw = process_group.broadcast_from_main(torch.rand(()).item())
    if draw < modality_dropout / 2:
        return View.IMAGE
    return View.TEXT if draw < modality_dropout else View.MULTIMODAL


@dataclass(frozen=True, slots=True)
class DistillationObjective:
    """Labels and the teacher's views; see `losses`.

    Attributes:
        predictions: The teacher's logits of the training split.
        distance: D.
        weighting: w.
        views: Those that have weights; none: labels alone.
        alpha: Weight of the labels' loss.
        modality_dropout: Share of steps in which the student is shown one modality alone and is
            still asked for what the labels and the teacher say of the pair.
        of_features: The terms on features; None: none.
        class_weights: See `label_loss`.
    """

    predictions: TeacherPredictions
    distance: Distance
    weighting: Weighting
    views: tuple[View, ...]
    alpha: float
    modality_dropout: float = 0.0
    of_features: FeatureTerms | None = None
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the weighted terms and the weights."""
        shown = draw_view(self.modality_dropout) if self.modality_dropout else View.MULTIMODAL
        outputs = self._outputs(model, batch, shown)
        student = {**outputs.logits, View.MULTIMODAL: outputs.logits[shown]}
        teacher = self.predictions.of_rows("train", batch.rows, batch.form)
        distances = {
            view: self.distance(student[view], teacher[view], batch.labels) for view in self.views
        }
        weights = self.weighting(batch.rows, detached(distances))
        terms = distillation_terms(
            student[View.MULTIMODAL],
            distances,
            batch.labels,
            weights=weights,
            alpha=self.alpha,
            class_weights=self.class_weights,
        )
        if self.of_features is not None:
            terms |= self.of_features(outputs, shown, batch.rows)
        return StepLoss(terms, weights)

    def _outputs(self, model: MultiViewModel, batch: Batch, shown: View) -> ModelOutputs:
        others = self.views if shown is View.MULTIMODAL else ()
        outputs: ModelOutputs = model(batch, tuple(dict.fromkeys((shown, *others))))
        return outputs


def detached(tensors: Mapping[View, Tensor]) -> dict[View, Tensor]:
    """Return the tensors without their gradients."""
    return {view: tensor.detach() for view, tensor in tensors.items()}
