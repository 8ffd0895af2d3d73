"""Learning for int8: the rounding, what it leaves behind, and a run that does it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.quantization_aware import (
    ActivationFakeQuantize,
    WeightFakeQuantize,
    fake_quantized,
)
from msd_deploy.errors import ArtifactError, ConfigError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StepReport
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.folders import load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.pipeline import run_distillation
from msd_deploy.study.config import StudyConfig
from msd_deploy.views import View

Memes = tuple[PreparedData, Preprocessor]


def test_a_rounded_weight_has_the_steps_of_each_channel() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] *= 100
    rounded = WeightFakeQuantize(64)(weight)
    steps = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 64
    integers = rounded / steps
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert integers.abs().max() == pytest.approx(64)
    assert ((rounded - weight).abs() <= steps / 2 * 1.0001).all()
    assert torch.allclose(WeightFakeQuantize(64)(rounded), rounded, rtol=1e-5)
    assert len(WeightFakeQuantize(4, per_channel=False)(weight).unique()) <= 9


def test_rounding_does_not_see_a_scale_that_is_folded_in() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator)
    scale = torch.tensor([0.1, -2.0, 30.0, 1.0, -0.3])[:, None]
    rounding = WeightFakeQuantize(127)
    assert torch.allclose(rounding(weight * scale), rounding(weight) * scale, rtol=1e-5)


def test_gradients_pass_straight_through_the_rounding() -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    (WeightFakeQuantize(64)(weight) * 3).sum().backward()
    assert torch.equal(weight.grad, torch.full((4, 6), 3.0))  # type: ignore[arg-type]
    values = torch.tensor([-1.0, 0.0, 0.4, 2.0], requires_grad=True)
    (ActivationFakeQuantize().train()(values) * 3).sum().backward()
    assert torch.equal(values.grad, torch.full((4,), 3.0))  # type: ignore[arg-type]


def test_the_range_of_an_activation_grows_at_once_and_shrinks_slowly() -> None:
    rounding = ActivationFakeQuantize().train()
    values = torch.linspace(-1, 3, 10_001)
    rounded = rounding(values)
    assert len(rounded.unique()) == 256
    assert 0.0 in rounded
    assert (rounded - values).abs().max() <= 4 / 255
    rounding(values / 10)
    assert rounding.high == pytest.approx(3 * 0.99)
    rounding(values * 2)
    assert (rounding.low, rounding.high) == (-2, 6)
    rounding.eval()(values * 9)
    assert rounding.high == 6
    assert rounding(values * 9).max() == pytest.approx(6, abs=0.05)


def logits_of(model: FusionForClassification, memes: Memes) -> torch.Tensor:
    split = memes[0].splits["validation"]
    with torch.no_grad():
        answers = model.logits_by_view(collate(split, np.arange(24)), View)
    return torch.cat([answers[view] for view in View])


EYES = [
    {"kind": "conv_stem", "channels": [8, 12, 16]},
    {"kind": "efficientnet_lite", "variant": "lite0"},
]


@pytest.mark.parametrize("vision", EYES, ids=["stem", "lite0"])
def test_a_model_is_one_of_rounded_floats_afterwards(
    vision: dict[str, object], memes: Memes
) -> None:
    torch.manual_seed(0)
    config = FusionConfig(vision=vision, vocab_size=300, max_text_length=16, num_labels=2)
    model = FusionForClassification(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = logits_of(model, memes)
    with fake_quantized(model):
        model.train()
        first = logits_of(model, memes)  # sets the ranges
        model.eval()
        inside = logits_of(model, memes)
    after = model.state_dict()
    assert set(after) == set(before)
    for name, module in model.named_modules():
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
        if isinstance(module, nn.BatchNorm2d):  # its averages are those that exports fold in
            assert torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"])
            assert all(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, nn.Linear | nn.Conv2d):
            rows = module.weight.detach().flatten(1)
            assert all(len(row.abs().unique()) <= 128 for row in rows), name
            assert isinstance(module.weight, nn.Parameter)
    assert not torch.equal(first, plain)
    outside = logits_of(model, memes)
    assert 0 < (outside - inside).abs().mean() < 0.2 * plain.std()


def test_an_error_inside_leaves_a_model_that_works(
    tiny_model: FusionForClassification, memes: Memes
) -> None:
    with pytest.raises(ValueError, match="of the caller"), fake_quantized(tiny_model):
        raise ValueError("of the caller")
    assert not any("rounding" in name for name, _ in tiny_model.named_modules())
    assert logits_of(tiny_model, memes).isfinite().all()


@pytest.fixture
def for_int8(small_config: RunConfig) -> RunConfig:
    return replace(small_config, distill=replace(small_config.distill, int8_epochs=2))


class _StopIn:
    """Stops at a step of a phase."""

    def __init__(self, phase: str, step: int) -> None:
        self.wanted, self.seen = (phase, step), ("", 0)

    def hooks(self) -> RunHooks:
        return RunHooks(training=Hooks(self._on_step, lambda: self.seen == self.wanted))

    def _on_step(self, report: StepReport) -> None:
        self.seen = (report.phase, report.step)


@pytest.mark.parametrize("weighting", ["fixed", "meta"])
def test_a_run_that_is_stopped_in_any_phase_resumes_to_the_same_bits(
    for_int8: RunConfig, tmp_path: Path, weighting: str
) -> None:
    config = replace(for_int8, distill=replace(for_int8.distill, weighting=weighting))
    whole, stopped = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "stopped")
    run_distillation(config, whole)
    for index, (phase, step) in enumerate([("student", 3), ("int8", 2), ("int8", 7)]):
        with pytest.raises(StoppedError, match="a checkpoint is saved"):
            run_distillation(config, stopped, resume=index > 0, hooks=_StopIn(phase, step).hooks())
    metrics = run_distillation(config, stopped, resume=True)
    trained = read_json(stopped.student / "manifest.json")["training"]
    assert trained == read_json(whole.student / "manifest.json")["training"]
    assert isinstance(trained, dict)
    assert list(trained) == ["student", "int8"]
    assert [counts["epochs"] for counts in trained.values()] == [2, 2]
    assert metrics["student"]["training"] == trained  # type: ignore[index]
    assert list(metrics["teacher"]["training"]) == ["teacher"]  # type: ignore[index]
    assert (whole.student / "model.safetensors").read_bytes() == (
        stopped.student / "model.safetensors"
    ).read_bytes()
    lines = [run.history.read_text() for run in (whole, stopped)]
    assert lines[0] == lines[1]
    phases = [json.loads(line)["phase"] for line in lines[0].splitlines()]
    assert phases.count("int8") == 10  # 4 steps a pass, two passes, each validated
    assert not whole.checkpoints.exists()


@pytest.fixture
def going_on(small_config: RunConfig, finished_run: RunDirectory) -> RunConfig:
    """Settings that go on from the finished run."""
    return replace(
        small_config,
        teacher=replace(small_config.teacher, path=finished_run.teacher),
        student=replace(small_config.student, start=finished_run.student),
        distill=replace(small_config.distill, epochs=None, int8_epochs=1),
    )


def test_a_run_goes_on_from_a_finished_student(
    going_on: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    metrics = run_distillation(going_on, run)
    phases = {json.loads(line)["phase"] for line in run.history.read_text().splitlines()}
    assert phases == {"int8"}
    start, student = load_model(finished_run.student), load_model(run.student)
    assert student.preprocessor.digest() == start.preprocessor.digest()
    assert run.read()["start_digest"] == start.digest != student.digest
    assert metrics["metric"] == "accuracy"
    assert list(metrics["student"]["training"]) == ["int8"]  # type: ignore[index]
    assert "training" not in metrics["teacher"]  # type: ignore[operator]


def test_a_student_that_changes_meanwhile_is_rejected(
    going_on: RunConfig, own_run: RunDirectory, tmp_path: Path
) -> None:
    config = replace(going_on, student=replace(going_on.student, start=own_run.student))
    run = RunDirectory(tmp_path / "new")
    with pytest.raises(StoppedError):
        run_distillation(config, run, hooks=_StopIn("int8", 1).hooks())
    again = replace(going_on, seed=5)
    other = RunDirectory(tmp_path / "other")
    run_distillation(again, other)
    for file in own_run.student.iterdir():
        file.unlink()
    for file in other.student.iterdir():
        (own_run.student / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ArtifactError, match="the student that it starts from has changed"):
        run_distillation(config, run, resume=True)


def test_a_student_of_a_different_task_is_rejected(going_on: RunConfig, tmp_path: Path) -> None:
    config = replace(
        going_on,
        data=DataConfig(spec="synthetic:posters", examples=200),
        teacher=replace(going_on.teacher, path=None),
    )
    with pytest.raises(ArtifactError, match="student: was trained for a different task: single"):
        run_distillation(config, RunDirectory(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_study_compares_students_that_learn_in_float(for_int8: RunConfig) -> None:
    with pytest.raises(ConfigError, match="in floating point"):
        StudyConfig(base=for_int8)
