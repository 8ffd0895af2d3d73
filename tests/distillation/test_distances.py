import numpy as np
import pytest
import torch

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distillation.distances import (
    build_distance,
    check_distance,
    dist_distance,
    dkd_distance,
    mse_distance,
    standardized,
)
from msd_deploy.errors import ConfigError
from msd_deploy.problem import NO_LABEL

Logits = tuple[torch.Tensor, torch.Tensor]
LABELS = torch.tensor([0, 1, 2, 3, 0])


@pytest.fixture
def logits() -> Logits:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    return student, teacher


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def dkd(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return dkd_distance(
        student, teacher, labels, temperature=2.0, target_weight=1.5, other_weight=8.0
    )


def test_dkd_equals_its_formula(logits: Logits) -> None:
    student, teacher = logits
    expected = []
    for s, t, target in zip(student.numpy() / 2, teacher.numpy() / 2, LABELS.tolist(), strict=True):
        p, q = softmax(t), softmax(s)
        of_target = p[target] * np.log(p[target] / q[target])
        of_target += (1 - p[target]) * np.log((1 - p[target]) / (1 - q[target]))
        other_t, other_s = softmax(np.delete(t, target)), softmax(np.delete(s, target))
        of_others = (other_t * np.log(other_t / other_s)).sum()
        expected.append(4 * (1.5 * of_target + 8.0 * of_others))
    np.testing.assert_allclose(dkd(student, teacher, LABELS).numpy(), expected, rtol=1e-9)


def test_dkd_with_the_teachers_weight_for_the_others_is_plain_kl(logits: Logits) -> None:
    """Zhao et al. 2022, section 3.1: KL = TCKD + (1 - p_target) * NCKD."""
    student, teacher = logits
    parts = [
        dkd_distance(student, teacher, LABELS, temperature=1.0, target_weight=a, other_weight=b)
        for a, b in ((1.0, 0.0), (0.0, 1.0))
    ]
    left = 1 - torch.softmax(teacher, dim=1).gather(1, LABELS[:, None])[:, 0]
    kl = build_distance(DistillConfig(temperature=1.0), "single_label")
    assert torch.allclose(parts[0] + left * parts[1], kl(student, teacher, LABELS))


def test_dkd_takes_the_teachers_choice_where_there_is_no_label(logits: Logits) -> None:
    student, teacher = logits
    unlabelled = torch.full((5,), NO_LABEL)
    assert torch.equal(
        dkd(student, teacher, unlabelled), dkd(student, teacher, teacher.argmax(dim=1))
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_dist_equals_its_formula(logits: Logits, multi_label: bool) -> None:
    student, teacher = logits
    soften = (lambda z: 1 / (1 + np.exp(-z))) if multi_label else softmax
    p, q = soften(teacher.numpy() / 2), soften(student.numpy() / 2)
    inter = [1 - np.corrcoef(p[row], q[row])[0, 1] for row in range(5)]
    intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(4)])
    result = dist_distance(
        student,
        teacher,
        temperature=2.0,
        multi_label=multi_label,
        inter_weight=2.0,
        intra_weight=0.5,
    )
    np.testing.assert_allclose(result.numpy(), 4 * (2 * np.array(inter) + 0.5 * intra), rtol=1e-6)


def test_dist_ignores_a_change_of_scale_and_place_of_the_probabilities(logits: Logits) -> None:
    _, teacher = logits
    flatter = torch.log(0.5 * torch.softmax(teacher, dim=1) + 0.125)
    result = dist_distance(
        flatter, teacher, temperature=1, multi_label=False, inter_weight=1, intra_weight=1
    )
    assert result.abs().max() < 1e-6


def test_mse_is_the_mean_squared_difference_of_centred_logits(logits: Logits) -> None:
    student, teacher = logits
    single = build_distance(DistillConfig(loss="mse"), "single_label")
    shifted = student + torch.arange(5.0)[:, None]
    assert torch.allclose(single(shifted, teacher, LABELS), single(student, teacher, LABELS))
    multi = build_distance(DistillConfig(loss="mse"), "multi_label")
    expected = ((student - teacher) ** 2).mean(dim=1)
    assert torch.equal(multi(student, teacher, LABELS), expected)
    assert torch.equal(mse_distance(student, teacher), expected)


def test_standardized_distances_ignore_the_scale_of_the_logits(logits: Logits) -> None:
    student, teacher = logits
    values = standardized(student)
    assert values.mean(dim=1).abs().max() < 1e-9
    assert torch.allclose(values.square().mean(dim=1), torch.ones(5, dtype=torch.float64))
    measure = build_distance(DistillConfig(standardize=True), "single_label")
    assert torch.allclose(
        measure(3 * student + 7, teacher, LABELS), measure(student, teacher, LABELS)
    )


@pytest.mark.parametrize("loss", ["kl", "mse", "dkd", "dist"])
def test_every_distance_is_zero_at_the_teacher_and_pulls_towards_it(
    logits: Logits, loss: str
) -> None:
    student, teacher = logits
    measure = build_distance(DistillConfig(loss=loss), "single_label")  # type: ignore[arg-type]
    assert measure(teacher, teacher, LABELS).abs().max() < 1e-6
    student = student.clone().requires_grad_()
    before = measure(student, teacher, LABELS).sum()
    (gradient,) = torch.autograd.grad(before, student)
    after = measure(student - 1e-3 * gradient, teacher, LABELS).sum()
    assert after < before
    assert torch.autograd.gradcheck(lambda s: measure(s, teacher, LABELS), (student,))


@pytest.mark.parametrize("loss", ["kl", "mse", "dkd", "dist"])
def test_confident_logits_keep_every_distance_and_gradient_finite(loss: str) -> None:
    teacher = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 0.0, 60.0]])
    student = teacher.flip(0).clone().requires_grad_()
    measure = build_distance(DistillConfig(loss=loss), "single_label")  # type: ignore[arg-type]
    distance = measure(student, teacher, torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(distance.sum(), student)
    assert torch.isfinite(distance).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("config", "problem", "classes", "message"),
    [
        (
            DistillConfig(loss="dkd"),
            "single_label",
            2,
            r"distill\.loss.*at least 3 classes.* has 2\. Use kl",
        ),
        (DistillConfig(loss="dkd"), "multi_label", 8, r"dkd.*a multi-label task"),
        (DistillConfig(loss="dist"), "single_label", 2, r"inter-class.*dist_inter_weight = 0"),
        (DistillConfig(standardize=True), "single_label", 2, r"distill\.standardize"),
        (DistillConfig(standardize=True), "multi_label", 8, r"lose their threshold"),
    ],
)
def test_a_degenerate_distance_is_rejected_with_alternatives(
    config: DistillConfig, problem: str, classes: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_distance(config, problem, classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "problem", "classes"),
    [
        (DistillConfig(loss="dist", dist_inter_weight=0.0), "single_label", 2),
        (DistillConfig(loss="dist"), "multi_label", 8),
        (DistillConfig(loss="dkd"), "single_label", 3),
        (DistillConfig(loss="mse"), "multi_label", 2),
        (DistillConfig(), "single_label", 2),
    ],
)
def test_valid_distances_of_a_task_are_accepted(
    config: DistillConfig, problem: str, classes: int
) -> None:
    check_distance(config, problem, classes)  # type: ignore[arg-type]
