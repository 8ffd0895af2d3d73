"""`msd report`: an HTML report of distillation runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import JsonOption
from msd_cli.settings import usage_errors

if TYPE_CHECKING:
    from msd_deploy.report.schema import DistillationJson


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders that `msd distill --out` wrote."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; its data is written beside it as JSON. Without it the page in"
            " the run is replaced.",
            show_default="in the reports folder of the first RUN",
        ),
    ] = None,
    split: Annotated[
        Literal["test", "validation"], typer.Option(help="Split that the report evaluates on.")
    ] = "test",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an existing page at --out, and the .json of an earlier report.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML report of distillation runs: outputs, training, weights, examples.

    Several runs are compared side by side; they must share data set and teacher.
    Writes distillation.html and distillation.json.

    Examples:
        msd report runs/demo
        msd report runs/kd runs/msd --out kd-and-msd.html
    """
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.report.distillation import ReportConfig, write_distillation_report

    with usage_errors():
        config = ReportConfig(split, out, overwrite)
    display = ProgressDisplay()
    with display.running():
        folders = [RunDirectory(run) for run in runs]
        page, figures = write_distillation_report(folders, config, display.stages())
    if as_json:
        print_json(figures)
        return
    _print_closeness(figures)
    print_note(f"Wrote {page}. Open it in a browser.")


def _print_closeness(figures: "DistillationJson") -> None:
    from msd_deploy.pages.formatting import VIEW_NAMES, percent

    table = new_table("Agreement with the teacher's decisions", "run", *VIEW_NAMES.values())
    for student in figures["students"]:
        shares = (percent(student["closeness"][view]["agreement"]) for view in VIEW_NAMES)
        table.add_row(student["run"], *shares)
    result_console().print(table)
