"""`msd bench`: measure teacher and student in every variant."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import Given, JsonOption, OptionsOf, RunArgument
from msd_cli.settings import usage_errors, with_given
from msd_deploy.errors import ConfigError
from msd_mobile_bench.config import THOROUGH, BenchConfig

if TYPE_CHECKING:
    from msd_mobile_bench.schema import Bench


def bench(
    run: RunArgument,
    given: Annotated[Given, OptionsOf(BenchConfig)],
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="Add to the reports what benchmark() of a bundle wrote in an app; nothing is"
            " measured. Give it again for another file.",
            show_default="none",
        ),
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Measure latency as long as MLPerf Mobile does: at least 1,024 samples and 60 s"
            " per model, at most 600 s per view.",
            rich_help_panel="Latency",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Earlier bench.json to compare with; the exit code is 3 if a row became worse.",
            show_default="none",
            rich_help_panel="Regressions",
        ),
    ] = None,
    max_slowdown: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="Largest accepted increase of a median latency, beyond its interval.",
            rich_help_panel="Regressions",
        ),
    ] = "5%",
    max_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Largest accepted decrease of the metric of a view, in percentage points.",
            rich_help_panel="Regressions",
        ),
    ] = 0.5,
    any_host: Annotated[
        bool,
        typer.Option(
            "--any-host",
            help="Compare with a benchmark of another machine too.",
            rich_help_panel="Regressions",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a run's teacher, student and exports: speed, memory, size, accuracy.

    Each model runs in a process of its own; latency is sampled in rounds that
    interleave the models. Writes bench.json, bench.md and bench.html to the run's
    reports folder, in place of older ones. A runtime that is missing or fails has
    a row that says so; after a failure the exit code is 3.

    Examples:
        msd bench runs/demo
        msd bench runs/demo --threads 2 --thorough
        msd bench runs/demo --runtimes native,onnxruntime:4
        msd bench runs/demo --against last/bench.json --max-slowdown 5% --max-drop 0.5
        msd bench runs/demo --import pixel-8.json --import iphone.json
    """
    from msd_mobile_bench.api import bench as measure
    from msd_mobile_bench.api import import_apps
    from msd_mobile_bench.regression import Comparison, Limits, doubts, worse
    from msd_mobile_bench.schema import FAILED
    from msd_mobile_bench.tables import app_sentence

    display = ProgressDisplay()
    start = THOROUGH if thorough else BenchConfig()
    config = with_given(start, given)
    slowdown = _fraction(max_slowdown)
    limits = Limits(max_slowdown=slowdown, max_drop=max_drop, any_host=any_host)
    if any_host and against is None:
        raise ConfigError("is of a comparison", where="--any-host", fix="Add --against FILE")
    if imports and (given or thorough or against):
        raise ConfigError(
            "measures nothing, so that no setting counts",
            where="--import",
            fix="Run msd bench without it first",
        )
    with display.running():
        if imports:
            result = import_apps(run, imports, hooks=display.stages())
        else:
            comparison = None if against is None else Comparison(against, limits)
            with usage_errors(BenchConfig):
                result = measure(run, config=config, hooks=display.stages(), against=comparison)
    if as_json:
        print_json(result)
    elif imports:
        for each in result["apps"]:
            result_console().print(app_sentence(each), markup=False, highlight=False)
    else:
        _print_summary(result)
    if not as_json:
        print_note(f"Wrote {run / 'reports' / 'bench.html'}. Open it in a browser.")
    if imports:
        return
    worsened: list[str] = []
    if result["against"] is not None:
        worsened = worse(result["against"])
        found = [f"Worse than before: {sentence}" for sentence in worsened]
        found = found or [f"No row is worse than in {against}."]
        for sentence in doubts(result["against"]) + found:
            print_note(sentence)
    if worsened or any(row["status"] in FAILED for row in result["rows"]):
        raise typer.Exit(3)


def _print_summary(result: "Bench") -> None:
    from msd_mobile_bench.tables import summary_table

    summary = summary_table(result)
    columns = (name for names in summary.groups.values() for name in names)
    table = new_table(summary.title, "variant", *columns)
    for line in summary.lines:
        table.add_row(line.name, *line.cells)
    result_console().print(table)
    for row in result["rows"]:
        if row["note"] and row["status"] not in ("measured", "accuracy_only"):
            print_note(f"{row['key']}: {row['status'].replace('_', ' ')}. {row['note']}")


def _fraction(percent: str) -> float:
    """Return a percentage, with or without its sign, as a fraction."""
    try:
        value = float(percent.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1000:
        raise typer.BadParameter(
            f"{percent!r} is not a percentage from 0 to 1000", param_hint="--max-slowdown"
        )
    return value / 100
