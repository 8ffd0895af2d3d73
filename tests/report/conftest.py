"""Shared fixtures of the report: runs of a data set with markup in its texts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.synthetic.tasks import MEMES_LABELS
from msd_deploy.pipeline import run_distillation

LABELS = ("<b>benign</b>", 'hateful & "so on" </svg><script>alert(1)</script>')


@pytest.fixture(scope="session")
def hostile_data(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> Path:
    """400 generated memes as a FILE.jsonl, markup in every text and label; some lack a modality."""

    def make_hostile(index: int, line: dict[str, str]) -> None:
        markup = f"</p><img src=x onerror=alert({index})>"
        line["text"] = f"{line['text']} {markup} {'word ' * (index % 90)}"
        line["label"] = LABELS[MEMES_LABELS.index(line["label"])]
        if index % 20 in (3, 4):
            del line["image" if index % 20 == 3 else "text"]

    return write_memes(tmp_path_factory.mktemp("data"), 400, make_hostile)


@pytest.fixture(scope="session")
def msd_run(hostile_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of MSD whose weights differ from example to example."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "<i>msd")
    run_distillation(msd_config(hostile_data), run)
    return run


@pytest.fixture(scope="session")
def kd_run(
    hostile_data: Path, msd_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A run of plain distillation from the same teacher."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "kd")
    config = msd_config(hostile_data)
    distill = replace(config.distill, method="kd", weighting="fixed")
    run_distillation(replace(config, distill=distill, teacher=TeacherConfig(msd_run.teacher)), run)
    return run


def msd_config(data: Path) -> RunConfig:
    return RunConfig(
        data=DataConfig(spec=str(data)),
        teacher=TeacherConfig(epochs=12),
        distill=DistillConfig(epochs=2, log_every=1, weighting="instance"),
    )
