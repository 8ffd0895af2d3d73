"""`msd compare`: methods and seeds side by side on one task."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import DataOption, JsonOption, OverwriteOption


def compare(
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Study's folder; runs/compare- and the data's name by default."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of a run; options override it.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained teacher; without it one is trained on the labels."),
    ] = None,
    student: Annotated[
        Literal["tiny", "small", "mobile"] | None,
        typer.Option(help="Size of the students. Default: tiny."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Names, separated by commas, baselines first.")
    ] = "none,kd,kd-dropout,msd-fixed,msd-population,msd-instance,msd-meta",
    seeds: Annotated[int, typer.Option(min=1, help="Students of each method.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Their first seed.")] = 1,
    budget: Annotated[
        Literal["steps", "compute", "converged"],
        typer.Option(
            help="steps: as many for all; compute: as many operations as msd-fixed needs;"
            " converged: four times the steps, best epoch on validation."
        ),
    ] = "steps",
    examples: Annotated[
        int | None, typer.Option(help="Training examples of a generated task.")
    ] = None,
    labelled_share: Annotated[
        float | None, typer.Option(help="Share of training rows whose label is used. Default: 1.")
    ] = None,
    dropout: Annotated[
        float, typer.Option(help="kd-dropout: share of steps on one modality alone.")
    ] = 0.3,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Students trained at a time; all cores by default.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods of distillation on one task, over seeds, with paired statistics.

    An interrupted study continues when the same command is run again; methods and seeds may be
    added.

    Examples:
        msd compare --examples 1000 --seeds 5 --out runs/compare-memes
        msd compare --data easy-vqa --labelled-share 0.05 --methods kd,msd-fixed
        msd compare --data products.jsonl --teacher runs/products/teacher --budget compute
    """
    from msd_cli.settings import base_config, default_run_folder, usage_errors
    from msd_deploy.config.describe import told_command
    from msd_deploy.hooks import Hooks
    from msd_deploy.study.compare import PAGE_NAME, run_study
    from msd_deploy.study.config import StudyConfig
    from msd_mobile_bench.host import describe_host

    options = {
        "data.spec": data,
        "data.examples": examples,
        "data.labelled_share": labelled_share,
        "teacher.path": teacher,
        "student.size": student,
    }
    base = base_config(options, config_file=config)
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    with usage_errors():
        study = StudyConfig(base, names, seeds, first_seed, budget, dropout, jobs)
    folder = out or Path("runs") / f"compare-{default_run_folder(base.data.spec).name}"
    host = describe_host()
    facts = {
        "command": told_command(["msd", *sys.argv[1:]]),
        "host": f"{host['cpu']}, {host['logical_cores']} cores, {host['os']}",
    }
    display = ProgressDisplay(stopped_fix="Run the same command again to go on")
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
    say(f"Wrote {folder / PAGE_NAME}: open it in a browser.")


def _print_table(result: dict[str, object]) -> None:
    from msd_deploy.study.tables import percent_text, spread_text

    views = ("multimodal", "image", "text")
    title = f"Test {result['metric']} in %, mean and deviation over seeds"
    table = new_table(title, "method", *views)
    teacher, methods = result["teacher"], result["methods"]
    assert isinstance(teacher, dict)
    assert isinstance(methods, dict)
    table.add_row("teacher", *(percent_text(teacher[view]) for view in views))
    for name, spreads in methods.items():
        table.add_row(name, *(spread_text(spreads[view]) for view in views))
    result_console().print(table)
