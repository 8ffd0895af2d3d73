"""Reports name runs and repeat commands without a folder of this machine."""

import shlex
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.describe import shown_command, shown_path
from msd_deploy.report.distillation import ReportConfig, command_line
from msd_deploy.report.predictions import unique_names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def _names(*roots: Path | str) -> list[str]:
    return unique_names([RunDirectory(Path(root)) for root in roots])


def test_a_run_is_named_by_the_shortest_end_of_its_path(here: Path) -> None:
    assert _names(here / "a/kd") == ["kd"]
    assert _names(here / "a/kd", here / "b/msd") == ["kd", "msd"]


def test_runs_of_one_name_are_distinguished_by_the_ends_of_their_paths(here: Path) -> None:
    assert _names(here / "a/run", "b/run", "b/other") == ["a/run", "b/run", "other"]
    assert _names("a/x/run", "b/x/run") == ["a/x/run", "b/x/run"]


def test_a_run_whose_path_is_the_end_of_anothers_has_a_name() -> None:
    first, second = _names("/run", "/deep/run")
    assert first != second
    assert second == "deep/run"


def test_a_path_in_the_working_folder_is_relative(here: Path) -> None:
    assert shown_path(here / "runs" / "memes") == "runs/memes"
    assert shown_path(Path("runs/../memes")) == "memes"
    assert shown_path(here) == "."


def test_a_path_outside_the_working_folder_is_its_last_part(here: Path) -> None:
    assert shown_path(here.parent / "runs" / "memes") == "memes"
    assert shown_path(Path("../runs/memes")) == "memes"


def test_a_path_is_not_taken_for_an_option(here: Path) -> None:
    assert shown_path(here / "-run") == "./-run"
    assert shown_path(here.parent / "-run") == "./-run"


def test_the_reports_command_repeats_it() -> None:
    config = ReportConfig("validation", Path("my page.html"))
    command = command_line([RunDirectory(Path("runs/a b"))], config)
    assert command == "msd report 'runs/a b' --split validation --out 'my page.html' --overwrite"


def test_the_reports_command_states_no_folder_of_this_machine(here: Path) -> None:
    runs = [RunDirectory(here.parent / "else/msd"), RunDirectory(here / "-kd")]
    command = command_line(runs, ReportConfig(out=here.parent / "pages/both.html"))
    assert command == "msd report msd ./-kd --out both.html --overwrite"


def test_the_reports_command_distinguishes_runs_of_one_name(here: Path) -> None:
    roots = (here / "run", here.parent / "b/run", here.parent / "c/run")
    command = command_line([RunDirectory(root) for root in roots], ReportConfig())
    assert command == "msd report run b/run c/run"


def test_a_typed_command_keeps_all_but_the_folders_of_this_machine(here: Path) -> None:
    outside, inside = here.parent / "data/my memes.jsonl", here / "runs/study"
    typed = ["msd", "compare", "--data", str(outside), f"--out={inside}", "--methods", "kd,none"]
    told = ["--data", "my memes.jsonl", "--out=runs/study", "--methods", "kd,none"]
    assert shlex.split(shown_command(typed)) == ["msd", "compare", *told]
    assert shown_command(["msd", "compare", "--config", "../../a/b.toml"]).endswith(" b.toml")
    kept = ["msd", "compare", "--data", "synthetic:memes", "--out", "runs/x"]
    assert shown_command(kept) == shlex.join(kept)
