"""`msd distill`: teacher to student."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say, score_text
from msd_cli.options import DataOption, JsonOption, LabelsOption, OverwriteOption, split_labels

_DATA, _TEACHER, _STUDENT = "Data", "Teacher", "Student"
_NAMED_ROWS = 20


def distill(
    data: DataOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/ and the data's name by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; options override it.")
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(help="Training examples of a generated task.", rich_help_panel=_DATA),
    ] = None,
    labels: LabelsOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the model's image in pixels.", rich_help_panel=_DATA),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict", help="Unusable rows are an error.", rich_help_panel=_DATA),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained teacher; without it one is trained on the labels.",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    teacher_epochs: Annotated[
        int | None, typer.Option(help="Passes of the teacher's training.", rich_help_panel=_TEACHER)
    ] = None,
    student: Annotated[
        Literal["tiny", "small", "mobile"] | None,
        typer.Option(
            help="tiny (50 k parameters), small (500 k) or mobile (4 to 5 M). Default: tiny.",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    method: Annotated[
        Literal["none", "kd", "msd"] | None,
        typer.Option(
            help="msd: all three views of the teacher; kd: the pair only; none: labels only."
            " Default: msd.",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    image_weight: Annotated[
        float | None, typer.Option(help="Weight of the image view's loss. Default: 1.")
    ] = None,
    text_weight: Annotated[
        float | None, typer.Option(help="Weight of the text view's loss. Default: 1.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the soft targets. Default: 2.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the labels' loss. Default: 0.1.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes of the student's training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step of the student.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak, of the student.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and dropout.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run, with its settings.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train or load a teacher and distil a small student from it.

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
        "data.strict": strict,
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
