"""Objectives: labels, adaptation, distillation with given weights (learned ones: `meta`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_deploy import process_group
from msd_deploy.data.batch import Batch
from msd_deploy.distillation.distances import Distance, kl_distance
from msd_deploy.distillation.feature_losses import FeatureTerms
from msd_deploy.distillation.losses import LABELS_TERM, distillation_terms, label_loss
from msd_deploy.distillation.steps import ModelOutputs, MultiViewModel, StepLoss
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.weighting import Weighting
from msd_deploy.views import View

_KEPT_TEMPERATURE = 4.0
"""Of the term that keeps an adapted teacher's multimodal view."""


@dataclass(frozen=True, slots=True)
class LabelObjective:
    """Cross-entropy with the labels, with modality dropout.

    Attributes:
        modality_dropout: Share of steps on one modality only, half of them for each.
        class_weights: See `label_loss`.
    """

    modality_dropout: float
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the loss as the term "labels"."""
        return self.draw()(model, batch)

    def draw(self) -> "LabelsOfView":
        """Sample the view of a step."""
        return LabelsOfView(draw_view(self.modality_dropout), self.class_weights)


@dataclass(frozen=True, slots=True)
class LabelsOfView:
    """Cross-entropy with the labels on one view.

    Attributes:
        view: The model's input.
        class_weights: See `label_loss`.
    """

    view: View
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Return the loss as the term "labels"; mixed images combine the losses of both labels."""
        logits = model(batch, (self.view,)).logits[self.view]
        loss = label_loss(logits, batch.labels, self.class_weights)
        if batch.mixed is not None and self.view.has_image:
            other = label_loss(logits, batch.mixed.labels, self.class_weights)
            loss = torch.lerp(loss, other, batch.mixed.share)
        return StepLoss({LABELS_TERM: loss}, {})


def draw_view(modality_dropout: float) -> View:
    """Sample a view from torch's global generator: a single one with the given probability.

    All processes sample, to keep their generators equal, and use the main one's sample.
    """
    draw = process_group.broadcast_from_main(torch.rand(()).item())
    if draw < modality_dropout / 2:
        return View.IMAGE
    return View.TEXT if draw < modality_dropout else View.MULTIMODAL


@dataclass(frozen=True, slots=True)
class AdaptationObjective:
    """Adaptation of a teacher T to single views, without labels.

    KL(T(v,t) || T'(v)) + KL(T(v,t) || T'(t)) + 4^2 KL_4(T(v,t) || T'(v,t)), each the mean over a
    batch's examples, KL_4 of the probabilities at temperature 4. The optimum of the image's term is
    E[T(v,t) | v], the mean of what T predicts for the examples with an image. That of the last term
    is T at any temperature; at a high one it also keeps how T ranks the classes that it excludes,
    which is all that a teacher who is certain of its training examples says there.

    Attributes:
        targets: T's multimodal logits of the training split, float32 [examples, classes].
        multi_label: Whether classes are independent; see `kl_distance`.
    """

    targets: Tensor
    multi_label: bool

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Compute a term per view."""
        outputs: ModelOutputs = model(batch, tuple(View))
        targets = self.targets[batch.rows.cpu()].to(batch.rows.device)
        terms = {}
        for view, logits in outputs.logits.items():
            temperature = _KEPT_TEMPERATURE if view is View.MULTIMODAL else 1.0
            distance = kl_distance(
                logits, targets, temperature=temperature, multi_label=self.multi_label
            )
            terms[view.value] = distance.mean()
        return StepLoss(terms, {})


@dataclass(frozen=True, slots=True)
class DistillationObjective:
    """Distillation from the labels and the teacher's views; see `losses`.

    Attributes:
        predictions: The teacher's predictions of the training split.
        distance: D.
        weighting: w.
        views: Views with a weight; empty for the label loss only.
        alpha: Weight of the label loss.
        modality_dropout: Share of steps in which the student's input is one modality only, with the
            labels and the teacher's multimodal logits as targets.
        feature_terms: Losses on features; None for none.
        class_weights: See `label_loss`.
    """

    predictions: TeacherPredictions
    distance: Distance
    weighting: Weighting
    views: tuple[View, ...]
    alpha: float
    modality_dropout: float = 0.0
    feature_terms: FeatureTerms | None = None
    class_weights: Tensor | None = None

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Compute the weighted terms and the weights."""
        shown = draw_view(self.modality_dropout) if self.modality_dropout else View.MULTIMODAL
        others = self.views if shown is View.MULTIMODAL else ()
        outputs: ModelOutputs = model(batch, tuple(dict.fromkeys((shown, *others))))
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
        if self.feature_terms is not None:
            terms |= self.feature_terms(outputs, shown, batch.rows)
        return StepLoss(terms, weights)


def detached(tensors: Mapping[View, Tensor]) -> dict[View, Tensor]:
    """Detach the tensors of all views."""
    return {view: tensor.detach() for view, tensor in tensors.items()}
