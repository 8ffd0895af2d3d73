"""Hints and relations against closed forms in numpy, and in whole trainings."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.feature_losses import (
    build_projection,
    hint_loss,
    relation_angle_loss,
    relation_distance_loss,
)
from msd_deploy.distillation.meta import MetaObjective
from msd_deploy.distillation.methods import METHODS
from msd_deploy.distillation.steps import MultiViewModel, StepLoss
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import (
    TeacherPredictions,
    cache_predictions,
    read_predictions,
)
from msd_deploy.errors import ArtifactError, ConfigError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StepReport
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.teachers import Teacher
from msd_deploy.pipeline import run_distillation
from msd_deploy.views import View

Points = NDArray[np.float64]


def points(rows: int, width: int, seed: int) -> Points:
    return np.random.default_rng(seed).normal(size=(rows, width))


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def expected_distance_loss(student: Points, teacher: Points) -> float:
    pairs = list(permutations(range(len(student)), 2))

    def scaled(values: Points) -> list[float]:
        distances = [float(np.linalg.norm(values[i] - values[j])) for i, j in pairs]
        return [distance / np.mean(distances) for distance in distances]

    return float(
        np.mean([huber(s - t) for s, t in zip(scaled(student), scaled(teacher), strict=True)])
    )


def expected_angle_loss(student: Points, teacher: Points) -> float:
    def cosine(values: Points, i: int, j: int, k: int) -> float:
        first, second = values[i] - values[j], values[k] - values[j]
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    return float(
        np.mean(
            [
                huber(cosine(student, *triple) - cosine(teacher, *triple))
                for triple in permutations(range(len(student)), 3)
            ]
        )
    )


def test_relations_are_those_of_the_paper() -> None:
    student, teacher = points(7, 3, 0), 40 * points(7, 5, 1)
    student[0] *= 30  # beyond Huber's square
    both = torch.from_numpy(student), torch.from_numpy(teacher)
    assert relation_distance_loss(*both).item() == pytest.approx(
        expected_distance_loss(student, teacher)
    )
    assert relation_angle_loss(*both).item() == pytest.approx(expected_angle_loss(student, teacher))


def test_hint_is_half_the_mean_squared_difference() -> None:
    student, teacher = points(4, 5, 0), points(4, 5, 1)
    found = hint_loss(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(0.5 * np.mean((student - teacher) ** 2))


def test_relations_do_not_see_a_move_a_turn_a_scale_or_more_dimensions() -> None:
    teacher = points(9, 6, 2)
    turn = np.linalg.qr(points(6, 6, 3))[0]
    student = np.hstack([7.0 * teacher @ turn + 3.0, np.zeros((9, 4))])
    both = torch.from_numpy(student), torch.from_numpy(teacher)
    assert relation_distance_loss(*both).item() == pytest.approx(0.0, abs=1e-12)
    assert relation_angle_loss(*both).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("loss", [relation_distance_loss, relation_angle_loss])
def test_relations_have_the_gradient_that_differences_show(loss: object) -> None:
    student = torch.from_numpy(points(5, 3, 4)).requires_grad_()
    teacher = torch.from_numpy(points(5, 4, 5))
    assert torch.autograd.gradcheck(lambda values: loss(values, teacher), (student,))  # type: ignore[operator]


@pytest.mark.parametrize("loss", [relation_distance_loss, relation_angle_loss])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_relations_mean_the_same_at_any_scale_of_features(loss: object, scale: float) -> None:
    student = torch.from_numpy(points(6, 4, 7)).float()
    teacher = torch.from_numpy(points(6, 4, 8)).float()
    found = loss(student * scale, teacher).item()  # type: ignore[operator]
    assert found == pytest.approx(loss(student, teacher).item(), rel=1e-4)  # type: ignore[operator]


def test_two_rows_that_coincide_for_one_model_alone_have_no_angle_between_them() -> None:
    """At j = 2, the angle from i over j to i again is none, and enters no sum."""
    student = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    teacher = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])

    def cosine(values: torch.Tensor, i: int, j: int, k: int) -> float:
        first, second = values[i] - values[j], values[k] - values[j]
        size = first.norm() * second.norm()
        return 0.0 if size == 0 else float(first @ second / size)

    expected = np.mean(
        [huber(cosine(student, *t) - cosine(teacher, *t)) for t in permutations(range(3), 3)]
    )
    assert relation_angle_loss(student, teacher).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [relation_distance_loss, relation_angle_loss])
def test_a_large_batch_is_compared_by_128_of_its_rows(loss: object) -> None:
    student, teacher = (torch.from_numpy(points(255, 3, seed)) for seed in (9, 10))
    every_other = torch.arange(0, 255, 2)
    found = loss(student, teacher)  # type: ignore[operator]
    assert found == loss(student[every_other], teacher[every_other])  # type: ignore[operator]


@pytest.mark.parametrize("loss", [relation_distance_loss, relation_angle_loss])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_rows_that_coincide_leave_gradients_finite(loss: object, rows: int) -> None:
    """An image and text twice in a batch; in a batch of one or two, a collapsed student too."""
    student = torch.zeros(rows, 3)
    student[rows // 2 + 1 :] = 1.0
    student.requires_grad_()
    value = loss(student, torch.from_numpy(points(rows, 4, 6)).float())  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


def test_angles_of_a_large_batch_are_those_of_rows_spread_over_it() -> None:
    student, teacher = torch.randn(300, 3), torch.randn(300, 4)
    rows = np.round(np.linspace(0, 299, 128)).astype(int)
    assert relation_angle_loss(student, teacher) == relation_angle_loss(
        student[rows], teacher[rows]
    )


@pytest.fixture
def predictions(memes: tuple[PreparedData, Preprocessor]) -> TeacherPredictions:
    """Random logits and features, the latter wider than the student's 16."""
    make = torch.Generator().manual_seed(0)
    rows = len(memes[0].splits["train"])
    return TeacherPredictions(
        {"train": torch.randn(rows, 3, 2, generator=make)},
        torch.randn(rows, 24, generator=make),
    )


