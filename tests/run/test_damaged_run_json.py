"""A damaged run.json is one line that names file and key, in every command that reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd_cli.settings import run_settings
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import RunConfig
from msd_deploy.errors import ArtifactError, ConfigError, DataError, MsdError
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.run.fine_tuning_folder import fine_tuning_config
from msd_deploy.run.record import naming_run_json
from msd_export.config import ExportConfig
from msd_export.opened_model import open_model
from msd_export.pipeline import export_student
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench

DIGEST = "0" * 64
SOUND: dict[str, Any] = {
    "schema_version": 1,
    "msd_deploy": "0.1.0",
    "created_utc": "2026-11-24T17:50:21+00:00",
    "seed": 0,
    "config": config_as_json(RunConfig()),
    "dataset_digest": DIGEST,
    "preprocess_digest": DIGEST,
    "teacher_digest": None,
    "start_digest": DIGEST,
    "examples": {"train": 200},
    "skipped_rows": ["rows.jsonl:5: no text"],
    "class_weights": {"by_class": {"a": 1.0}},
    "versions": {"torch": "2.13.0"},
}
VALUES = ("x", 5, -5, 1.5, True, None, [], [5], {}, {"a": -1}, {"a": "x"}, {"a": 1.0})
TABLES = [{}, {"a": -1}, {"a": "x"}, {"a": 1.0}]
# Of these values, those that a key may have.
VALID: dict[str, list[Any]] = {
    "msd_deploy": ["x"],
    "created_utc": ["x"],
    "seed": [5, -5],
    "config": TABLES,
    "teacher_digest": [None],
    "start_digest": [None],
    "examples": [{}],
    "skipped_rows": [[]],
    "class_weights": TABLES,
    "versions": [{}, {"a": "x"}],
}


def reads(run: RunDirectory) -> dict[str, Callable[[], object]]:
    """Everything that begins by reading a run's run.json."""
    out = run.root.with_name("new")
    empty: dict[str, object] = {}
    return {
        "--resume": lambda: run_settings(
            empty, config_file=None, out=run.root, resume=True, start=None
        ),
        "--from": lambda: run_settings(
            empty, config_file=None, out=out, resume=False, start=run.root
        ),
        "report": lambda: write_distillation_report([run], ReportConfig()),
        "export": lambda: export_student(run, ExportConfig((("onnx", "fp32"),))),
        "bench": lambda: run_bench(run, BenchConfig()),
        "predict": lambda: open_model(run.root),
    }


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has only what is read first."""
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    run.metrics.write_text("{}")
    return run


@pytest.mark.parametrize("key", [key for key in SOUND if key != "schema_version"])
def test_a_value_of_another_type_is_named_by_every_command(run: RunDirectory, key: str) -> None:
    for value in VALUES:
        run.run_json.write_text(json.dumps({**SOUND, key: value}))
        if any(value == valid and type(value) is type(valid) for valid in VALID.get(key, [])):
            assert run.read()[key] == value
            continue
        for read in reads(run).values():
            with pytest.raises(MsdError) as refused:
                read()
            assert str(refused.value).startswith(f"{run.run_json}: has no valid {key} (")


@pytest.mark.parametrize("key", ["config", "dataset_digest"])
def test_a_missing_value_that_commands_need_is_named(run: RunDirectory, key: str) -> None:
    run.run_json.write_text(json.dumps({k: v for k, v in SOUND.items() if k != key}))
    with pytest.raises(MsdError, match=rf"run\.json: has no valid {key} \(None\)"):
        run.read()


def test_an_older_run_and_keys_of_a_newer_version_are_read(run: RunDirectory) -> None:
    older = {key: SOUND[key] for key in ("schema_version", "config", "dataset_digest")}
    run.run_json.write_text(json.dumps({**older, "of_a_newer_version": [None]}))
    assert run.read()["of_a_newer_version"] == [None]


# Sound types, but values that are found to be wrong only when they are used.
SETTINGS = {
    "data.spec": ["nowhere", "synthetic:nothing", "hub:no/such", "a\0b", "/nowhere/rows.jsonl"],
    "data.image_column": ["picture"],
    "data.labels": [["a", "a"]],
    "data.tokenizer": ["/nowhere"],
    "student.vision": ["no/such"],
    "student.text": ["no/such"],
    "teacher.path": ["no/such"],
    "distill.standardize": [True],
}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_that_are_wrong_in_their_use_name_run_json(run: RunDirectory, key: str) -> None:
    section, name = key.split(".")
    for value in SETTINGS[key]:
        config = config_as_json(RunConfig())
        config[section][name] = value  # type: ignore[index]
        config["data"]["image_size"] = 16  # type: ignore[index]
        run.run_json.write_text(json.dumps({**SOUND, "config": config}))
        (settings, _) = reads(run)["--resume"]()  # type: ignore[misc]
        with pytest.raises(MsdError) as refused:
            run_distillation(settings, run, resume=True)
        assert str(run.run_json) in str(refused.value), refused.value


@pytest.mark.parametrize(
    ("error", "given", "is_named"),
    [
        (ConfigError("no", where="distill.loss"), ["distill.int8_epochs"], True),
        (ConfigError("no", where="distill.loss"), ["distill.loss"], False),
        (DataError("no", where="rows.jsonl:3"), ["distill.loss"], True),
        (DataError("no", where="rows.jsonl:3"), ["data.spec"], False),
        (ArtifactError("already exists", where="runs/new"), [], False),
    ],
)
def test_settings_of_options_are_not_those_of_run_json(
    run: RunDirectory, error: MsdError, given: list[str], is_named: bool
) -> None:
    """As for `--from RUN` with further options."""
    with pytest.raises(type(error)) as refused, naming_run_json(run, given=given):
        raise error
    assert (str(run.run_json) in str(refused.value)) == is_named
    assert is_named or refused.value is error


def test_a_damaged_setting_of_a_fine_tuning_names_its_file(tmp_path: Path) -> None:
    config = {"finetune": {"epochs": "x"}}
    (tmp_path / "training.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    with pytest.raises(
        ConfigError, match=r"training\.json: config\.finetune\.epochs: must be an integer"
    ):
        fine_tuning_config(tmp_path)
