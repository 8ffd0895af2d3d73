"""`write_distillation_report`: what distillations did, as distillation.json and one HTML page."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msd_deploy.artifacts import RunDirectory, write_json, write_text
from msd_deploy.errors import ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.report.answers import read_answers, unique_names
from msd_deploy.report.commands import told_path
from msd_deploy.report.distillation_page import render_distillation
from msd_deploy.report.figures import figures_of
from msd_deploy.report.output import check_output
from msd_deploy.report.schema import DistillationJson
from msd_deploy.report.thumbnails import thumbnails_of

HTML_NAME = "distillation.html"
_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What is reported, and where it goes."""

    split: Literal["test", "validation"] = "test"
    """Whose rows are looked at."""
    out: Path | None = None
    """The page; its figures go beside it as JSON. None: the first run's reports."""
    overwrite: bool = False
    """Replace `out` and an earlier report's JSON beside it; a run's own are always replaced."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix.lower() not in _SUFFIXES:
            raise ConfigError(
                f"must end in .html, not {self.out.name!r}",
                where="--out",
                fix="The figures go beside it, with the ending .json",
            )


def write_distillation_report(
    runs: Sequence[RunDirectory], config: ReportConfig, hooks: StageHooks | None = None
) -> tuple[Path, DistillationJson]:
    """Write the page and its figures.

    Args:
        runs: Finished runs of one data set and one teacher, at least one.
        config: What and where.
        hooks: Progress.

    Returns:
        The page's path, and the content of the JSON file beside it.

    Raises:
        ArtifactError: A run cannot be reported, or the page may not be written; see `check_output`.
        DataError: The data set is not there or has changed.
    """
    hooks = hooks or StageHooks()
    page = config.out or runs[0].reports / HTML_NAME
    figures_path = page.with_suffix(".json")
    if config.out is not None:
        check_output(page, figures_path, runs, overwrite=config.overwrite)
    answers = read_answers(runs, split=config.split, hooks=hooks)
    hooks.on_stage("Drawing")
    report = figures_of(answers, command=command_line(runs, config))
    thumbnails = thumbnails_of(answers, report["examples"])
    write_text(page, render_distillation(report, thumbnails))
    write_json(figures_path, report)
    return page, report


def command_line(runs: Sequence[RunDirectory], config: ReportConfig) -> str:
    """Return the command that writes the report again; runs of one name stay apart in it."""
    named = zip(runs, unique_names(runs), strict=True)
    folders = [told_path(run.root, outside=name) for run, name in named]
    options = [] if config.split == "test" else ["--split", config.split]
    out = [] if config.out is None else ["--out", told_path(config.out), "--overwrite"]
    return shlex.join(["msd", "report", *folders, *options, *out])
