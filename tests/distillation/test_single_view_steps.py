"""Which views and examples a step of distillation has: halves, and single views for a while."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_deploy.config.distill import DistillConfig
from msd_deploy.data.batch import Batch, collate, parts_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.objectives import DistillationObjective
from msd_deploy.distillation.steps import MultiViewModel
from msd_deploy.distillation.student_objective import build_student_objective
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View

ALL = DistillConfig(single_view_examples=1.0, single_view_steps=1.0)
HALVES = replace(ALL, single_view_examples=0.5)


@pytest.fixture
def model(tiny_model: FusionForClassification) -> MultiViewModel:
    return MultiViewModel(tiny_model)


@pytest.fixture
def batch(memes: tuple[PreparedData, Preprocessor]) -> Batch:
    return collate(memes[0].splits["train"], np.arange(40))


def objective(
    memes: tuple[PreparedData, Preprocessor], settings: DistillConfig
) -> DistillationObjective:
    data = memes[0]
    shape = (len(data.splits["train"]), 3, 2)
    predictions = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    built = build_student_objective(
        settings, data, TeacherPredictions({"train": predictions}), seed=1
    )
    assert isinstance(built.objective, DistillationObjective)
    return built.objective


def terms_of(objective: DistillationObjective, model: MultiViewModel, batch: Batch) -> Tensor:
    """Return the terms of a first step, float [4]; every step has the same random numbers."""
    torch.manual_seed(3)
    return torch.stack(list(objective.draw(0.0)(model, batch).terms.values()))


@pytest.mark.parametrize("weighting", ["fixed", "population", "instance"])
def test_the_mean_over_the_places_is_the_loss_of_all_examples(
    memes: tuple[PreparedData, Preprocessor], model: MultiViewModel, batch: Batch, weighting: str
) -> None:
    quarters = objective(memes, replace(HALVES, weighting=weighting, single_view_examples=0.25))
    assert quarters.places is not None
    expected = terms_of(objective(memes, replace(ALL, weighting=weighting)), model, batch)
    every = [
        terms_of(replace(quarters, places=(quarters.places + shift) % 1), model, batch)
        for shift in (0.0, 0.25, 0.5, 0.75)
    ]
    assert (every[0] - every[1])[2:].abs().min() > 1e-4
    torch.testing.assert_close(torch.stack(every).mean(dim=0), expected)


@pytest.mark.parametrize(("share", "of_both"), [(0.25, 0.0), (0.5, 0.0), (0.75, 0.5)])
def test_single_views_are_of_other_examples_in_each_step(
    memes: tuple[PreparedData, Preprocessor],
    model: MultiViewModel,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    of_both: float,
) -> None:
    rows: dict[View, list[list[int]]] = {view: [] for view in View}
    compute = MultiViewModel.forward

    def forward(model: MultiViewModel, batch: Batch, views: tuple[View, ...]) -> object:
        for view in views:
            rows[view].append(batch.rows.tolist())
        return compute(model, batch, views)

    monkeypatch.setattr(MultiViewModel, "forward", forward)
    some = objective(memes, replace(HALVES, single_view_examples=share))
    torch.manual_seed(0)
    for _ in range(40):
        some.draw(0.0)(model, batch)
    images, texts = rows[View.IMAGE], rows[View.TEXT]
    both = [len(set(image) & set(text)) for image, text in zip(images, texts, strict=True)]
    assert np.mean(both) == pytest.approx(of_both * len(batch), abs=2.5)
    assert share < 0.6 or min(both) > 0
    assert share > 0.6 or max(both) == 0
    for steps in (images, texts):
        counts = np.bincount(np.concatenate(steps), minlength=40)
        assert counts.mean() == pytest.approx(40 * share, rel=0.1)
        assert counts.min() > 0
        assert counts.max() < 40


def test_a_batch_in_parts_has_the_loss_of_the_whole_batch(
    memes: tuple[PreparedData, Preprocessor], model: MultiViewModel, batch: Batch
) -> None:
    halves = objective(memes, HALVES)
    parts = [terms_of(halves, model, part) * len(part) / len(batch) for part in parts_of(batch, 7)]
    torch.testing.assert_close(sum(parts), terms_of(halves, model, batch))


def test_one_example_has_a_loss(
    memes: tuple[PreparedData, Preprocessor], model: MultiViewModel, batch: Batch
) -> None:
    (part, *_) = parts_of(batch, 40)
    of_image, of_text = terms_of(objective(memes, HALVES), model, part)[2:]
    assert sorted([bool(of_image > 0), bool(of_text > 0)]) == [False, True]


def test_the_last_steps_have_the_multimodal_view_alone(
    memes: tuple[PreparedData, Preprocessor],
    model: MultiViewModel,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[tuple[View, ...]] = []
    compute = MultiViewModel.forward

    def forward(model: MultiViewModel, batch: Batch, views: tuple[View, ...]) -> object:
        computed.append(views)
        return compute(model, batch, views)

    monkeypatch.setattr(MultiViewModel, "forward", forward)
    early = objective(memes, replace(ALL, single_view_steps=0.6, single_view_rest=0.0))
    before, after = early.draw(0.59)(model, batch), early.draw(0.6)(model, batch)
    assert computed == [tuple(View), (View.MULTIMODAL,)]
    assert list(before.terms) == ["labels", "multimodal", "image", "text"]
    assert list(after.terms) == ["labels", "multimodal"]
    assert list(after.weights) == [View.MULTIMODAL]
    assert torch.equal(after.terms["multimodal"], before.terms["multimodal"])


def test_a_share_of_the_later_steps_has_single_views(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    some = objective(memes, replace(HALVES, single_view_steps=0.5, single_view_rest=0.25))
    torch.manual_seed(0)
    assert all(some.draw(0.49).views == tuple(View) for _ in range(50))
    late = [some.draw(0.5) for _ in range(800)]
    with_single = [step for step in late if step.views == tuple(View)]
    assert {step.views for step in late} == {tuple(View), (View.MULTIMODAL,)}
    assert len(with_single) / len(late) == pytest.approx(0.25, abs=0.04)
    assert len({step.offset for step in with_single}) == len(with_single)
    assert {step.offset for step in late if step not in with_single} == {0.0}
    shares = {step.views: share for share, step in some.possible_steps()}
    assert shares == {tuple(View): 0.5 + 0.5 * 0.25, (View.MULTIMODAL,): 0.5 * 0.75}


def test_a_view_that_is_the_only_one_is_of_other_examples_in_each_step(
    memes: tuple[PreparedData, Preprocessor], model: MultiViewModel, batch: Batch
) -> None:
    settings = replace(HALVES, multimodal_weight=0.0, image_weight=0.0)
    only_texts = objective(memes, settings)
    torch.manual_seed(0)
    terms = {only_texts.draw(0.0)(model, batch).terms["text"].item() for _ in range(3)}
    assert len(terms) == 3


def test_single_views_stay_where_the_multimodal_view_has_no_weight(
    memes: tuple[PreparedData, Preprocessor], model: MultiViewModel, batch: Batch
) -> None:
    single = objective(memes, replace(HALVES, multimodal_weight=0.0, single_view_steps=0.0))
    assert list(single.draw(0.9)(model, batch).terms) == ["labels", "image", "text"]


@pytest.mark.parametrize(
    "settings",
    [
        DistillConfig(method="kd"),
        DistillConfig(method="kd", modality_dropout=0.4),
        DistillConfig(method="none"),
    ],
)
def test_other_methods_are_the_same_with_and_without_halves(
    memes: tuple[PreparedData, Preprocessor],
    model: MultiViewModel,
    batch: Batch,
    settings: DistillConfig,
) -> None:
    without = replace(settings, single_view_examples=1.0, single_view_steps=1.0)
    for share_done in (0.0, 0.9):
        torch.manual_seed(5)
        given = objective(memes, settings).draw(share_done)(model, batch)
        state = torch.get_rng_state()
        torch.manual_seed(5)
        expected = objective(memes, without).draw(share_done)(model, batch)
        assert given.terms == expected.terms
        assert torch.equal(state, torch.get_rng_state())
