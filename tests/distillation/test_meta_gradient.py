"""The gradient of the held-out loss with respect to the weights, against numbers and autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.distances import kl_distance
from msd_deploy.distillation.losses import label_loss
from msd_deploy.distillation.meta import MetaObjective, hold_out
from msd_deploy.distillation.meta_gradient import (
    LastLayer,
    VirtualStep,
    exact_gradient,
    last_layer_gradient,
)
from msd_deploy.distillation.steps import MultiViewModel
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.errors import ConfigError
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View

BATCH, META, HIDDEN, CLASSES = 5, 7, 6, 3
ALPHA = 0.2


class Problem:
    """A linear student of three views: everything can be differentiated by brute force."""

    def __init__(self) -> None:
        make = torch.Generator().manual_seed(0)
        self.model = nn.Linear(HIDDEN, CLASSES).double()
        self.features = torch.randn(3, BATCH, HIDDEN, generator=make, dtype=torch.float64)
        self.teacher = torch.randn(3, BATCH, CLASSES, generator=make, dtype=torch.float64)
        self.labels = torch.tensor([0, 1, 2, 0, -100])
        self.meta_features = torch.randn(META, HIDDEN, generator=make, dtype=torch.float64)
        self.meta_labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
        self.weights = torch.rand(3, BATCH, generator=make, dtype=torch.float64)

    def distances(self, logits: Tensor) -> Tensor:
        return kl_distance(logits, self.teacher, temperature=2.0, multi_label=False)

    def losses(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = functional_call(self.model, parameters, (self.features,))
        return self.distances(logits), ALPHA * label_loss(logits[0], self.labels)

    def meta_loss(self, parameters: dict[str, Tensor]) -> Tensor:
        logits = functional_call(self.model, parameters, (self.meta_features,))
        return label_loss(logits, self.meta_labels)

    def after_step(self, weights: Tensor, step: VirtualStep) -> float:
        """Take the virtual step with these weights; return the meta loss."""
        distances, rest = self.losses(dict(self.model.named_parameters()))
        loss = (1 - step.alpha) * (weights * distances).sum(dim=0).mean() + rest
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        moved = {
            name: parameter - step.rate * gradient
            for (name, parameter), gradient in zip(
                self.model.named_parameters(), gradients, strict=True
            )
        }
        return self.meta_loss(moved).item()

    def last_layer(self) -> LastLayer:
        logits = self.model(self.features).detach().requires_grad_()
        (slopes,) = torch.autograd.grad(self.distances(logits).sum(), logits)
        pair = logits[0].detach().requires_grad_()
        (label_slopes,) = torch.autograd.grad(label_loss(pair, self.labels), pair)
        return LastLayer(
            weight=self.model.weight.detach(),
            bias=self.model.bias.detach(),
            features=self.features,
            slopes=slopes,
            label_features=self.features[0],
            label_slopes=label_slopes,
            meta_features=self.meta_features,
            meta_labels=self.meta_labels,
        )


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    return Problem()


def test_the_exact_gradient_is_the_slope_of_the_loss_after_the_step(problem: Problem) -> None:
    step = VirtualStep(rate=0.5, alpha=ALPHA)
    found = exact_gradient(problem.model, problem.losses, problem.meta_loss, problem.weights, step)
    size = 1e-6
    for view, example in np.ndindex(3, BATCH):
        moved = torch.zeros_like(problem.weights)
        moved[view, example] = size
        rise = problem.after_step(problem.weights + moved, step)
        fall = problem.after_step(problem.weights - moved, step)
        assert found[view, example].item() == pytest.approx((rise - fall) / (2 * size), abs=1e-8)


@pytest.mark.parametrize("look_ahead", [True, False])
def test_the_closed_form_is_exact_for_a_student_that_is_its_last_layer(
    problem: Problem, look_ahead: bool
) -> None:
    step = VirtualStep(rate=0.5, alpha=ALPHA, look_ahead=look_ahead)
    exact = exact_gradient(problem.model, problem.losses, problem.meta_loss, problem.weights, step)
    fast = last_layer_gradient(problem.last_layer(), problem.weights, step)
    assert exact.abs().max() > 1e-3
    assert torch.allclose(fast, exact, atol=1e-12)


def test_looking_ahead_matters_only_for_a_finite_step(problem: Problem) -> None:
    def directions(rate: float) -> list[Tensor]:
        layer = problem.last_layer()
        both = (VirtualStep(rate, ALPHA, look_ahead) for look_ahead in (True, False))
        return [last_layer_gradient(layer, problem.weights, step) / rate for step in both]

    tiny, large = directions(1e-9), directions(1.0)
    assert torch.allclose(*tiny, atol=1e-7)
    assert not torch.allclose(*large, atol=1e-3)


def objective_on(
    memes: tuple[PreparedData, Preprocessor], **settings: object
) -> tuple[MetaObjective, np.ndarray | None]:
    data = memes[0]
    make = torch.Generator().manual_seed(0)
    logits = {"train": torch.randn(len(data.splits["train"]), 3, 2, generator=make)}
    config = replace(DistillConfig(weighting="meta", meta_batch_size=8), **settings)  # type: ignore[arg-type]
    built = build_student_objective(config, data, TeacherPredictions(logits), seed=0)
    assert isinstance(built.objective, MetaObjective)
    return built.objective, built.used


def test_held_out_rows_are_not_trained_on(memes: tuple[PreparedData, Preprocessor]) -> None:
    train = memes[0].splits["train"]
    objective, used = objective_on(memes, meta_rows="train", meta_share=0.25)
    assert used is not None
    assert not used[objective.task.held_out].any()
    assert len(objective.task.held_out) == 30
    assert used.sum() == 90
    assert np.array_equal(hold_out(train, 0.25, seed=0), objective.task.held_out)
    assert not np.array_equal(hold_out(train, 0.25, seed=1), objective.task.held_out)


def test_unlabelled_rows_of_a_held_out_image_are_not_trained_on_either(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    data, preprocessor = memes
    train = data.splits["train"]
    labels = np.where(np.arange(len(train)) % 3 == 0, -100, train.labels)
    shared = replace(train, image_index=np.arange(len(train)) // 6, labels=labels)
    objective, used = objective_on(
        (replace(data, splits={**data.splits, "train": shared}), preprocessor), meta_rows="train"
    )
    assert used is not None
    held_out = set(shared.image_index[objective.task.held_out].tolist())
    assert held_out
    assert held_out.isdisjoint(shared.image_index[used].tolist())
    assert set(shared.image_index[~used].tolist()) == held_out


def test_weights_learn_on_the_validation_split_and_no_training_row_is_lost(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    objective, used = objective_on(memes)
    validation = memes[0].splits["validation"]
    assert used is None
    assert objective.task.split is validation
    assert np.array_equal(objective.task.held_out, np.arange(len(validation)))


def test_a_validation_split_without_labels_is_rejected(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    data, preprocessor = memes
    validation = data.splits["validation"]
    unlabelled = replace(validation, labels=np.full(len(validation), -100))
    without = replace(data, splits={**data.splits, "validation": unlabelled})
    with pytest.raises(ConfigError, match=r"distill\.weighting: .*no labelled row"):
        objective_on((without, preprocessor))


def test_rows_of_one_image_are_held_out_together(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    train = memes[0].splits["train"]
    shared = replace(train, image_index=np.arange(len(train)) // 10)
    held_out = hold_out(shared, 0.2, seed=0)
    counts = np.bincount(shared.image_index[held_out])
    assert set(counts.tolist()) == {0, 10}


def test_too_few_images_to_hold_out_are_rejected(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    train = memes[0].splits["train"]
    one_picture = replace(train, image_index=np.zeros(len(train), np.int64))
    with pytest.raises(ConfigError, match=r"distill\.weighting: .*Label more images"):
        hold_out(one_picture, 0.1, seed=0)
    one_label = replace(train, labels=np.where(np.arange(len(train)) == 5, 1, -100))
    with pytest.raises(ConfigError, match="1 labelled rows"):
        hold_out(one_label, 0.1, seed=0)


@pytest.mark.parametrize("changes", [{"image_weight": 0.0}, {"multimodal_weight": 0.0}])
@pytest.mark.parametrize("weighting", ["population", "instance"])
def test_saliency_weightings_take_a_fixed_weight_of_zero(
    memes: tuple[PreparedData, Preprocessor],
    tiny_model: FusionForClassification,
    weighting: str,
    changes: dict[str, float],
) -> None:
    data = memes[0]
    logits = torch.randn(
        len(data.splits["train"]), 3, 2, generator=torch.Generator().manual_seed(0)
    )
    config = replace(DistillConfig(weighting=weighting), **changes)  # type: ignore[arg-type]
    built = build_student_objective(config, data, TeacherPredictions({"train": logits}), seed=0)
    batch = collate(data.splits["train"], np.arange(8))
    answer = built.objective(MultiViewModel(tiny_model), batch)
    total = torch.stack(list(answer.weights.values())).sum(dim=0)
    assert torch.allclose(total, torch.full((8,), 2.0), atol=1e-4)
    assert all(torch.isfinite(term) for term in answer.terms.values())


@pytest.mark.parametrize("gradient", ["fast", "exact"])
def test_a_meta_step_leaves_the_student_as_it_was(
    memes: tuple[PreparedData, Preprocessor], tiny_model: FusionForClassification, gradient: str
) -> None:
    """Statistics of BatchNorm included: the held-out batch must not teach the student."""
    objective, _ = objective_on(memes, meta_gradient=gradient)
    tiny_model.train()
    model = MultiViewModel(tiny_model)
    batch = collate(memes[0].splits["train"], np.arange(16))
    outputs = model(batch, tuple(View))
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    found = objective.gradient(model, batch, outputs, torch.ones(3, 16))
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_the_weighting_is_updated_in_the_first_and_then_in_every_nth_step(
    memes: tuple[PreparedData, Preprocessor], tiny_model: FusionForClassification
) -> None:
    objective, _ = objective_on(memes, meta_every=3)
    model, batch = MultiViewModel(tiny_model), collate(memes[0].splits["train"], np.arange(16))
    changed = []
    for _ in range(7):
        before = {name: value.clone() for name, value in objective.state_tensors().items()}
        objective(model, batch)
        after = objective.state_tensors()
        net = [name for name in after if name.startswith("net.")]
        changed.append(any(not torch.equal(before[name], after[name]) for name in net))
    assert changed == [True, False, False, True, False, False, True]
    assert int(objective.state_tensors()["steps_done"]) == 7


def test_the_closed_form_is_the_exact_gradient_of_a_student_with_a_frozen_body(
    memes: tuple[PreparedData, Preprocessor], tiny_model: FusionForClassification
) -> None:
    for name, parameter in tiny_model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    tiny_model.train()
    model, batch = MultiViewModel(tiny_model), collate(memes[0].splits["train"], np.arange(32))
    found = []
    for gradient in ("fast", "exact"):
        objective, _ = objective_on(memes, meta_gradient=gradient)
        outputs = model(batch, tuple(View))
        found.append(objective.gradient(model, batch, outputs, torch.ones(3, 32)).flatten())
    assert torch.allclose(*found, rtol=1e-3, atol=1e-8)


def test_the_network_learns_to_trust_the_view_whose_teacher_is_right(
    memes: tuple[PreparedData, Preprocessor], tiny_model: FusionForClassification
) -> None:
    """The image view's targets are the labels, the text view's are their opposite."""
    data = memes[0]
    train = data.splits["train"]
    right = torch.nn.functional.one_hot(torch.from_numpy(train.labels), 2) * 8.0 - 4.0
    logits = torch.stack([right, right, -right], dim=1)
    config = DistillConfig(
        weighting="meta",
        meta_rows="train",
        meta_learning_rate=0.02,
        meta_every=1,
        meta_share=0.3,
        meta_multimodal_floor=0.5,
        meta_single_floor=0.1,
    )
    built = build_student_objective(config, data, TeacherPredictions({"train": logits}), seed=0)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=2e-3)
    tiny_model.train()
    model = MultiViewModel(tiny_model)
    rows = np.flatnonzero(built.used)
    for step in range(60):
        batch = collate(train, np.sort(np.random.default_rng(step).choice(rows, 32, replace=False)))
        answer = built.objective(model, batch)
        optimizer.zero_grad()
        torch.stack(list(answer.terms.values())).sum().backward()
        optimizer.step()
    means = {view: weights.mean().item() for view, weights in answer.weights.items()}
    assert means[View.TEXT] < 0.6 < means[View.MULTIMODAL]
    assert means[View.TEXT] < means[View.IMAGE]
