"""`msd bench`: measure teacher and student in every variant."""

from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import Given, JsonOption, OptionsOf, RunArgument
from msd_cli.settings import with_given
from msd_deploy.errors import ConfigError
from msd_mobile_bench.config import BenchConfig


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
    as_json: JsonOption = False,
) -> None:
    """Measure a run's teacher, student and exports: speed, memory, size, accuracy.

    Each model runs in a process of its own; latency is sampled in rounds that
    interleave the models. Writes bench.json, bench.md and bench.html to the run's
    reports folder, in place of older ones.

    Examples:
        msd bench runs/demo
        msd bench runs/demo --threads 2 --samples 300
        msd bench runs/demo --import pixel-8.json --import iphone.json
    """
    from msd_mobile_bench.api import bench as measure
    from msd_mobile_bench.api import import_apps
    from msd_mobile_bench.tables import app_sentence, summary_table

    display = ProgressDisplay()
    config = with_given(BenchConfig(), given)
    if imports and given:
        raise ConfigError(
            "measures nothing, so that no setting counts",
            where="--import",
            fix="Run msd bench without it first",
        )
    with display.running():
        if imports:
            result = import_apps(run, imports, hooks=display.stages())
        else:
            result = measure(run, config=config, hooks=display.stages())
    if as_json:
        print_json(result)
        return
    if imports:
        for each in result["apps"]:
            result_console().print(app_sentence(each), markup=False, highlight=False)
    else:
        summary = summary_table(result)
        columns = (name for names in summary.groups.values() for name in names)
        table = new_table(summary.title, "variant", *columns)
        for line in summary.lines:
            table.add_row(line.name, *line.cells)
        result_console().print(table)
    print_note(f"Wrote {run / 'reports' / 'bench.html'}. Open it in a browser.")
