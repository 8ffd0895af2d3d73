"""Distillation with learned weights: the weighting network, and the steps that train it.

Each step updates the network, then the student.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from msd_deploy import process_group
from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import Batch, collate, rows_by_image
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.distillation.checkpoint import moments_of, restore_moments
from msd_deploy.distillation.data_parallel import all_reduce_gradients
from msd_deploy.distillation.distances import Distance
from msd_deploy.distillation.feature_losses import build_feature_terms
from msd_deploy.distillation.losses import distillation_terms, label_loss, labelled_rows
from msd_deploy.distillation.meta_gradient import (
    LastLayer,
    VirtualStep,
    exact_gradient,
    last_layer_gradient,
)
from msd_deploy.distillation.objectives import detached
from msd_deploy.distillation.saliency import Saliency
from msd_deploy.distillation.steps import ModelOutputs, MultiViewModel, StepLoss
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.weighting import ExampleWeights
from msd_deploy.errors import ConfigError
from msd_deploy.views import View

_VIEWS = tuple(View)
_NET, _ADAM = "net.", "adam."
_HIDDEN = 16


class MetaWeighting(nn.Module):
    """Learned weights per example, from the student's distances and the teacher's saliency.

    A small network, trained to reduce the student's loss on held-out examples (bi-level; Jin et al.
    2021, after Shu et al. 2019); see `meta_gradient`. Unconstrained weights collapse
    onto one view (measured: .01, 2.76, .23), so each has a floor and their total is fixed.

    With p_k the fixed weights' shares, W their total and f_k = floor_k * p_k,

        w_k(x) = W * (f_k + (1 - sum f) * softmax(net(x) + log((p - f) / (1 - sum f)))_k),

    so that an untrained network returns the fixed weights, and no weight falls below its floor.

    Args:
        weights: Fixed weights of all three views, each above 0.
        saliency: Saliency of the training split.
        multimodal_floor: Floor of the multimodal view, as a share of its fixed weight.
        single_floor: Floor of each single view, as a share of its fixed weight.
    """

    prior: Tensor
    floor: Tensor
    described: Tensor

    def __init__(
        self,
        weights: Mapping[View, float],
        saliency: Saliency,
        *,
        multimodal_floor: float,
        single_floor: float,
    ) -> None:
        super().__init__()
        fixed = torch.tensor([weights[view] for view in View])
        kept = torch.tensor([multimodal_floor, single_floor, single_floor])
        shares = fixed / fixed.sum()
        self.total = float(fixed.sum())
        of_teacher = [
            torch.log1p(saliency.image),
            torch.log1p(saliency.text),
            saliency.image_agreement,
            saliency.text_agreement,
        ]
        self.register_buffer("floor", shares * kept, persistent=False)
        self.register_buffer("prior", torch.log(shares - self.floor), persistent=False)
        self.register_buffer("described", torch.stack(of_teacher, dim=1), persistent=False)
        last = nn.Linear(_HIDDEN, len(View))
        first = nn.Linear(len(of_teacher) + len(View), _HIDDEN)
        self.net = nn.Sequential(first, nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, rows: Tensor, distances: Mapping[View, Tensor]) -> ExampleWeights:
        """Return the weights of a batch, with gradients to the network; see `Weighting`."""
        return dict(zip(View, self.stacked(rows, distances), strict=True))

    def stacked(self, rows: Tensor, distances: Mapping[View, Tensor]) -> Tensor:
        """Return the weights [views, batch], views in the order of `View`."""
        of_student = torch.stack([torch.log1p(distances[view].detach()) for view in View], dim=1)
        inputs = torch.cat([of_student, self.described[rows]], dim=1)
        shares = torch.softmax(self.net(inputs) + self.prior, dim=1)
        return self.total * (self.floor + (1 - self.floor.sum()) * shares).T


@dataclass(frozen=True, slots=True)
class MetaTask:
    """Data and teacher of the learned weighting.

    Attributes:
        predictions: The teacher's predictions of the training split.
        distance: D.
        split: Split of the held-out rows: validation, or the training split.
        held_out: int64 [rows], labelled rows that the student is not trained on.
        seed: Random seed of the meta batches.
        class_weights: See `label_loss`. The held-out loss uses them too, so that the views' weights
            minimise the requested loss.
    """

    predictions: TeacherPredictions
    distance: Distance
    split: PreparedSplit
    held_out: NDArray[np.int64]
    seed: int
    class_weights: Tensor | None = None


class MetaObjective:
    """Bi-level distillation (Jin et al. 2021, in our reading); see `meta_gradient`.

    Args:
        weighting: The weighting, trained here with Adam.
        task: Data and teacher.
        config: Settings: alpha, feature terms and meta_*.
    """

    def __init__(self, weighting: MetaWeighting, task: MetaTask, config: DistillConfig) -> None:
        self.weighting, self.task, self.config = weighting, task, config
        self.step = VirtualStep(config.meta_rate, config.alpha, config.meta_look_ahead)
        self.optimizer = torch.optim.Adam(
            weighting.net.parameters(), lr=config.meta_learning_rate, eps=1e-12
        )
        self.feature_terms = build_feature_terms(config, task.predictions)
        self.steps_done = 0

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        """Update the weighting every `meta_every` steps; return the weighted terms and weights."""
        self.weighting.to(batch.rows.device)
        outputs = model(batch, _VIEWS)
        distances = self.distances(outputs.logits, batch)
        if self.steps_done % self.config.meta_every == 0:
            self._update_weighting(model, batch, outputs, detached(distances))
        self.steps_done += 1
        with torch.no_grad():
            weights = self.weighting(batch.rows, detached(distances))
        terms = distillation_terms(
            outputs.logits[View.MULTIMODAL],
            distances,
            batch.labels,
            weights=weights,
            alpha=self.config.alpha,
            class_weights=self.task.class_weights,
        )
        terms |= self.feature_terms(outputs, View.MULTIMODAL, batch.rows)
        return StepLoss(terms, weights)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state of the weighting and its optimizer, by name."""
        net = self.weighting.net
        return {
            **{f"{_NET}{name}": value for name, value in net.state_dict().items()},
            **{f"{_ADAM}{n}": value for n, value in moments_of(net, self.optimizer).items()},
            "steps_done": torch.tensor(self.steps_done),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state_tensors`.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A shape differs.
        """
        self.steps_done = int(tensors["steps_done"])
        self.weighting.net.load_state_dict(_with_prefix(tensors, _NET))
        restore_moments(_with_prefix(tensors, _ADAM), self.weighting.net, self.optimizer)

    def gradient(
        self, model: MultiViewModel, batch: Batch, outputs: ModelOutputs, weights: Tensor
    ) -> Tensor:
        """Compute dL_meta / dw [views, batch] for the next meta batch, by either method."""
        meta = self._meta_batch().to(batch.rows.device)
        if self.config.meta_gradient == "exact":
            return self._exact_gradient(model, batch, meta, weights)
        layer = self._last_layer(model, batch, outputs, meta).all_gather(
            of_labels=_shares_of(batch)[1]
        )
        of_all = last_layer_gradient(layer, process_group.all_gather(weights.T).T, self.step)
        return process_group.own_rows(of_all.T, len(batch)).T

    def _update_weighting(
        self,
        model: MultiViewModel,
        batch: Batch,
        outputs: ModelOutputs,
        distances: dict[View, Tensor],
    ) -> None:
        weights = self.weighting.stacked(batch.rows, distances)
        gradient = self.gradient(model, batch, outputs, weights.detach())
        self.optimizer.zero_grad()
        weights.backward(gradient)
        all_reduce_gradients(self.weighting.net)
        self.optimizer.step()

    def distances(self, logits: Mapping[View, Tensor], batch: Batch) -> dict[View, Tensor]:
        """Return the distance [batch] of each view to the teacher's."""
        teacher = self.task.predictions.of_rows("train", batch.rows, batch.form)
        return {v: self.task.distance(logits[v], teacher[v], batch.labels) for v in _VIEWS}

    def _meta_batch(self) -> Batch:
        """Sample held-out rows; the step number alone seeds it, so that resuming is bit-equal."""
        rng = np.random.default_rng((self.task.seed, self.steps_done))
        held_out = self.task.held_out
        size = min(self.config.meta_batch_size, len(held_out))
        rows = np.sort(rng.choice(held_out, size, replace=False))
        return collate(self.task.split, rows)

    def _last_layer(
        self, model: MultiViewModel, batch: Batch, outputs: ModelOutputs, meta: Batch
    ) -> LastLayer:
        logits = {view: outputs.logits[view].detach().requires_grad_() for view in _VIEWS}
        distances = torch.stack(list(self.distances(logits, batch).values()))
        slopes = torch.autograd.grad(distances.sum(), list(logits.values()))
        multimodal = logits[View.MULTIMODAL]
        label_term = self._label_loss(multimodal, batch.labels)
        (label_slopes,) = torch.autograd.grad(label_term, multimodal)
        with torch.no_grad():
            meta_outputs = _outputs(model, dict(model.named_parameters()), meta, (View.MULTIMODAL,))
        classifier = model.model.classifier
        return LastLayer(
            weight=classifier.weight.detach(),
            bias=classifier.bias.detach(),
            features=torch.stack([outputs.features[view].detach() for view in _VIEWS]),
            slopes=torch.stack(slopes),
            label_features=outputs.features[View.MULTIMODAL].detach(),
            label_slopes=label_slopes,
            meta_features=meta_outputs.features[View.MULTIMODAL],
            meta_labels=meta.labels,
            class_weights=self.task.class_weights,
        )

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return label_loss(logits, labels, self.task.class_weights)

    def _exact_gradient(
        self, model: MultiViewModel, batch: Batch, meta: Batch, weights: Tensor
    ) -> Tensor:
        of_rows, of_labels = _shares_of(batch)

        def losses(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            outputs = _outputs(model, parameters, batch, _VIEWS)
            distances = torch.stack(list(self.distances(outputs.logits, batch).values()))
            label_term = self.config.alpha * self._label_loss(
                outputs.logits[View.MULTIMODAL], batch.labels
            )
            feature_terms = self.feature_terms(outputs, View.MULTIMODAL, batch.rows)
            rest = sum((of_rows * term for term in feature_terms.values()), of_labels * label_term)
            return of_rows * distances, rest

        def meta_loss(parameters: dict[str, Tensor]) -> Tensor:
            logits = _outputs(model, parameters, meta, (View.MULTIMODAL,)).logits
            return self._label_loss(logits[View.MULTIMODAL], meta.labels)

        return exact_gradient(model, losses, meta_loss, weights, self.step)


def _outputs(
    model: MultiViewModel, parameters: Mapping[str, Tensor], batch: Batch, views: tuple[View, ...]
) -> ModelOutputs:
    """Run the student on a batch without side effects: BatchNorm updates copies of its buffers."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    result = functional_call(model, {**parameters, **buffers}, (batch, views))
    assert isinstance(result, ModelOutputs)
    return result


def _shares_of(batch: Batch) -> tuple[float, float]:
    """Return a batch's share of the rows and of the labelled rows of all processes."""
    if process_group.world_size() == 1:
        return 1.0, 1.0
    own = torch.tensor([len(batch), labelled_rows(batch.labels).sum()], device=batch.rows.device)
    rows, labelled = (own / process_group.all_reduce(own.clone()).clamp(min=1)).tolist()
    return rows, labelled


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def hold_out(split: PreparedSplit, share: float, *, seed: int) -> NDArray[np.int64]:
    """Choose the held-out rows of the learned weighting, by whole images.

    Args:
        split: The training split.
        share: Share of its labelled rows.
        seed: Random seed of the choice.

    Returns:
        Sorted int64 [rows]: all labelled rows of the chosen images.

    Raises:
        ConfigError: Too few images are labelled to hold some of them out.
    """
    labelled = split.has_label()
    total = int(labelled.sum())
    groups = rows_by_image(split.image_index)
    target = max(1, round(share * total))
    chosen: list[int] = []
    for group in np.random.default_rng((seed, 1)).permutation(len(groups)):
        rows = [row for row in groups[group] if labelled[row]]
        if len(chosen) < target and len(chosen) + len(rows) <= min(2 * target, total // 2):
            chosen += rows
    if not chosen:
        raise ConfigError(
            f"{total} labelled rows have too few images: meta holds out whole images",
            where="distill.weighting",
            fix="Label more images, raise distill.meta_share, or use another --weighting",
        )
    return np.sort(np.array(chosen, np.int64))