Step = tuple[MultiViewModel, StepLoss]


def step_of(
    config: DistillConfig,
    data: PreparedData,
    predictions: TeacherPredictions,
    student: FusionForClassification,
) -> Step:
    """One step's loss of a student in eval mode, whose dropout would else differ."""
    built = build_student_objective(config, data, predictions, seed=0)
    model = MultiViewModel(student.eval(), build_projection(config, 16, predictions, seed=0))
    return model, built.objective(model, collate(data.splits["train"], np.arange(16)))


@pytest.mark.parametrize("weighting", ["fixed", "population", "instance", "meta"])
def test_the_terms_stand_beside_those_of_every_weighting(
    memes: tuple[PreparedData, Preprocessor],
    predictions: TeacherPredictions,
    tiny_model: FusionForClassification,
    weighting: str,
) -> None:
    plain = DistillConfig(weighting=weighting, alpha=0.25)  # type: ignore[arg-type]
    both = replace(plain, hint_weight=2.0, relation_weight=3.0)
    torch.manual_seed(0)  # which examples have single views
    _, without = step_of(plain, memes[0], predictions, tiny_model)
    torch.manual_seed(0)
    model, found = step_of(both, memes[0], predictions, tiny_model)
    for name, term in without.terms.items():
        assert torch.equal(found.terms[name], term)
    student = model(collate(memes[0].splits["train"], np.arange(16)), tuple(View))
    features, teacher = student.features[View.MULTIMODAL], predictions.features
    assert teacher is not None
    assert model.projection is not None
    expected = {
        "hint": 0.75 * 2.0 * hint_loss(model.projection(features), teacher[:16]),
        "relation_distance": 0.75 * 3.0 * relation_distance_loss(features, teacher[:16]),
        "relation_angle": 0.75 * 6.0 * relation_angle_loss(features, teacher[:16]),
    }
    assert set(found.terms) - set(without.terms) == set(expected)
    for name, term in expected.items():
        assert found.terms[name].item() == pytest.approx(term.item(), rel=1e-6)
        assert term.item() > 0


def test_with_modality_dropout_targets_stay_multimodal(
    memes: tuple[PreparedData, Preprocessor],
    predictions: TeacherPredictions,
    tiny_model: FusionForClassification,
) -> None:
    config = DistillConfig(method="kd", modality_dropout=0.9, relation_weight=1.0)
    assert predictions.features is not None
    batch = collate(memes[0].splits["train"], np.arange(16))
    features = MultiViewModel(tiny_model)(batch, tuple(View)).features
    expected = {
        round(relation_distance_loss(values, predictions.features[:16]).item() * 0.9, 5)
        for values in features.values()
    }
    torch.manual_seed(0)
    steps = [step_of(config, memes[0], predictions, tiny_model)[1] for _ in range(40)]
    assert {round(step.terms["relation_distance"].item(), 5) for step in steps} == expected


def test_the_virtual_step_of_meta_follows_the_features_too(
    memes: tuple[PreparedData, Preprocessor],
    predictions: TeacherPredictions,
    tiny_model: FusionForClassification,
) -> None:
    """Exact: it moves the body. Fast: it moves the classifier, which no feature's loss does."""
    train = memes[0].splits["train"]
    batch = collate(train, np.arange(16))
    found: dict[str, list[Tensor]] = {"fast": [], "exact": []}
    for gradient, gradients in found.items():
        for weight in (0.0, 50.0):
            config = DistillConfig(
                weighting="meta",
                meta_gradient=gradient,  # type: ignore[arg-type]
                relation_weight=weight,
            )
            objective = build_student_objective(config, memes[0], predictions, seed=0).objective
            assert isinstance(objective, MetaObjective)
            model = MultiViewModel(tiny_model)
            outputs = model(batch, tuple(View))
            gradients.append(objective.gradient(model, batch, outputs, torch.ones(3, 16)))
    assert torch.equal(*found["fast"])
    assert not torch.allclose(*found["exact"], rtol=0.1)


