"""Objectives: labels, adaptation, distillation with given weights (learned ones: `meta`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_deploy import process_group
from msd_deploy.data.batch import Batch, rows_of
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
        return self.draw(0.0)(model, batch)

    def draw(self, share_done: float) -> "LabelsOfView":
        """Sample the view of a step, whenever in training."""
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
        single_view_steps: Share of the steps, the first ones, that all have single views; all steps
            have if the multimodal view has no weight.
        single_view_rest: Share of the later steps that have them too, at random.
        single_view_examples: Share of a step's examples that each single view has, others for the
            image than for the text as far as that goes.
        places: float [training examples], random, from 0 to below 1; they decide which examples
            have a single view.
    """

    predictions: TeacherPredictions
    distance: Distance
    weighting: Weighting
    views: tuple[View, ...]
    alpha: float
    modality_dropout: float = 0.0
    feature_terms: FeatureTerms | None = None
    class_weights: Tensor | None = None
    single_view_steps: float = 1.0
    single_view_examples: float = 1.0
    places: Tensor | None = None
    single_view_rest: float = 0.0

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Compute the weighted terms and the weights of a first step."""
        return self.draw(0.0)(model, batch)

    def draw(self, share_done: float) -> "DistillationStep":
        """Sample the input of a step and the examples that have single views."""
        shown = draw_view(self.modality_dropout) if self.modality_dropout else View.MULTIMODAL
        views, offset = self.views, 0.0
        has_single_views = bool(set(views) - {View.MULTIMODAL})
        if has_single_views and self._is_late(share_done):
            has_single_views = _drawn_alike() < self.single_view_rest
            views = views if has_single_views else (View.MULTIMODAL,)
        if has_single_views and self.single_view_examples < 1:
            offset = _drawn_alike()
        return DistillationStep(self, views, shown, offset)

    def possible_steps(self) -> "list[tuple[float, DistillationStep]]":
        """Return what a step of a training may be, each with its probability above 0."""
        dropout, with_single = self.modality_dropout, 1.0
        if self._is_late(1.0):
            early = self.single_view_steps
            with_single = early + (1 - early) * self.single_view_rest
        inputs = [(1 - dropout, View.MULTIMODAL)]
        inputs += [(dropout / 2, view) for view in (View.IMAGE, View.TEXT)]
        return [
            (probability * share, DistillationStep(self, views, shown))
            for probability, shown in inputs
            for share, views in (
                (with_single, self.views),
                (1 - with_single, (View.MULTIMODAL,)),
            )
            if probability * share > 0
        ]

    def _is_late(self, share_done: float) -> bool:
        return share_done >= self.single_view_steps and View.MULTIMODAL in self.views


def _drawn_alike() -> float:
    """Draw a number from 0 to below 1, the same in all processes."""
    return process_group.broadcast_from_main(torch.rand(()).item())


@dataclass(frozen=True, slots=True)
class DistillationStep:
    """The loss of one step of distillation.

    Attributes:
        objective: That of the training.
        views: Views that are compared with the teacher's.
        shown: The student's input in place of the multimodal view.
        offset: Is added to the examples' places.
    """

    objective: DistillationObjective
    views: tuple[View, ...]
    shown: View
    offset: float = 0.0

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Compute the weighted terms and the weights."""
        whole, shown = self.objective, self.shown
        single = [view for view in self.views if view is not View.MULTIMODAL]
        on_all = single if whole.single_view_examples == 1 else []
        if single and not on_all:
            batch = replace(batch, encoded_images=model.model.encoded_images(batch))
        outputs: ModelOutputs = model(batch, (shown, *on_all))
        student = {**outputs.logits, View.MULTIMODAL: outputs.logits[shown]}
        teacher = whole.predictions.of_rows("train", batch.rows, batch.form)
        distances = {
            view: whole.distance(student[view], teacher[view], batch.labels)
            if view in student
            else self._distance_of_some(view, model, batch, teacher[view])
            for view in self.views
        }
        every = whole.weighting(batch.rows, detached(distances))
        weights = {view: every[view] for view in self.views}
        terms = distillation_terms(
            student[View.MULTIMODAL],
            distances,
            batch.labels,
            weights=weights,
            alpha=whole.alpha,
            class_weights=whole.class_weights,
        )
        if whole.feature_terms is not None:
            terms |= whole.feature_terms(outputs, shown, batch.rows)
        return StepLoss(terms, weights)

    def _distance_of_some(
        self, view: View, model: MultiViewModel, batch: Batch, teacher: Tensor
    ) -> Tensor:
        """Compute the distances of the examples that have a view, over their share; others have 0.

        The mean over a batch is so, on average over the offsets, that of all its examples, and a
        batch may be computed in parts.
        """
        share, places = self.objective.single_view_examples, self.objective.places
        assert places is not None
        place = (places[batch.rows.cpu()] + self.offset) % 1
        has_view = place < share if view is View.IMAGE else place >= 1 - share
        chosen = has_view.to(batch.rows.device).nonzero()[:, 0]
        distances = torch.zeros(len(batch), device=batch.rows.device)
        if not len(chosen):
            return distances
        logits = model(rows_of(batch, chosen), (view,)).logits[view]
        of_chosen = self.objective.distance(logits, teacher[chosen], batch.labels[chosen])
        return distances.index_add(0, chosen, of_chosen / share)


def detached(tensors: Mapping[View, Tensor]) -> dict[View, Tensor]:
    """Detach the tensors of all views."""
    return {view: tensor.detach() for view, tensor in tensors.items()}
