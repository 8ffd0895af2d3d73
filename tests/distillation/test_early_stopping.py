"""Which weights a training keeps, and when it stops early."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig, Keep
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import RunConfig, config_from_json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.history import History
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.plan import (
    TrainingPlan,
    TrainingResult,
    default_epochs,
    epochs_per_validation,
    is_no_worse,
    last_step,
    learning_rate_at,
    note_of_result,
    watched_views,
)
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks, StepReport
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.pipeline import run_distillation
from msd_deploy.views import View

PLAN = TrainingPlan(
    phase="teacher",
    epochs=6,
    batch_size=64,
    learning_rate=1e-8,  # so low that no metric changes
    weight_decay=0.0,
    warmup_share=0.0,
    seed=0,
    log_every=1,
    checkpoint_seconds=1e9,
    key="",
)


def test_the_learning_rate_of_an_early_end_falls_linearly_to_0_in_a_fifth_of_the_steps() -> None:
    plan = replace(PLAN, learning_rate=2.0)
    assert last_step(1000, None) == 1000
    assert last_step(1000, 100) == 120
    rates = [learning_rate_at(step, 1000, plan, cooldown_from=100) for step in range(121)]
    whole = [learning_rate_at(step, 1000, plan) for step in range(101)]
    assert rates[:101] == whole
    assert rates[100:] == pytest.approx(np.linspace(whole[100], 0, 21))


def test_an_early_end_is_never_later_than_the_planned_one() -> None:
    assert last_step(110, 100) == 110
    assert last_step(100, 1) == 2


@pytest.mark.parametrize(
    ("metric", "best", "examples", "expected"),
    [
        (0.86, 0.864, 500, True),  # standard error of the difference: 2.2 points
        (0.84, 0.864, 500, False),
        (0.75, 1.0, 4, True),  # 4 of 4 is no certainty
        (0.5, 1.0, 4, False),
        (0.4, 0.5, 50, True),
        (0.864, 0.864, 10**6, True),
        (0.863, 0.864, 10**6, False),
    ],
)
def test_a_metric_is_no_worse_within_a_standard_error(
    metric: float, best: float, examples: int, expected: bool
) -> None:
    assert is_no_worse(metric, best, examples) == expected


def test_few_examples_are_seen_a_hundred_times_at_most() -> None:
    assert default_epochs("teacher", 40, 64, 1) == 100
    assert default_epochs("student", 400, 64, 7) == 100
    assert default_epochs("teacher", 500, 64, 8) == 94
    assert default_epochs("student", 700, 64, 11) == 91


def test_single_views_decide_too_where_they_are_trained() -> None:
    assert watched_views("one-se", "student", trains_single_views=True) == tuple(View)
    assert watched_views("one-se", "student", trains_single_views=False) == (View.MULTIMODAL,)
    assert watched_views("best", "student", trains_single_views=True) == (View.MULTIMODAL,)
    assert watched_views("best", "adaptation", trains_single_views=False) == tuple(View)


def _train(
    model: FusionForClassification, data: PreparedData, folder: Path, plan: TrainingPlan
) -> tuple[TrainingResult, list[StepReport]]:
    folder.mkdir(exist_ok=True)
    reports: list[StepReport] = []
    job = TrainingJob(
        model,
        LabelObjective(0.0),
        data,
        plan,
        checkpoints=folder / "checkpoints",
        history=History(folder / "history.jsonl"),
        hooks=Hooks(on_step=reports.append),
    )
    return train(job), reports


def test_a_training_whose_metric_does_not_rise_ends_early(
    tiny_model: FusionForClassification, memes: tuple[PreparedData, Preprocessor], tmp_path: Path
) -> None:
    result, reports = _train(tiny_model, memes[0], tmp_path, replace(PLAN, epochs=20, patience=2))
    # The first validation is the best one; after two more, 3 epochs of 2 steps, one step follows.
    assert [report.step for report in reports] == list(range(1, 8))
    assert [report.steps for report in reports] == [*[40] * 6, 7]
    assert result == TrainingResult(epochs=4, planned_epochs=20, kept_epoch=4)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "split" in line] == [1, 2, 3, 4]


def test_patience_0_trains_to_the_end(
    tiny_model: FusionForClassification, memes: tuple[PreparedData, Preprocessor], tmp_path: Path
) -> None:
    result, reports = _train(tiny_model, memes[0], tmp_path, replace(PLAN, epochs=4, patience=0))
    assert len(reports) == 8
    assert result == TrainingResult(epochs=4, planned_epochs=4, kept_epoch=4)


@pytest.mark.parametrize(("keep", "epoch"), [("last", 3), ("best", 1), ("one-se", 3)])
def test_of_equal_epochs_best_keeps_the_first_and_one_se_the_last(
    tiny_model: FusionForClassification,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path: Path,
    keep: Keep,
    epoch: int,
) -> None:
    result, _ = _train(tiny_model, memes[0], tmp_path, replace(PLAN, epochs=3, keep=keep))
    assert result.kept_epoch == epoch


def test_the_kept_epochs_weights_are_restored(
    tiny_model: FusionForClassification, memes: tuple[PreparedData, Preprocessor], tmp_path: Path
) -> None:
    state = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    _train(tiny_model, memes[0], tmp_path / "a", replace(PLAN, epochs=3, keep="best"))
    kept = tiny_model.state_dict()
    torch.manual_seed(0)
    other = FusionForClassification(tiny_model.config)
    other.load_state_dict(state)
    _train(other, memes[0], tmp_path / "b", replace(PLAN, epochs=3, keep="last"))
    names = [name for name in kept if name.endswith("running_mean")]
    assert names
    assert not any(torch.equal(kept[name], other.state_dict()[name]) for name in names)


def test_a_note_says_what_ended_early_and_what_is_kept() -> None:
    assert note_of_result(TrainingResult(8, 8, 8)) is None
    assert note_of_result(TrainingResult(30, 94, 28)) == (
        "training ended after 30 of 94 epochs, as the validation metric no longer rose;"
        " epoch 28 of 30 is kept by the validation metric"
    )


class _StopAt:
    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("stops", [(8,), (9, 1), (10,), (10, 9, 1)])
def test_a_run_that_ends_early_resumes_to_the_same_bits(
    small_config: RunConfig, early_run: RunDirectory, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    run = RunDirectory(tmp_path / "run")
    for index, step in enumerate(stops):
        hooks = RunHooks(training=Hooks(should_stop=_StopAt(step)))
        with pytest.raises(StoppedError):
            run_distillation(_early(small_config), run, resume=index > 0, hooks=hooks)
    run_distillation(_early(small_config), run, resume=True)
    for folder in ("teacher", "student"):
        digests = [
            sha256_of_file(each.root / folder / "model.safetensors") for each in (run, early_run)
        ]
        assert digests[0] == digests[1]
    assert run.history.read_text() == early_run.history.read_text()


def _early(config: RunConfig) -> RunConfig:
    """Return a run that ends early: its learning rates are so low that nothing is learned."""
    return replace(
        config,
        teacher=replace(config.teacher, epochs=10, learning_rate=1e-8),
        distill=replace(config.distill, epochs=10, learning_rate=1e-8, patience=1),
    )


@pytest.fixture(scope="module")
def early_run(tmp_path_factory: pytest.TempPathFactory, small_config: RunConfig) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "early")
    notes: list[str] = []
    run_distillation(
        _early(small_config), run, hooks=RunHooks(stages=StageHooks(on_note=notes.append))
    )
    early = [note for note in notes if "no longer rose" in note]
    assert len(early) == 2, notes  # the teacher's and the student's
    return run


@pytest.mark.parametrize("patience", [None, 0])
def test_a_run_without_early_stopping_can_be_read(patience: Literal[0] | None) -> None:
    config = RunConfig(distill=DistillConfig(keep="last", patience=patience))
    assert config_from_json(config_as_json(config)) == config


def test_many_epochs_are_validated_20_to_40_times() -> None:
    for epochs in range(20, 500):
        assert 20 <= epochs // epochs_per_validation(epochs) < 40
