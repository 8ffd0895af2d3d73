"""`msd bench`: measure teacher and student in every variant."""

from typing import Annotated

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import Given, JsonOption, OptionsOf, RunArgument
from msd_cli.settings import with_given
from msd_mobile_bench.config import BenchConfig


def bench(
    run: RunArgument,
    given: Annotated[Given, OptionsOf(BenchConfig)],
    as_json: JsonOption = False,
) -> None:
    """Measure a run's teacher, student and exports: speed, memory, size, accuracy.

    Each model runs in a process of its own; latency is sampled in rounds that
    interleave the models. Writes bench.json, bench.md and bench.html to the run's
    reports folder, in place of older ones.

    Examples:
        msd bench runs/demo
        msd bench runs/demo --threads 2 --samples 300
    """
    from msd_mobile_bench.api import bench as measure
    from msd_mobile_bench.tables import summary_table

    display = ProgressDisplay()
    config = with_given(BenchConfig(), given)
    with display.running():
        result = measure(run, config=config, hooks=display.stages())
    if as_json:
        print_json(result)
        return
    summary = summary_table(result)
    table = new_table(
        summary.title, "variant", *(name for names in summary.groups.values() for name in names)
    )
    for line in summary.lines:
        table.add_row(line.name, *line.cells)
    result_console().print(table)
    print_note(f"Wrote {run / 'reports' / 'bench.html'}. Open it in a browser.")
