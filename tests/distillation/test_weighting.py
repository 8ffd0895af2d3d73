import numpy as np
import pytest
import torch

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distillation.meta import MetaWeighting
from msd_deploy.distillation.saliency import Saliency, teacher_saliency
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.distillation.weighting import (
    FixedWeighting,
    instance_weighting,
    population_weights,
)
from msd_deploy.errors import ConfigError
from msd_deploy.views import View

ROWS = torch.tensor([3, 0, 2])
CONFIG = DistillConfig(multimodal_weight=1.0, image_weight=0.5, text_weight=1.5)


def predictions(full: torch.Tensor, image: torch.Tensor, text: torch.Tensor) -> TeacherPredictions:
    return TeacherPredictions({"train": torch.stack([full, image, text], dim=1)})


@pytest.fixture
def saliency() -> Saliency:
    return Saliency(
        image=torch.tensor([1.0, 0.0, 3.0, 0.5]),
        text=torch.tensor([1.0, 2.0, 1.0, 0.0]),
        image_agreement=torch.tensor([0.5, 0.1, 1.0, 0.9]),
        text_agreement=torch.tensor([0.5, 0.9, 0.2, 0.1]),
    )


def test_saliency_is_zero_when_the_modality_is_ignored() -> None:
    full = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ignores_image = predictions(full, torch.zeros(6, 3), full)
    found = teacher_saliency(ignores_image, "train", problem="single_label", temperature=2.0)
    assert torch.equal(found.image, torch.zeros(6))
    assert (found.text > 0).all()
    assert torch.equal(found.text_agreement, torch.ones(6))
    assert (found.image_agreement < 1).all()


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_agreement_is_one_less_the_total_variation(problem: str) -> None:
    full, image, text = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    found = teacher_saliency(
        predictions(full, image, text),
        "train",
        problem=problem,  # type: ignore[arg-type]
        temperature=2.0,
    )
    p, q = (values.softmax(1) for values in (full, image))
    expected = 1 - (p - q).abs().sum(1) / 2
    if problem == "multi_label":
        expected = 1 - (full.sigmoid() - image.sigmoid()).abs().mean(1)
    assert torch.allclose(found.image_agreement, expected)


def test_fixed_weights_are_the_same_for_every_example() -> None:
    weights = FixedWeighting({View.MULTIMODAL: 1.0, View.TEXT: 0.25})(ROWS, {})
    assert {view: values.tolist() for view, values in weights.items()} == {
        View.MULTIMODAL: [1.0] * 3,
        View.TEXT: [0.25] * 3,
    }


def test_population_weights_follow_the_mean_saliency_and_keep_the_total(saliency: Saliency) -> None:
    weights = population_weights(CONFIG, saliency)
    assert weights[View.MULTIMODAL] == 1.0
    assert weights[View.IMAGE] == pytest.approx(2.0 * 4.5 / 8.5)
    assert sum(weights.values()) == pytest.approx(3.0)


def test_instance_weights_follow_saliency_times_agreement_by_row(saliency: Saliency) -> None:
    weights = instance_weighting(CONFIG, saliency)(ROWS, {})
    share = np.array([0.45 / (0.45 + 1e-8), 0.5, 3.0 / 3.2])
    np.testing.assert_allclose(weights[View.IMAGE].numpy(), 2 * (0.25 + 0.5 * share), rtol=1e-5)
    total = torch.stack(list(weights.values())).sum(dim=0)
    assert torch.allclose(total, torch.full((3,), 3.0))


def test_instance_weights_are_even_where_neither_modality_matters() -> None:
    nothing = Saliency(*(torch.zeros(4) for _ in range(4)))
    weights = instance_weighting(CONFIG, nothing)(ROWS, {})
    assert torch.allclose(weights[View.IMAGE], torch.ones(3))


def meta(saliency: Saliency) -> MetaWeighting:
    weights = {View.MULTIMODAL: 1.0, View.IMAGE: 0.5, View.TEXT: 1.5}
    return MetaWeighting(weights, saliency, multimodal_floor=0.5, single_floor=0.1)


def distances() -> dict[View, torch.Tensor]:
    return {view: torch.tensor([0.1, 2.0, 30.0]) for view in View}


def test_an_untrained_network_yields_the_fixed_weights(saliency: Saliency) -> None:
    weights = meta(saliency).stacked(ROWS, distances())
    expected = torch.tensor([1.0, 0.5, 1.5])[:, None].expand(3, 3)
    assert torch.allclose(weights, expected, atol=1e-6)


def test_learned_weights_never_fall_below_their_floors_and_keep_the_total(
    saliency: Saliency,
) -> None:
    weighting = meta(saliency)
    for seed in range(20):
        torch.manual_seed(seed)
        for parameter in weighting.net.parameters():
            torch.nn.init.normal_(parameter, std=30.0)
        weights = weighting.stacked(ROWS, distances())
        assert (weights >= torch.tensor([0.5, 0.05, 0.15])[:, None] - 1e-6).all()
        assert torch.allclose(weights.sum(dim=0), torch.full((3,), 3.0), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "kd", "weighting": "meta"}, r"distill\.weighting.*requires method msd"),
        ({"method": "msd", "modality_dropout": 0.3}, r"distill\.modality_dropout.*anyway"),
        ({"weighting": "meta", "text_weight": 0.0}, r"above 0 for each view"),
        ({"weighting": "meta", "loss": "dist"}, r"distill\.meta_gradient.*Use exact"),
        ({"meta_multimodal_floor": 1.0}, r"distill\.meta_multimodal_floor"),
    ],
)
def test_contradicting_settings_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillConfig(**changes)  # type: ignore[arg-type]
