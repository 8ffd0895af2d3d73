"""At which learning rate a student is trained by default, and with which warm-up."""

from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import (
    DataConfig,
    RunConfig,
    StudentConfig,
    StudentSize,
    TeacherConfig,
)
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.run.stages import plan_of
from msd_deploy.run.task import read_task


@pytest.mark.parametrize(("size", "rate"), [("tiny", 4.5e-3), ("small", 3e-3), ("mobile", 3e-3)])
@pytest.mark.parametrize("requested", [None, 1e-3])
def test_the_learning_rate_is_the_requested_one_or_that_of_the_size(
    size: StudentSize, rate: float, requested: float | None, tmp_path: Path
) -> None:
    config = RunConfig(
        data=DataConfig(spec="synthetic:memes", examples=100),
        student=StudentConfig(size=size),
        distill=DistillConfig(learning_rate=requested),
    )
    task, _ = read_task(config, RunDirectory(tmp_path), StageHooks(), Hooks())
    plan = plan_of(task, "student", config.distill, None)
    assert plan.learning_rate == (requested or rate)


def test_teacher_and_student_have_a_warm_up_of_their_own(tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig(spec="synthetic:memes", examples=100),
        teacher=TeacherConfig(warmup_share=0.2),
        distill=DistillConfig(warmup_share=0.4),
    )
    task, _ = read_task(config, RunDirectory(tmp_path), StageHooks(), Hooks())
    assert plan_of(task, "teacher", config.teacher, None).warmup_share == 0.2
    assert plan_of(task, "student", config.distill, None).warmup_share == 0.4
