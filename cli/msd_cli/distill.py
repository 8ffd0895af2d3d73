"""`msd distill`: teacher to student."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import (
    DATA_PANEL,
    AugmentOption,
    ClassWeightsOption,
    DataOption,
    ExamplesOption,
    ImageColumnOption,
    JsonOption,
    LabelColumnOption,
    LabelsOption,
    OverwriteOption,
    StrictOption,
    TextColumnOption,
    option,
    split_labels,
)
from msd_deploy.config.run import RunConfig, TrackerName

_TEACHER, _STUDENT, _FEATURES, _INT8 = "Teacher", "Student", "Features", "Learning for int8"
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
    examples: ExamplesOption = None,
    labels: LabelsOption = None,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    image_size: Annotated[
        int | None,
        option(
            DATA_PANEL,
            "Side of the model's image in pixels.",
            "48 (tiny), 64 (small), 128 (mobile)",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            DATA_PANEL,
            "Most tokens of a text; a longer one is cut.",
            "the longest training text's, at most 32",
        ),
    ] = None,
    vocab_size: Annotated[
        int | None,
        option(
            DATA_PANEL,
            "Word pieces of the student's tokenizer.",
            "up to 2,000; with --student-text the task's own",
        ),
    ] = None,
    class_weights: ClassWeightsOption = None,
    strict: StrictOption = False,
    augment: AugmentOption = None,
    teacher: Annotated[
        Path | None,
        option(
            _TEACHER,
            "Folder of a trained teacher, or its name on the hub.",
            "one is trained on the labels",
        ),
    ] = None,
    teacher_epochs: Annotated[
        int | None,
        option(_TEACHER, "Passes of the teacher's training.", "about 750 steps, at least 8 passes"),
    ] = None,
    student: Annotated[
        Literal["tiny", "small", "mobile"] | None,
        option(
            _STUDENT,
            "tiny (50 k parameters), small (500 k) or mobile (4 to 5 M).",
            _DEFAULTS.student.size,
        ),
    ] = None,
    student_vision: Annotated[
        str | None,
        option(
            _STUDENT,
            "Pretrained vision encoder: effnet-lite0 to -lite4, or a"
            " transformers folder or name on the hub.",
            "the size's own; mobile: effnet-lite0",
        ),
    ] = None,
    student_text: Annotated[
        str | None,
        option(
            _STUDENT,
            "Pretrained text encoder of BERT's type, its vocabulary cut to the task's:"
            " minilm-l6, or a transformers folder or name on the hub.",
            "none",
        ),
    ] = None,
    text_layers: Annotated[
        int | None,
        option(
            _STUDENT,
            "Layers of --student-text that are taken, evenly spread; 0: its words alone, at the"
            " size's own width.",
            "as many as the size has",
        ),
    ] = None,
    method: Annotated[
        Literal["none", "kd", "msd"] | None,
        option(
            _STUDENT,
            "msd: all three views of the teacher; kd: the pair only; none: labels only.",
            _DEFAULTS.distill.method,
        ),
    ] = None,
    weighting: Annotated[
        Literal["fixed", "population", "instance", "meta"] | None,
        option(
            _STUDENT,
            "Who weighs the views of msd: constants, each modality's mean saliency, each"
            " example's saliency, or a network learned with the student.",
            _DEFAULTS.distill.weighting,
        ),
    ] = None,
    loss: Annotated[
        Literal["kl", "dist", "dkd", "mse"] | None,
        option(
            _STUDENT,
            "Distance to the teacher's logits; dkd and dist need 3 classes or more.",
            _DEFAULTS.distill.loss,
        ),
    ] = None,
    image_weight: Annotated[
        float | None,
        option(_STUDENT, "Weight of the image view's loss.", _DEFAULTS.distill.image_weight),
    ] = None,
    text_weight: Annotated[
        float | None,
        option(_STUDENT, "Weight of the text view's loss.", _DEFAULTS.distill.text_weight),
    ] = None,
    hint_weight: Annotated[
        float | None,
        option(
            _FEATURES,
            "Weight of the hint: features that map onto the teacher's.",
            _DEFAULTS.distill.hint_weight,
        ),
    ] = None,
    relation_weight: Annotated[
        float | None,
        option(
            _FEATURES,
            "Weight of distances and angles between a batch's features, as the teacher has them.",
            _DEFAULTS.distill.relation_weight,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        option(_STUDENT, "Of the soft targets.", _DEFAULTS.distill.temperature),
    ] = None,
    alpha: Annotated[
        float | None,
        option(
            _STUDENT,
            "Weight of the labels' loss; the teacher's has the rest of 1.",
            _DEFAULTS.distill.alpha,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option(_STUDENT, "Passes of the student's training.", "about 750 steps, at least 5 passes"),
    ] = None,
    start: Annotated[
        Path | None,
        option(
            _INT8,
            "Finished run to go on from: with its student, its teacher, its data and its settings.",
            "none",
            "--from",
        ),
    ] = None,
    int8_epochs: Annotated[
        int | None,
        option(
            _INT8,
            "Further passes, quantization-aware: weights and activations are rounded as int8 rounds"
            " them. With --from they are the only ones, unless --epochs is given.",
            _DEFAULTS.distill.int8_epochs,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        option(_STUDENT, "Rows a step.", _DEFAULTS.distill.batch_size),
    ] = None,
    learning_rate: Annotated[
        float | None,
        option(_STUDENT, "Peak of the schedule.", _DEFAULTS.distill.learning_rate),
    ] = None,
    patience: Annotated[
        int | None,
        option(
            _STUDENT,
            "Stop after so many passes without a better validation metric, keep the best.",
            "train to the end",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of weights, order and dropout.", show_default=f"{_DEFAULTS.seed}"),
    ] = None,
    tracker: Annotated[
        TrackerName | None,
        typer.Option(
            metavar="NAME",
            help="Who is shown loss terms, weights and metrics: tensorboard (files in the run's"
            " trackers/), wandb, mlflow, trackio, aim, clearml, comet_ml, dvclive or swanlab.",
            show_default="none",
        ),
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
        msd distill --weighting meta --out runs/learned
        msd distill --from runs/demo --int8-epochs 3 --out runs/demo-int8
        msd distill --resume --out runs/products
    """
    from msd_cli.settings import run_settings
    from msd_deploy.hooks import Hooks, RunHooks
    from msd_deploy.pipeline import run_distillation

    options = {
        "data.spec": data,
        "data.examples": examples,
        "data.labels": split_labels(labels),
        "data.image_column": image_column,
        "data.text_column": text_column,
        "data.label_column": label_column,
        "data.image_size": image_size,
        "data.max_length": max_length,
        "data.vocabulary_size": vocab_size,
        "data.class_weights": class_weights,
        "data.strict": strict or None,
        "augment.preset": augment,
        "teacher.path": teacher,
        "teacher.epochs": teacher_epochs,
        "student.size": student,
        "student.vision": student_vision,
        "student.text": student_text,
        "student.text_layers": text_layers,
        "distill.method": method,
        "distill.weighting": weighting,
        "distill.loss": loss,
        "distill.image_weight": image_weight,
        "distill.text_weight": text_weight,
        "distill.hint_weight": hint_weight,
        "distill.relation_weight": relation_weight,
        "distill.temperature": temperature,
        "distill.alpha": alpha,
        "distill.epochs": epochs,
        "distill.int8_epochs": int8_epochs,
        "distill.batch_size": batch_size,
        "distill.learning_rate": learning_rate,
        "distill.patience": patience,
        "seed": seed,
        "tracker": tracker,
    }
    settings, run = run_settings(options, config_file=config, out=out, resume=resume, start=start)
    display = ProgressDisplay()
    with display.running():
        hooks = RunHooks(display.stages(), Hooks(display.on_step, display.should_stop))
        metrics = run_distillation(settings, run, resume=resume, overwrite=overwrite, hooks=hooks)
    if as_json:
        print_json({"run": str(run.root), **metrics})
        return
    _print_metrics(metrics)
    say(f"Wrote {run.root}. Next: msd export {shlex.quote(str(run.root))}")


def _print_metrics(metrics: dict[str, object]) -> None:
    from msd_deploy.pages.formatting import score_text

    table = new_table(f"Test {metrics['metric']} (95 % interval)", "view", "teacher", "student")
    teacher, student = metrics["teacher"], metrics["student"]
    assert isinstance(teacher, dict)
    assert isinstance(student, dict)
    for view, score in teacher["test"].items():
        table.add_row(view, score_text(score), score_text(student["test"][view]))
    for metric, by_view in teacher.get("further", {}).get("test", {}).items():
        for view, score in by_view.items():
            of_student = student["further"]["test"][metric][view]
            table.add_row(f"{view}, {metric}", score_text(score), score_text(of_student))
    table.add_row("parameters", f"{teacher['parameters']:,}", f"{student['parameters']:,}")
    result_console().print(table)
