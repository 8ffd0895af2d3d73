import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory

Msd = Callable[..., Any]


@pytest.mark.slow
def test_report_writes_the_page_and_prints_the_figures(msd: Msd, own_run: RunDirectory) -> None:
    answer = msd("report", own_run.root, "--json")
    assert answer.code == 0, answer.stderr
    figures = json.loads((own_run.reports / "distillation.json").read_text(encoding="utf-8"))
    assert answer.json() == figures
    assert (own_run.reports / "distillation.html").read_text().startswith("<!doctype html>")
    assert "distillation.html. Open it in a browser" not in answer.stdout


def test_an_unfinished_run_is_exit_code_1(msd: Msd, own_run: RunDirectory) -> None:
    own_run.metrics.unlink()
    answer = msd("report", own_run.root)
    assert answer.code == 1
    assert "is unfinished" in answer.error()


def test_a_page_that_exists_is_kept(msd: Msd, own_run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    answer = msd("report", own_run.root, "--out", "mine.html")
    assert answer.code == 1
    assert "already exists" in answer.error()
    assert (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.parametrize("options", [("--out", "page.pdf"), ("--out", ""), ("--split", "train")])
def test_an_option_that_cannot_be_is_exit_code_2(
    msd: Msd, tmp_path: Path, options: tuple[str, str]
) -> None:
    assert msd("report", "anywhere", *options).code == 2


def test_a_run_is_needed(msd: Msd) -> None:
    assert msd("report").code == 2
