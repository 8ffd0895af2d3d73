"""What the options say and refuse, in this process: nothing here gets as far as the work."""

import importlib.util
import shlex
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from msd_cli.console import new_table
from msd_cli.main import app
from msd_cli.settings import default_run_folder
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.parsing import with_options
from msd_deploy.config.run import RunConfig
from msd_deploy.config.setting import declarations
from msd_deploy.errors import ConfigError, RuntimeUnavailableError
from msd_export.config import ExportConfig
from msd_export.formats import FORMATS, PRECISIONS
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import command_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STUDENT = {
    *("student", "method", "image_weight", "text_weight", "temperature", "alpha"),
    *("epochs", "batch_size", "learning_rate"),
    "weighting",
    "loss",
    *("student_text", "student_vision", "text_layers"),
}


def command_of(name: str) -> typer.core.TyperCommand:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands[name]
    assert isinstance(command, typer.core.TyperCommand)
    return command


def options_of(name: str) -> list[typer.core.TyperOption]:
    return [item for item in command_of(name).params if isinstance(item, typer.core.TyperOption)]


COMMANDS = ("distill", "export", "bench", "evaluate", "predict", "doctor")


@pytest.mark.parametrize(
    "line",
    [
        "distill --examples 49",
        "distill --image-size 8",
        "distill --teacher-epochs 0",
        "distill --image-weight -1",
        "distill --text-weight 1001",
        "distill --temperature 0",
        "distill --hint-weight -1",
        "distill --relation-weight 1001",
        "distill --alpha 1.5",
        "distill --epochs 0",
        "distill --batch-size 0",
        "distill --learning-rate nan",
        "distill --seed -1",
        "distill --patience -1",
        "teacher --out nowhere --patience 10001",
        "export nowhere --max-drop 101",
        "export nowhere --examples 0",
        "bench nowhere --threads 0",
        "bench nowhere --examples 0",
        "bench nowhere --rounds 0",
        "bench nowhere --warm-up -1",
        "bench nowhere --runs 4",
        "bench nowhere --most-seconds 0",
        "bench nowhere --batch-size 0",
        "bench nowhere --batches 0",
        "evaluate nowhere --threads 257",
        "compare --dropout 2",
        "compare --seeds 1001",
        "compare --first-seed 1000001",
        "compare --jobs 1025",
        "compare --labelled-share 0",
    ],
)
def test_an_option_out_of_range_is_a_usage_error(line: str) -> None:
    words = line.split()
    answer = CliRunner(env={"COLUMNS": "100"}).invoke(app, words)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert f"Invalid value for {words[-2]}: must lie between" in answer.stderr


def test_export_lists_target_and_precision_first() -> None:
    assert [item.name for item in options_of("export")][:2] == ["target", "precision"]


def test_no_class_to_print_is_a_usage_error() -> None:
    answer = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["predict", "nowhere", "--top", "0"])
    assert answer.exit_code == 2
    assert "--top" in answer.stderr


@pytest.mark.parametrize(
    ("methods", "message"),
    [("foo", "unknown method 'foo'"), ("kd,kd", "each method once"), (",", "at least one method")],
)
def test_methods_that_cannot_be_compared_are_a_usage_error(methods: str, message: str) -> None:
    answer = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["compare", "--methods", methods])
    assert answer.exit_code == 2
    assert "Invalid value for --methods" in answer.stderr
    assert message in answer.stderr


def test_a_method_that_the_file_contradicts_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[distill]\ntext_weight = 0\n")
    line = ["compare", "--config", str(file), "--methods", "msd-meta"]
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, line)
    assert answer.exit_code == 2
    assert (
        "--methods: msd-meta conflicts with the settings: distill.weighting meta" in answer.stderr
    )


def test_a_tracker_that_is_not_here_is_named_with_its_command(tmp_path: Path) -> None:
    missing = next(n for n in ("aim", "swanlab", "dvclive") if importlib.util.find_spec(n) is None)
    line = ["distill", "--tracker", missing, "--out", str(tmp_path / "run")]
    answer = CliRunner().invoke(app, line)
    assert isinstance(answer.exception, RuntimeUnavailableError)
    assert answer.exception.exit_code == 1
    assert f"tracker: {missing} is not installed. " in str(answer.exception)
    assert f"`pip install {missing}`" in str(answer.exception)
    assert not (tmp_path / "run").exists()
    assert CliRunner().invoke(app, ["distill", "--tracker", "diary"]).exit_code == 2


