"""`msd bench`: measure teacher and student in every form."""

from typing import Annotated

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import JsonOption, RunArgument, ThreadsOption
from msd_cli.settings import usage_errors
from msd_mobile_bench.config import BenchConfig

_LATENCY, _THROUGHPUT = "Latency", "Throughput"
_DEFAULTS = BenchConfig()


def bench(
    run: RunArgument,
    threads: ThreadsOption = _DEFAULTS.threads,
    examples: Annotated[
        int | None, typer.Option(help="Test examples for the metrics.", show_default="all")
    ] = _DEFAULTS.examples,
    rounds: Annotated[
        int,
        typer.Option(help="Times that every model is sampled; even.", rich_help_panel=_LATENCY),
    ] = _DEFAULTS.rounds,
    warm_up: Annotated[
        int,
        typer.Option(help="Least predictions before a round's samples.", rich_help_panel=_LATENCY),
    ] = _DEFAULTS.warm_up,
    warm_up_seconds: Annotated[
        float,
        typer.Option(help="Least seconds before a round's samples.", rich_help_panel=_LATENCY),
    ] = _DEFAULTS.warm_up_seconds,
    samples: Annotated[
        int, typer.Option(help="Samples of a model in a round.", rich_help_panel=_LATENCY)
    ] = _DEFAULTS.samples,
    round_seconds: Annotated[
        float,
        typer.Option(help="Most seconds of a model in a round.", rich_help_panel=_LATENCY),
    ] = _DEFAULTS.round_seconds,
    batch_size: Annotated[
        int, typer.Option(help="Rows a batch.", rich_help_panel=_THROUGHPUT)
    ] = _DEFAULTS.batch_size,
    batches: Annotated[
        int, typer.Option(help="Batches that are timed.", rich_help_panel=_THROUGHPUT)
    ] = _DEFAULTS.batches,
    as_json: JsonOption = False,
) -> None:
    """Measure a run's teacher, student and exports: speed, memory, size, accuracy.

    Each model runs in a process of its own; latency is sampled in rounds that
    interleave the models. Writes bench.json, bench.md and bench.html to the run's
    reports.

    Examples:
        msd bench runs/demo
        msd bench runs/demo --threads 2 --samples 300
    """
    from msd_mobile_bench.api import bench as measure
    from msd_mobile_bench.tables import summary_table

    display = ProgressDisplay()
    with usage_errors():
        config = BenchConfig(
            threads=threads,
            rounds=rounds,
            warm_up=warm_up,
            warm_up_seconds=warm_up_seconds,
            samples=samples,
            round_seconds=round_seconds,
            batch_size=batch_size,
            batches=batches,
            examples=examples,
        )
    with display.running():
        result = measure(run, config=config, hooks=display.stages())
    if as_json:
        print_json(result)
        return
    summary = summary_table(result)
    table = new_table(
        summary.title, "form", *(name for names in summary.groups.values() for name in names)
    )
    for line in summary.lines:
        table.add_row(line.name, *line.cells)
    result_console().print(table)
    say(f"Wrote {run / 'reports' / 'bench.html'}: open it in a browser.")
