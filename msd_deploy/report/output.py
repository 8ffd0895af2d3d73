"""Whether a report may be written where it shall go, known before the work that fills it."""

import os
from collections.abc import Sequence
from pathlib import Path

from msd_deploy.artifacts import RunDirectory, read_json, refuse_existing
from msd_deploy.errors import ArtifactError

KIND = "distillation"


def check_output(
    page: Path, figures: Path, runs: Sequence[RunDirectory], *, overwrite: bool
) -> None:
    """Check that a page and its figures may be written to paths that a user chose.

    The figures' path comes from the page's name, so the user has not seen it: a JSON file that is
    there is replaced only if it holds an earlier report.

    Raises:
        ArtifactError: A path exists and may not be replaced, lies in a run but not in its reports,
            or cannot be created.
    """
    for run in runs:
        _refuse_inside(run, page)
    for path in (page, figures):
        _refuse_uncreatable(path)
        refuse_existing(path, overwrite=overwrite, option="Use another --out, or --overwrite it")
    if figures.exists() and not _is_report(figures):
        raise ArtifactError(
            "holds no figures of an earlier report, so that they would destroy it",
            where=figures,
            fix="Use another --out: the figures go beside the page, with the ending .json",
        )


def _refuse_inside(run: RunDirectory, page: Path) -> None:
    folder = page.parent.resolve()
    is_inside = folder.is_relative_to(run.root.resolve())
    if is_inside and not folder.is_relative_to(run.reports.resolve()):
        raise ArtifactError(
            f"lies in the run {run.root}, whose files are not a report's to replace",
            where=page,
            fix=f"Use --out in {run.reports} or outside the run",
        )


def _refuse_uncreatable(path: Path) -> None:
    if path.is_dir():
        raise ArtifactError("is a folder", where=path, fix="Use --out with the name of a file")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise ArtifactError(
            f"cannot be created: {nearest} is no folder", where=path, fix="Use another --out"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"cannot be created: {nearest} is not writable", where=path, fix="Use another --out"
        )


def _is_report(path: Path) -> bool:
    try:
        return read_json(path).get("kind") == KIND
    except ArtifactError:
        return False
