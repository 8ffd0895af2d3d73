"""A dry run states what the run then trains, and writes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.errors import ArtifactError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.pipeline import dry_run_distillation, run_distillation


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_planned_is_what_the_run_trained(
    finished_run: RunDirectory, small_config: RunConfig, tmp_path: Path
) -> None:
    planned: Any = dry_run_distillation(small_config, RunDirectory(tmp_path / "run"))
    record = json.loads(finished_run.run_json.read_text())
    assert planned["data"]["digest"] == record["dataset_digest"]
    examples = {name: split["examples"] for name, split in planned["data"]["splits"].items()}
    assert examples == record["examples"]
    metrics = json.loads(finished_run.metrics.read_text())
    for model in ("teacher", "student"):
        assert planned[model]["parameters"] == metrics[model]["parameters"]
    history = [json.loads(line) for line in finished_run.history.read_text().splitlines()]
    for phase, training in planned["trainings"].items():
        lines = [line for line in history if line["phase"] == phase]
        assert training["steps"] == max(line["step"] for line in lines)
        assert training["epochs"] == max(line["epoch"] for line in lines)
    assert planned["estimate"]["seconds"] > 0
    assert planned["estimate"]["peak_memory_bytes"] > 50e6


def test_nothing_is_written(small_config: RunConfig, tmp_path: Path) -> None:
    dry_run_distillation(small_config, RunDirectory(tmp_path / "run"))
    assert files_in(tmp_path) == []


def test_rows_are_counted_by_what_they_lack(
    tmp_path: Path, write_memes: Callable[..., Path]
) -> None:
    def change(index: int, line: dict[str, str]) -> None:
        line["split"] = ("train", "validation", "test")[index % 3]
        if index % 12 == 0:
            del line["image"]
        if index % 12 == 3:
            del line["text"]
        if index % 12 == 6:
            del line["label"]
        if index == 9:
            line["image"] = "nowhere.png"

    path = write_memes(tmp_path, 72, change)
    config = RunConfig(data=DataConfig(spec=str(path)))
    data: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))["data"]
    assert data["splits"]["train"] == {
        "examples": 23,
        "without_image": 6,
        "without_text": 6,
        "without_label": 6,
    }
    labelled = {
        name: split["examples"] - split["without_label"] for name, split in data["splits"].items()
    }
    for name, count in labelled.items():
        assert sum(counts[name] for counts in data["classes"].values()) == count
    assert len(data["skipped_rows"]) == 1
    assert "memes.jsonl:10" in data["skipped_rows"][0]


@pytest.mark.parametrize(
    "distill",
    [
        DistillConfig(weighting="meta", meta_rows="train", keep="best", patience=2),
        DistillConfig(weighting="instance", hint_weight=1.0),
        DistillConfig(method="none"),
    ],
    ids=["meta", "instance", "labels"],
)
def test_every_method_is_tried(
    distill: DistillConfig, small_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(small_config, distill=distill)
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert list(planned["trainings"]) == ["teacher", "student"]


def test_a_run_that_continues_another_trains_what_is_left(
    finished_run: RunDirectory, small_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(
        small_config,
        teacher=TeacherConfig(path=finished_run.teacher),
        student=StudentConfig(start=finished_run.student),
        distill=DistillConfig(int8_epochs=2),
    )
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert {name: training["epochs"] for name, training in planned["trainings"].items()} == {
        "int8": 2
    }


def test_the_patience_of_each_training_is_that_of_the_run(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(small_config, distill=replace(small_config.distill, patience=3, int8_epochs=1))
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert {phase: training["patience"] for phase, training in planned["trainings"].items()} == {
        "teacher": 3,
        "student": 3,
        "int8": 0,
    }


def test_an_existing_run_is_refused_as_by_the_run(
    own_run: RunDirectory, small_config: RunConfig
) -> None:
    with pytest.raises(ArtifactError, match="--overwrite"):
        dry_run_distillation(small_config, own_run)
    dry_run_distillation(small_config, own_run, overwrite=True)
    assert own_run.metrics.is_file()


def test_it_can_be_stopped(small_config: RunConfig, tmp_path: Path) -> None:
    hooks = RunHooks(training=Hooks(should_stop=lambda: True))
    with pytest.raises(StoppedError, match="the dry run was stopped"):
        dry_run_distillation(small_config, RunDirectory(tmp_path / "run"), hooks=hooks)


def test_a_given_teacher_sees_its_own_inputs(
    finished_run: RunDirectory, small_config: RunConfig, tmp_path: Path
) -> None:
    config = replace(
        small_config,
        data=replace(small_config.data, image_size=32, max_length=8),
        teacher=TeacherConfig(path=finished_run.teacher),
    )
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert list(planned["trainings"]) == ["student"]
    assert planned["inputs"]["image_size"] == [32, 32]


def test_steps_are_counted_where_rows_share_images(
    tmp_path: Path, write_memes: Callable[..., Path]
) -> None:
    """Such rows stay in one batch, and a batch has a least number of images."""
    path = write_memes(tmp_path, 40)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    repeated = [{**row, "text": f"{row['text']} {n}"} for row in rows for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in repeated))
    config = RunConfig(
        data=DataConfig(spec=str(path)),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1, log_every=1),
    )
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    run = RunDirectory(tmp_path / "run")
    run_distillation(config, run)
    history = [json.loads(line) for line in run.history.read_text().splitlines()]
    for phase, training in planned["trainings"].items():
        assert training["steps"] == max(x["step"] for x in history if x["phase"] == phase)
        assert training["steps"] < training["examples"] / 64
