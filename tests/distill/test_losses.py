import math

import numpy as np
import pytest
import torch

from msd_deploy.config import DistillConfig
from msd_deploy.distill.losses import (
    ViewWeights,
    distillation_terms,
    fixed_weights,
    kl_distance,
    label_loss,
)
from msd_deploy.views import View

ALL = ViewWeights(1.0, 0.5, 2.0)


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


def views_of(values: torch.Tensor) -> dict[View, torch.Tensor]:
    return {view: values + index for index, view in enumerate(View)}


def test_terms_are_weighted_and_named(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = (views_of(values * 2) for values in logits)
    labels = torch.tensor([0, 1, 2, 3, 0])
    terms = distillation_terms(student, teacher, labels, weights=ALL, alpha=0.2, temperature=2.0)
    assert set(terms) == {"labels", "multimodal", "image", "text"}
    for view, weight in zip(View, (1.0, 0.5, 2.0), strict=True):
        plain = kl_distance(student[view], teacher[view], temperature=2.0, multi_label=False).mean()
        assert math.isclose(terms[view.value].item(), 0.8 * weight * plain.item(), rel_tol=1e-9)
    plain_labels = label_loss(student[View.MULTIMODAL], labels)
    assert math.isclose(terms["labels"].item(), 0.2 * plain_labels.item(), rel_tol=1e-9)


def test_msd_with_zero_single_view_weights_is_plain_distillation(
    logits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, teacher = (views_of(values) for values in logits)
    labels = torch.tensor([0, 1, 2, 3, 0])
    msd = fixed_weights(DistillConfig(method="msd", image_weight=0.0, text_weight=0.0))
    kd = fixed_weights(DistillConfig(method="kd"))
    assert msd == kd
    terms = distillation_terms(student, teacher, labels, weights=kd, alpha=0.1, temperature=2.0)
    assert set(terms) == {"labels", "multimodal"}


def test_without_distillation_the_labels_loss_has_full_weight(
    logits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, _ = logits
    labels = torch.tensor([0, 1, 2, 3, 0])
    weights = fixed_weights(DistillConfig(method="none"))
    terms = distillation_terms(
        {View.MULTIMODAL: student}, {}, labels, weights=weights, alpha=0.1, temperature=2.0
    )
    assert list(terms) == ["labels"]
    assert torch.equal(terms["labels"], label_loss(student, labels))


def test_gradient_of_the_distance_is_the_difference_of_softened_predictions() -> None:
    student = torch.tensor([[0.2, -1.0, 0.7]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    kl_distance(student, teacher, temperature=3.0, multi_label=False).sum().backward()
    expected = 3.0 * (softmax(student.detach().numpy() / 3) - softmax(teacher.numpy() / 3))
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-9)