def test_the_projection_leaves_the_global_random_state(predictions: TeacherPredictions) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    config = DistillConfig(hint_weight=1.0)
    built = [build_projection(config, 16, predictions, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    weights = [projection.weight for projection in built if projection is not None]
    assert weights[0].shape == (24, 16)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert build_projection(DistillConfig(relation_weight=1.0), 16, predictions, seed=0) is None


def test_features_are_cached_when_needed_and_verified(
    memes: tuple[PreparedData, Preprocessor], tiny_model: FusionForClassification, tmp_path: Path
) -> None:
    data, preprocessor = memes
    few = replace(data, splits={name: split.head(30) for name, split in data.splits.items()})
    teacher = Teacher(tiny_model, preprocessor, "digest", np.array([1, 0]), tmp_path)
    folder = tmp_path / "teacher_predictions"
    assert cache_predictions(teacher, few, folder).features is None
    cached = cache_predictions(teacher, few, folder, with_features=True).features
    assert cached is not None
    assert cached.shape == (30, 16)
    logits = read_predictions(folder).of_view("train", View.MULTIMODAL)
    by_hand = tiny_model.classifier(cached)[:, [1, 0]].detach().numpy()
    np.testing.assert_allclose(by_hand, logits, atol=1e-6)
    damaged = folder / "features.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"features\.safetensors: was altered"):
        cache_predictions(teacher, few, folder, with_features=True)


@pytest.mark.parametrize("name", ["hint_weight", "relation_weight"])
def test_labels_alone_have_no_features_to_learn_from(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"distill\.{name}: .*--method kd or msd"):
        DistillConfig(method="none", **{name: 1.0})  # type: ignore[arg-type]
    base = DistillConfig(**{name: 1.0})  # type: ignore[arg-type]
    assert not METHODS["none"](base, 0.3).needs_features
    assert METHODS["kd-dropout"](base, 0.3).needs_features


@pytest.fixture(scope="module")
def run_with_features(
    small_config: RunConfig, finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, RunDirectory]:
    """A run with a given teacher, learned weights, hints and relations."""
    config = replace(
        small_config,
        teacher=replace(small_config.teacher, path=finished_run.teacher),
        distill=replace(
            small_config.distill, weighting="meta", hint_weight=1.0, relation_weight=2.0
        ),
    )
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "features")
    run_distillation(config, run)
    return config, run


def test_a_run_logs_the_terms_and_exports_no_projection(
    run_with_features: tuple[RunConfig, RunDirectory], finished_run: RunDirectory
) -> None:
    run = run_with_features[1]
    first = run.history.read_text().splitlines()[0]
    for name in ("hint", "relation_distance", "relation_angle"):
        assert f'"{name}": ' in first
    names = []
    for folder in (run.student, finished_run.student):
        with safe_open(folder / "model.safetensors", framework="pt") as tensors:
            names.append(sorted(tensors.keys()))
    assert names[0] == names[1]
    key = read_json(run.teacher_predictions / "manifest.json")["key"]
    assert isinstance(key, dict)
    assert key["features"] == "multimodal"


def test_a_stopped_run_resumes_with_its_projection_to_the_same_bits(
    run_with_features: tuple[RunConfig, RunDirectory], tmp_path: Path
) -> None:
    config, finished = run_with_features
    run, steps = RunDirectory(tmp_path / "run"), []

    def remember(report: StepReport) -> None:
        steps.append(report.step)

    for resume in (False, True):
        hooks = RunHooks(training=Hooks(remember, lambda: steps[-1] in (2, 5)))
        with pytest.raises(StoppedError):
            run_distillation(config, run, resume=resume, hooks=hooks)
    (checkpoint,) = run.checkpoints.glob("student/step-*")
    with safe_open(checkpoint / "model.safetensors", framework="pt") as tensors:
        assert "projection.weight" in tensors.keys()  # noqa: SIM118  # it is no mapping
    with safe_open(checkpoint / "optimizer.safetensors", framework="pt") as tensors:
        assert "projection.bias|exp_avg" in tensors.keys()  # noqa: SIM118
    run_distillation(config, run, resume=True)
    assert run.history.read_bytes() == finished.history.read_bytes()
    weights = [r.student / "model.safetensors" for r in (run, finished)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
