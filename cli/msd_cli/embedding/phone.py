"""`msd phone`: latency of a run's exports on an Android phone."""

from typing import Annotated

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import Given, JsonOption, OptionsOf, RunArgument
from msd_cli.settings import usage_errors, with_given
from msd_mobile_bench.phone.options import PhoneOptions


def phone(
    run: RunArgument,
    given: Annotated[Given, OptionsOf(PhoneOptions)],
    as_json: JsonOption = False,
) -> None:
    """Measure a run's exports on an Android phone that is connected by adb.

    The runtimes' own benchmark tools, which you build for the phone, measure
    image and text together and each alone. What they print is kept in
    reports/phone/, the figures in reports/phone.json. docs/benchmark.md has
    where the tools are from. It was tried with a stand-in alone.

    Examples:
        msd phone runs/demo --benchmark-model android/benchmark_model
        msd phone runs/demo --executor-runner android/executor_runner --cpu-mask f0
    """
    from msd_mobile_bench.api import bench_phone
    from msd_mobile_bench.tables import milliseconds_text

    options = with_given(PhoneOptions(), given)
    display = ProgressDisplay()
    with display.running(), usage_errors(PhoneOptions):
        result = bench_phone(run, options, hooks=display.stages())
    if as_json:
        print_json(result)
        return
    rows = result["rows"]
    device = rows[0]["device"]["model"]
    table = new_table(f"Mean latency on {device}", "export", *rows[0]["latency"], "load", "first")
    for row in rows:
        views = (milliseconds_text(view["mean_ms"]) for view in row["latency"].values())
        start = (milliseconds_text(row[key]) for key in ("load_ms", "first_ms"))
        table.add_row(row["name"], *views, *start)
    result_console().print(table)
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        print_note(note)
    print_note(f"Wrote {run / 'reports' / 'phone.json'}.")