def test_the_same_value_in_a_file_is_an_error_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[distill]\nepochs = 0\n")
    answer = CliRunner().invoke(app, ["distill", "--config", str(file), "--alpha", "0.5"])
    assert isinstance(answer.exception, ConfigError)
    assert answer.exception.exit_code == 1
    assert f"{file}: distill.epochs: must lie between 1 and 10000, not 0" in str(answer.exception)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("distill --resume", "--resume: needs --out"),
        ("distill --resume --out x --dry-run", "--dry-run: cannot be combined with --resume"),
        (
            "export nowhere --target coreml --precision int4",
            "--precision: coreml supports none of the",
        ),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(line: str, message: str) -> None:
    answer = CliRunner(env={"COLUMNS": "100"}).invoke(app, line.split())
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_the_export_command_names_every_target_and_precision() -> None:
    helps = {option.name: str(option.help) for option in options_of("export")}
    assert all(name in helps["target"] for name in FORMATS)
    assert all(name in helps["precision"] for name in PRECISIONS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_with_a_value_shows_its_default(name: str) -> None:
    for option in options_of(name):
        shown = isinstance(option.show_default, str) or option.default is not None
        assert option.is_flag or shown, option.opts


def test_the_students_options_stand_in_the_students_panel() -> None:
    panels = {option.name: option.rich_help_panel for option in options_of("distill")}
    assert {name for name, panel in panels.items() if panel == "Student"} == STUDENT


def test_a_reports_command_means_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting differs from its default, so that none is left out."""
    monkeypatch.chdir(tmp_path)
    default = BenchConfig()
    changes = {
        field.name: 7 if field.default is None else field.default * 2 for field in fields(default)
    }
    for config in (default, replace(default, **changes)):
        for folder in ("runs/my memes", "-run"):
            words = shlex.split(command_line(RunDirectory(tmp_path / folder), config))
            assert words[:2] == ["msd", "bench"]
            parsed = command_of("bench").make_context("bench", words[2:]).params
            assert parsed["run"].resolve() == tmp_path / folder
            given = {field.name: parsed[field.name] for field in fields(default)}
            given["runtimes"] = given["runtimes"] and tuple(given["runtimes"].split(","))
            read = with_options(BenchConfig(), given)
            assert read == config


def test_a_long_name_in_a_table_is_broken_and_not_cut() -> None:
    table = new_table("Classes", "class", "probability")
    table.add_row("a_label_of_one_word_that_is_wider_than_the_terminal", "93.1%")
    console = Console(width=30, file=StringIO())
    console.print(table)
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert shown.count("_") == "a_label_of_one_word_that_is_wider_than_the_terminal".count("_")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("synthetic:memes", "memes"),
        ("easy-vqa", "easy-vqa"),
        ("photos/rows.jsonl", "rows"),
        ("photos/rows.csv", "rows"),
        ("photos/rows.TSV", "rows"),
        ("photos/rows.parquet", "rows"),
        ("hateful-memes:/data/memes", "hateful-memes"),
        ("/no/data/set", "set"),
        (f"{'x' * 244}.jsonl", "x" * 200),
        (f"{'é' * 120}.csv", "é" * 100),
        (f"a{'é' * 120}.csv", "a" + "é" * 99),
    ],
)
def test_a_run_without_out_is_named_after_its_data(spec: str, name: str) -> None:
    assert default_run_folder(spec) == Path("runs") / name


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("distill", RunConfig),
        ("teacher", TeachingConfig),
        ("export", ExportConfig),
        ("bench", BenchConfig),
    ],
)
def test_the_help_of_every_setting_is_shown_whole(
    name: str, config: "type[DataclassInstance]"
) -> None:
    """An extra in brackets is not markup."""
    shown = CliRunner(env={"COLUMNS": "500"}).invoke(app, [name, "--help"]).stdout
    text = " ".join(shown.replace("│", " ").split())
    names = {option.opts[0] for option in options_of(name)}
    settings = [item for item in declarations(config) if item.option and item.option.name in names]
    assert settings
    for item in settings:
        assert item.setting.help in text
