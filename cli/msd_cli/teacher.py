"""`msd teacher`: published checkpoints become a teacher."""

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
from msd_deploy.config.fine_tuning import TeachingConfig

_TRAINING, _MEMORY = "Training", "Memory"
_DEFAULTS = TeachingConfig().finetune


def teacher(
    out: Annotated[Path, typer.Option("--out", help="Folder of the teacher.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint of CLIP, SigLIP, ViLT or VisualBERT: a folder, or a name on the hub.",
            show_default="none; this or --text is needed",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead of --model: text encoder of BERT's type that one stream over words and"
            " picture starts from; for example minilm-l6.",
            show_default="none",
        ),
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Vision encoder, for --text and for VisualBERT: effnet-lite0 to -lite4 (with"
            " --text), or any backbone of transformers, such as a ResNet.",
            show_default="none",
        ),
    ] = None,
    text_layers: Annotated[
        int | None,
        typer.Option(help="Layers of --text that are taken, evenly spread.", show_default="all"),
    ] = None,
    cut_vocabulary: Annotated[
        bool,
        typer.Option("--cut-vocab", help="Keep the words of --text that the task uses."),
    ] = False,
    freeze: Annotated[
        Literal["none", "vision", "all"] | None,
        typer.Option(
            help="What keeps its checkpoint's weights and is computed once, not in every pass:"
            " vision: the vision encoder; all: everything that a checkpoint has.",
            show_default=_DEFAULTS.freeze,
        ),
    ] = None,
    data: DataOption = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file; options override it.", show_default="none"),
    ] = None,
    examples: ExamplesOption = None,
    labels: LabelsOption = None,
    image_size: Annotated[
        int | None,
        option(DATA_PANEL, "Side of the model's image in pixels.", "what it was trained with"),
    ] = None,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    tokenizer: Annotated[
        Path | None,
        option(DATA_PANEL, "A tokenizer.json, or its folder.", "the checkpoint's own"),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            DATA_PANEL,
            "Most tokens of a text; a longer one is cut.",
            "the longest training text's, as far as the model reads",
        ),
    ] = None,
    class_weights: ClassWeightsOption = None,
    strict: StrictOption = False,
    augment: AugmentOption = None,
    epochs: Annotated[
        int | None, option(_TRAINING, "Passes over the training split.", _DEFAULTS.epochs)
    ] = None,
    batch_size: Annotated[
        int | None, option(_TRAINING, "Rows a step.", _DEFAULTS.batch_size)
    ] = None,
    accumulate: Annotated[
        int | None,
        option(
            _MEMORY,
            "Parts of a step's rows, computed one after the other to save memory; the step is the"
            " same.",
            _DEFAULTS.accumulate,
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        option(
            _TRAINING,
            "bf16 multiplies matrices in bfloat16; weights and losses stay float32.",
            _DEFAULTS.precision,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--grad-checkpointing",
            help="Compute activations twice instead of keeping them: slower, with less memory.",
            rich_help_panel=_MEMORY,
        ),
    ] = False,
    learning_rate: Annotated[
        float | None,
        option(
            _TRAINING,
            "Peak of the schedule, for weights that the checkpoint has.",
            _DEFAULTS.learning_rate,
        ),
    ] = None,
    fresh_rate: Annotated[
        float | None,
        option(
            _TRAINING,
            "Learning rate of weights that start from nothing, as a multiple.",
            _DEFAULTS.fresh_rate,
        ),
    ] = None,
    modality_dropout: Annotated[
        float | None,
        option(
            _TRAINING,
            "Share of steps on one modality alone, half of them each.",
            _DEFAULTS.modality_dropout,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the head, order and dropout.", show_default="0")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted one, with its settings.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune published checkpoints on the labels, as a teacher for msd distill.

    It learns to answer for both modalities and for each alone. The folder that
    is written holds all that the teacher needs, and loads elsewhere, offline.
    Ctrl-C leaves a fine-tuning that --resume continues.

    Examples:
        msd teacher --model openai/clip-vit-base-patch32 --data memes.jsonl --out teachers/clip
        msd teacher --text minilm-l6 --vision effnet-lite2 --out teachers/memes
        msd teacher --text minilm-l6 --vision effnet-lite2 --freeze vision --out teachers/fast
        msd teacher --resume --out teachers/clip
        msd distill --data memes.jsonl --teacher teachers/clip --out runs/memes
    """
    from msd_cli.settings import teaching_settings
    from msd_deploy.hooks import Hooks, RunHooks
    from msd_deploy.run.fine_tuning import fine_tune_teacher

    options = {
        "data.spec": data,
        "data.examples": examples,
        "data.labels": split_labels(labels),
        "data.image_size": image_size,
        "data.image_column": image_column,
        "data.text_column": text_column,
        "data.label_column": label_column,
        "data.tokenizer": tokenizer,
        "data.max_length": max_length,
        "data.class_weights": class_weights,
        "data.strict": strict or None,
        "augment.preset": augment,
        "finetune.model": model,
        "finetune.text": text,
        "finetune.vision": vision,
        "finetune.text_layers": text_layers,
        "finetune.cut_vocabulary": cut_vocabulary or None,
        "finetune.freeze": freeze,
        "finetune.epochs": epochs,
        "finetune.batch_size": batch_size,
        "finetune.accumulate": accumulate,
        "finetune.precision": precision,
        "finetune.gradient_checkpointing": gradient_checkpointing or None,
        "finetune.learning_rate": learning_rate,
        "finetune.fresh_rate": fresh_rate,
        "finetune.modality_dropout": modality_dropout,
        "seed": seed,
    }
    settings = teaching_settings(options, config_file=config, out=out, resume=resume)
    display = ProgressDisplay(stopped_fix="Continue with --resume, if training had begun")
    with display.running():
        hooks = RunHooks(display.stages(), Hooks(display.on_step, display.should_stop))
        result = fine_tune_teacher(settings, out, resume=resume, overwrite=overwrite, hooks=hooks)
    if as_json:
        print_json({"teacher": str(out), **result})
        return
    _print_result(result)
    spec = settings.data.spec or "FILE.jsonl"  # a finished teacher does not say where its data lay
    say(f"{out} is ready. Next: msd distill --teacher {out} --data {spec}")


def _print_result(result: dict[str, object]) -> None:
    from msd_deploy.pages.formatting import score_text

    title = f"{result['family']} teacher: {result['metric']} (95 % interval)"
    table = new_table(title, "view", "validation", "test")
    validation, test = result["validation"], result["test"]
    assert isinstance(validation, dict)
    assert isinstance(test, dict)
    for view, score in validation.items():
        table.add_row(view, score_text(score), score_text(test[view]))
    further = result.get("further", {})
    assert isinstance(further, dict)
    for metric, by_view in further.get("validation", {}).items():
        for view, score in by_view.items():
            of_test = further["test"][metric][view]
            table.add_row(f"{view}, {metric}", score_text(score), score_text(of_test))
    result_console().print(table)
