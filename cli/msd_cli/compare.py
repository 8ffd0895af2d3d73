"""`msd compare`: distillation methods over several seeds on one data set."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import ConfigOption, Given, JsonOption, OptionsOf, OverwriteOption
from msd_deploy.config.run import RunConfig
from msd_deploy.study.config import StudyConfig

_SHARED = (
    *("data.spec", "data.examples", "data.labelled_share"),
    *("teacher.path", "teacher.image_path", "teacher.text_path"),
    "student.size",
)


def compare(
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the study.",
            show_default="runs/compare- and the data set's name",
        ),
    ] = None,
    config: ConfigOption = None,
    given: Annotated[Given, OptionsOf(RunConfig, only=_SHARED)],
    compared: Annotated[Given, OptionsOf(StudyConfig, without=("base",))],
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare distillation methods on one data set, over seeds, with paired statistics.

    Run the same command again to continue an interrupted study; methods and seeds
    can be added.

    Examples:
        msd compare --examples 1000 --seeds 5 --out runs/compare-memes
        msd compare --data easy-vqa --labelled-share 0.05 --methods kd,msd-fixed
        msd compare --data products.jsonl --teacher runs/products/teacher --budget compute
    """
    from msd_cli.settings import default_run_folder, with_given
    from msd_deploy.config.describe import shown_command
    from msd_deploy.config.run import read_config
    from msd_deploy.hooks import Hooks
    from msd_deploy.study.compare import PAGE_NAME, run_study
    from msd_mobile_bench.host import describe_host

    base = with_given(RunConfig() if config is None else read_config(config), given)
    study = with_given(StudyConfig(), {"base": base, **compared})
    folder = out or Path("runs") / f"compare-{default_run_folder(base.data.spec).name}"
    host = describe_host()
    facts = {
        "command": shown_command(["msd", *sys.argv[1:]]),
        "host": f"{host['cpu']}, {host['logical_cores']} cores, {host['os']}",
    }
    display = ProgressDisplay(stopped_fix="Run the same command again to continue")
    with display.running():
        result = run_study(
            study,
            folder,
            overwrite=overwrite,
            facts=facts,
            hooks=display.stages(),
            training=Hooks(display.on_step, display.should_stop),
        )
    if as_json:
        print_json(result)
        return
    _print_table(result)
    print_note(f"Wrote {folder / PAGE_NAME}. Open it in a browser.")


def _print_table(result: dict[str, object]) -> None:
    from msd_deploy.pages.formatting import NOTHING
    from msd_deploy.study.tables import spread_text, teacher_rows

    views = ("multimodal", "image", "text")
    title = f"Test {result['metric']} in %, mean and standard deviation over seeds"
    table = new_table(title, "method", *views)
    methods = result["methods"]
    assert isinstance(methods, dict)
    for name, scores in teacher_rows(result, nothing=NOTHING).items():
        table.add_row(name, *scores)
    for name, spreads in methods.items():
        table.add_row(name, *(spread_text(spreads[view]) for view in views))
    result_console().print(table)
