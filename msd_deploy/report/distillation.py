"""`write_distillation_report`: a report on runs, as an HTML page and JSON beside it.

Output paths are checked before any work.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import json_text, read_json, write_texts
from msd_deploy.artifacts.output import ANOTHER_OUT, check_output
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.describe import shown_path
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.report.examples import thumbnails_of
from msd_deploy.report.figures import figures_of
from msd_deploy.report.page import render_distillation
from msd_deploy.report.predictions import read_outputs, unique_names
from msd_deploy.report.schema import DistillationJson

KIND = "distillation"
HTML_NAME = "distillation.html"
_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """Settings of a report."""

    split: Literal["test", "validation"] = "test"
    """Split that is reported."""
    out: Path | None = None
    """Path of the page, with its JSON file beside it. None: the reports of the first run."""
    overwrite: bool = False
    """Replace `out` and its JSON file; in a run's own reports they are always replaced."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix.lower() not in _SUFFIXES:
            suggested = self.out.with_suffix(".html") if self.out.name else "report.html"
            raise ConfigError(
                f"must end in .html, not {self.out.name!r}",
                where="--out",
                fix=f"Use --out {suggested}",
            )


def write_distillation_report(
    runs: Sequence[RunDirectory], config: ReportConfig, hooks: StageHooks | None = None
) -> tuple[Path, DistillationJson]:
    """Write a report on runs as a page and a JSON file beside it.

    Args:
        runs: Finished runs of one data set and one teacher, at least one.
        config: Settings of the report.
        hooks: Progress.

    Returns:
        The page's path, and the content of the JSON file.

    Raises:
        ArtifactError: A run cannot be reported, or is in use; or the page may not be written; see
            `check_report_output`.
        DataError: The data set is missing or has changed.
    """
    hooks = hooks or StageHooks()
    page = config.out or runs[0].reports / HTML_NAME
    figures_path = page.with_suffix(".json")
    with claimed(page):
        if config.out is not None:
            check_report_output(page, figures_path, runs, overwrite=config.overwrite)
        outputs = read_outputs(runs, split=config.split, hooks=hooks)
        hooks.on_stage("Writing the report")
        report = figures_of(outputs, command=command_line(runs, config))
        thumbnails = thumbnails_of(outputs, report["examples"])
        write_texts(
            {
                figures_path: json_text(report, indent=2),
                page: render_distillation(report, thumbnails),
            }
        )
        return page, report


def command_line(runs: Sequence[RunDirectory], config: ReportConfig) -> str:
    """Return the command that reproduces the report, with a unique path of each run."""
    named = zip(runs, unique_names(runs), strict=True)
    folders = [shown_path(run.root, outside=name) for run, name in named]
    options = [] if config.split == "test" else ["--split", config.split]
    out = [] if config.out is None else ["--out", shown_path(config.out), "--overwrite"]
    return shlex.join(["msd", "report", *folders, *options, *out])


def check_report_output(
    page: Path, figures: Path, runs: Sequence[RunDirectory], *, overwrite: bool
) -> None:
    """Check that a page and its JSON file may be written to paths chosen by the user.

    The user has not named the JSON file, which is derived from the page: an existing one is
    replaced only if it is an earlier report.

    Raises:
        ArtifactError: A path exists and may not be replaced, is in a run but not in its reports, or
            cannot be created.
    """
    for run in runs:
        _refuse_inside(run, page)
    fix = f"{ANOTHER_OUT}, or replace it with --overwrite"
    for path, kind, is_kind in (
        (page, "page", True),
        (figures, "JSON file of an earlier report", _is_report(figures)),
    ):
        if path.is_dir():
            raise ArtifactError("is a folder", where=path, fix="Use --out with a file name")
        check_output(path, kind, is_kind=is_kind, overwrite=overwrite, fix=fix)


def _refuse_inside(run: RunDirectory, page: Path) -> None:
    folder = page.parent.resolve()
    is_inside = folder.is_relative_to(run.root.resolve())
    if is_inside and not folder.is_relative_to(run.reports.resolve()):
        raise ArtifactError(
            f"is in the run {run.root}, whose own files a report must not replace",
            where=page,
            fix=f"Use --out in {run.reports} or outside the run",
        )


def _is_report(path: Path) -> bool:
    try:
        return read_json(path).get("kind") == KIND
    except ArtifactError:
        return False
