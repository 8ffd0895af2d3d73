import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import Batch
from msd_deploy.distillation.distances import kl_distance
from msd_deploy.distillation.losses import distillation_terms, label_loss
from msd_deploy.distillation.objectives import AdaptationObjective
from msd_deploy.distillation.steps import ModelOutputs
from msd_deploy.distillation.weighting import fixed_weights
from msd_deploy.problem import NO_LABEL
from msd_deploy.views import View


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_kl_distance_equals_its_formula(
    logits: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    student, teacher = logits
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    result = kl_distance(student, teacher, temperature=temperature, multi_label=False)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10)


def test_multi_label_distance_is_the_mean_bernoulli_kl(
    logits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, teacher = logits
    p, q = 1 / (1 + np.exp(-teacher.numpy() / 2)), 1 / (1 + np.exp(-student.numpy() / 2))
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(axis=1)
    result = kl_distance(student, teacher, temperature=2.0, multi_label=True)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("multi_label", [False, True])
def test_distance_is_zero_for_equal_logits_and_finite_for_extreme_ones(multi_label: bool) -> None:
    extreme = torch.tensor([[1e4, -1e4, 0.0]])
    same = kl_distance(extreme, extreme, temperature=2.0, multi_label=multi_label)
    assert same.item() == 0.0
    apart = kl_distance(-extreme, extreme, temperature=2.0, multi_label=multi_label)
    assert torch.isfinite(apart).all()
    assert apart.item() > 0


def test_large_temperatures_approach_half_the_squared_distance_of_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: KD tends to matching logits; tau^2 KL -> sum d^2 / 2n."""
    student = torch.tensor([[0.3, -0.1, 0.4]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.2, -0.5]], dtype=torch.float64)
    difference = (teacher - teacher.mean()) - (student - student.mean())
    limit = (difference**2).sum().item() / (2 * 3)
    result = kl_distance(student, teacher, temperature=1000.0, multi_label=False).item()
    assert math.isclose(result, limit, rel_tol=1e-3)


def test_label_loss_is_cross_entropy_in_nats() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = np.mean([math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))])
    assert math.isclose(label_loss(logits, torch.tensor([0, 0])).item(), expected, rel_tol=1e-6)
    hot = torch.tensor([[1.0, 0.0]])
    bernoulli = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert math.isclose(label_loss(logits[:1], hot).item(), bernoulli, rel_tol=1e-6)


LABELS = torch.tensor([0, 1, 2, 3, 0])


def kl_by_view(student: torch.Tensor, teacher: torch.Tensor) -> dict[View, torch.Tensor]:
    return {
        view: kl_distance(student + index, teacher * (1 + index), temperature=2, multi_label=False)
        for index, view in enumerate(View)
    }


def test_terms_are_weighted_by_example_and_named(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = logits
    distances = kl_by_view(student, teacher)
    weights = {view: torch.arange(5.0, dtype=torch.float64) + i for i, view in enumerate(View)}
    terms = distillation_terms(student, distances, LABELS, weights=weights, alpha=0.2)
    assert list(terms) == ["labels", "multimodal", "image", "text"]
    for view in View:
        by_hand = 0.8 * float(np.mean(weights[view].numpy() * distances[view].numpy()))
        assert math.isclose(terms[view.value].item(), by_hand, rel_tol=1e-9)
    plain_labels = label_loss(student, LABELS)
    assert math.isclose(terms["labels"].item(), 0.2 * plain_labels.item(), rel_tol=1e-9)


def test_msd_with_zero_single_view_weights_is_plain_distillation() -> None:
    msd = fixed_weights(DistillConfig(method="msd", image_weight=0.0, text_weight=0.0))
    assert msd == fixed_weights(DistillConfig(method="kd")) == {View.MULTIMODAL: 1.0}


def test_without_distillation_the_labels_loss_has_full_weight(
    logits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, _ = logits
    assert fixed_weights(DistillConfig(method="none")) == {}
    terms = distillation_terms(student, {}, LABELS, weights={}, alpha=0.1)
    assert list(terms) == ["labels"]
    assert torch.equal(terms["labels"], label_loss(student, LABELS))


def test_rows_without_a_label_do_not_count(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, _ = logits
    some = torch.tensor([0, NO_LABEL, 2, NO_LABEL, 0])
    assert torch.isclose(label_loss(student, some), label_loss(student[::2], LABELS[::2]))
    none = torch.full((5,), NO_LABEL)
    assert label_loss(student.requires_grad_(), none).item() == 0.0
    hot = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 5, dtype=torch.float64)
    partly = hot.clone()
    partly[1] = torch.nan
    kept = [0, 2, 3, 4]
    loss = label_loss(student, partly)
    assert torch.isclose(loss, label_loss(student[kept], hot[kept]))
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_gradient_of_the_distance_is_the_difference_of_softened_predictions() -> None:
    student = torch.tensor([[0.2, -1.0, 0.7]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    kl_distance(student, teacher, temperature=3.0, multi_label=False).sum().backward()
    expected = 3.0 * (softmax(student.detach().numpy() / 3) - softmax(teacher.numpy() / 3))
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_adapted_teacher_is_best_where_a_view_has_the_mean_of_its_pairs_predictions(
    logits: tuple[torch.Tensor, torch.Tensor], multi_label: bool
) -> None:
    """Five pairs of one image: there the gradient of each single view vanishes.

    That of the multimodal view vanishes at the teacher's own predictions.
    """
    targets, other = logits
    squash = torch.sigmoid if multi_label else partial(torch.softmax, dim=-1)
    unsquash = torch.logit if multi_label else torch.log
    zeros = torch.zeros(5, dtype=torch.int64)
    batch = Batch(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        image_index=zeros,
        image_present=zeros == 0,
        input_ids=zeros[:, None],
        attention_mask=zeros[:, None] + 1,
        labels=zeros,
        rows=torch.arange(5),
    )
    mean = unsquash(squash(targets).mean(dim=0))
    for of_one, of_both, is_best in ((mean, targets, True), (other[0], other, False)):
        predicted = {
            view: (of_both if view is View.MULTIMODAL else of_one.expand(5, -1))
            .clone()
            .requires_grad_()
            for view in View
        }

        def model(
            batch: Batch, views: tuple[View, ...], own: dict[View, torch.Tensor] = predicted
        ) -> Any:
            return ModelOutputs({view: own[view] for view in views}, {})

        terms = AdaptationObjective(targets, multi_label)(model, batch).terms  # type: ignore[arg-type]
        assert list(terms) == list(View)
        for view, term in terms.items():
            (gradient,) = torch.autograd.grad(term, predicted[View(view)])
            # Each row's gradient is its own; of one prediction for all pairs, it is their sum.
            whole = gradient if view == View.MULTIMODAL else gradient.sum(dim=0)
            assert bool((whole.abs() < 1e-12).all()) is is_best
