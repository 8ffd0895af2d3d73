"""`msd distill`: teacher to student."""

import shlex
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from msd_cli.console import (
    ProgressDisplay,
    add_score_rows,
    new_table,
    print_decisions,
    print_json,
    print_note,
    result_console,
)
from msd_cli.options import ConfigOption, Given, JsonOption, OptionsOf, OverwriteOption
from msd_deploy.config.run import RunConfig
from msd_deploy.errors import UnmetRuleError

_MOST_CLASSES = 20


def distill(
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder.", show_default="runs/ and the data set's name"),
    ] = None,
    config: ConfigOption = None,
    given: Annotated[
        Given, OptionsOf(RunConfig, without=("data.tokenizer", "data.labelled_share"))
    ],
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Finished run to continue from: its student, teacher, data and settings.",
            show_default="none",
            rich_help_panel="Quantization-aware training",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run with its settings.")
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read and check everything, print what would be trained and how long it would"
            " take, and write nothing.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train or load a teacher and distil a small student from it.

    The student is trained on the teacher's predictions for image and text
    together and for each alone. Ctrl-C stops after the current step; --resume
    continues.

    Examples:
        msd distill --out runs/demo
        msd distill --data products.jsonl --dry-run
        msd distill --data products.jsonl --student small --out runs/products
        msd distill --data easy-vqa --method kd --out runs/vqa-kd
        msd distill --weighting meta --out runs/learned
        msd distill --from runs/demo --int8-epochs 3 --out runs/demo-int8
        msd distill --resume --out runs/products
    """
    from msd_cli.settings import run_settings
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.hooks import Hooks, RunHooks
    from msd_deploy.pipeline import dry_run_distillation, run_distillation
    from msd_deploy.run.record import naming_run_json

    if resume and dry_run:
        raise typer.BadParameter("cannot be combined with --resume.", param_hint="--dry-run")
    settings, run = run_settings(given, config_file=config, out=out, resume=resume, start=start)
    display = ProgressDisplay()
    naming = naming_run_json(RunDirectory(start), given=given) if start else nullcontext()
    with display.running(), naming:
        hooks = RunHooks(display.stages(), Hooks(display.on_step, display.should_stop))
        if dry_run:
            planned = dry_run_distillation(settings, run, overwrite=overwrite, hooks=hooks)
        else:
            metrics = run_distillation(
                settings, run, resume=resume, overwrite=overwrite, hooks=hooks
            )
    if dry_run:
        _print_plan(planned, as_json=as_json)
        return
    student, name = metrics["student"], shlex.quote(str(run.root))
    assert isinstance(student, dict)  # of a finished run
    rule = settings.decisions.rule
    is_met = rule is None or rule.name == "none" or "operating_point" in student
    if as_json:
        print_json({"run": str(run.root), **metrics})
    else:
        _print_metrics(metrics)
        print_note(f"Wrote {run.root}." + f" Next: msd export {name}" * is_met)
    if not is_met:
        raise UnmetRuleError(
            f"the student cannot meet {rule} on validation, and has no operating point",
            where=str(run.root),
            fix=f"Choose another with msd calibrate {name} --decide RULE, or leave it so",
        )


def _print_metrics(metrics: dict[str, Any]) -> None:
    known = ("teacher", "adapted_teacher", "image_teacher", "text_teacher", "student")
    names = [name for name in known if name in metrics]
    models = [metrics[name] for name in names]
    is_scored = "test" in metrics["student"]
    title = (
        f"Test {metrics['metric']} (95 % interval)"
        if is_scored
        else "Agreement with the teacher on the test rows, which have no label"
    )
    table = new_table(title, "view", *(name.replace("_", " ") for name in names))
    if is_scored:
        add_score_rows(table, [(model, "test") for model in models])
    else:
        for view, share in metrics["agreement"]["test"].items():
            table.add_row(view, *[""] * (len(models) - 1), f"{share:.1%}")
    table.add_row("parameters", *(f"{model['parameters']:,}" for model in models))
    result_console().print(table)
    if "operating_point" in metrics["student"]:
        of_test = metrics["student"].get("decisions", {}).get("test", {})
        point = metrics["student"]["operating_point"]
        print_decisions(of_test, point, split="test", chosen_on="validation")


def _print_plan(planned: dict[str, Any], *, as_json: bool) -> None:
    """Print what a dry run found: examples, classes, trainings and the estimate."""
    if as_json:
        print_json(planned)
        return
    from msd_deploy.pages.formatting import bytes_text, count_text

    data, out = planned["data"], result_console()
    columns = {key: key.replace("_", " ") for key in next(iter(data["splits"].values()))}
    table = new_table("Data", "split", *columns.values())
    for name, counts in data["splits"].items():
        table.add_row(name, *(f"{counts[key]:,}" for key in columns))
    out.print(table)
    table = new_table("Examples of each class", "class", *data["splits"])
    for name, counts in list(data["classes"].items())[:_MOST_CLASSES]:
        table.add_row(name, *(f"{count:,}" for count in counts.values()))
    if (left_out := len(data["classes"]) - _MOST_CLASSES) > 0:
        table.add_row(f"and {left_out:,} more, see --json")
    out.print(table)
    table = new_table("Trainings", "training", "parameters", "examples", "epochs", "steps")
    for phase, training in planned["trainings"].items():
        model = planned["teacher" if phase in ("teacher", "adaptation") else "student"]
        counts = (f"{training[key]:,}" for key in ("examples", "epochs", "steps"))
        table.add_row(phase, count_text(model["parameters"]), *counts)
    out.print(table)
    estimate = planned["estimate"]
    time_text = str(timedelta(seconds=round(estimate["seconds"])))
    memory = bytes_text(estimate["peak_memory_bytes"])
    if any(0 < each["patience"] < each["epochs"] for each in planned["trainings"].values()):
        time_text = f"at most {time_text}, less with early stopping"
    out.print(f"Estimate, from a few steps on this machine: {time_text}; {memory} of memory.")
