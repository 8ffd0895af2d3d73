"""`msd distill`: teacher to student."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say, score_text
from msd_cli.options import (
    DATA_PANEL,
    DataOption,
    JsonOption,
    LabelsOption,
    OverwriteOption,
    StrictOption,
    split_labels,
)
from msd_deploy.config import RunConfig

_TEACHER, _STUDENT = "Teacher", "Student"
_DEFAULTS = RunConfig()


def distill(
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder.", show_default="runs/ and the data's name"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file; options override it.", show_default="none"),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            help="Training examples of a generated task.",
            show_default="the task's own number",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    labels: LabelsOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the model's image in pixels.",
            show_default="48 (tiny), 64 (small), 128 (mobile)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    strict: StrictOption = False,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained teacher.",
            show_default="one is trained on the labels",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    teacher_epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes of the teacher's training.",
            show_default="about 625 steps, at least 5 passes",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    student: Annotated[
        Literal["tiny", "small", "mobile"] | None,
        typer.Option(
            help="tiny (50 k parameters), small (500 k) or mobile (4 to 5 M).",
            show_default=_DEFAULTS.student.size,
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    method: Annotated[
        Literal["none", "kd", "msd"] | None,
        typer.Option(
            help="msd: all three views of the teacher; kd: the pair only; none: labels only.",
            show_default=_DEFAULTS.distill.method,
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    image_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the image view's loss.",
            show_default=f"{_DEFAULTS.distill.image_weight:g}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    text_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the text view's loss.",
            show_default=f"{_DEFAULTS.distill.text_weight:g}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the soft targets.",
            show_default=f"{_DEFAULTS.distill.temperature:g}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Weight of the labels' loss; the teacher's has the rest of 1.",
            show_default=f"{_DEFAULTS.distill.alpha:g}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes of the student's training.",
            show_default="about 750 steps, at least 5 passes",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows a step.",
            show_default=f"{_DEFAULTS.distill.batch_size}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of the schedule.",
            show_default=f"{_DEFAULTS.distill.learning_rate:g}",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of weights, order and dropout.", show_default=f"{_DEFAULTS.seed}"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run, with its settings.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train or load a teacher and distil a small student from it.

    The student learns from the teacher's answers to both modalities and to each
    alone. Ctrl-C leaves a run that --resume continues.

    Examples:
        msd distill --out runs/demo
        msd distill --data products.jsonl --student small --out runs/products
        msd distill --data easy-vqa --method kd --out runs/vqa-kd
        msd distill --resume --out runs/products
    """
    from msd_cli.run_settings import run_settings
    from msd_deploy.distill.trainer import Hooks
    from msd_deploy.pipeline import RunHooks, run_distillation

    options = {
        "data.spec": data,
        "data.examples": examples,
        "data.labels": split_labels(labels),
        "data.image_size": image_size,
        "data.strict": strict or None,
        "teacher.path": teacher,
        "teacher.epochs": teacher_epochs,
        "student.size": student,
        "distill.method": method,
        "distill.image_weight": image_weight,
        "distill.text_weight": text_weight,
        "distill.temperature": temperature,
        "distill.alpha": alpha,
        "distill.epochs": epochs,
        "distill.batch_size": batch_size,
        "distill.learning_rate": learning_rate,
        "seed": seed,
    }
    settings, run = run_settings(options, config_file=config, out=out, resume=resume)
    display = ProgressDisplay(stopped_fix="Finished stages are kept; continue with --resume")
    with display.running():
        hooks = RunHooks(display.stages(), Hooks(display.on_step, display.should_stop))
        metrics = run_distillation(settings, run, resume=resume, overwrite=overwrite, hooks=hooks)
    if as_json:
        print_json({"run": str(run.root), **metrics})
        return
    _print_metrics(metrics)
    say(f"Wrote {run.root}. Next: msd export {run.root}")


def _print_metrics(metrics: dict[str, object]) -> None:
    table = new_table(f"Test {metrics['metric']} (95 % interval)", "view", "teacher", "student")
    teacher, student = metrics["teacher"], metrics["student"]
    assert isinstance(teacher, dict)
    assert isinstance(student, dict)
    for view, score in teacher["test"].items():
        table.add_row(view, score_text(score), score_text(student["test"][view]))
    table.add_row("parameters", f"{teacher['parameters']:,}", f"{student['parameters']:,}")
    result_console().print(table)
