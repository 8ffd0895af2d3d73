"""`msd evaluate`: any model, in any form, on any data set."""

from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console
from msd_cli.options import (
    DEFAULT_DATA,
    DataOption,
    ImageColumnOption,
    JsonOption,
    LabelColumnOption,
    LabelsOption,
    ModelArgument,
    StrictOption,
    TextColumnOption,
    ThreadsOption,
    split_labels,
)
from msd_cli.settings import usage_errors
from msd_deploy.config.setting import check_range


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Which rows; all: the whole file, if the model learned from none of it."),
    ] = "test",
    labels: LabelsOption = None,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    strict: StrictOption = False,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on a data set: both modalities, the image alone, the text alone.

    A run or a model folder runs in PyTorch, an export in its own runtime.

    Examples:
        msd evaluate runs/demo --data synthetic:memes
        msd evaluate runs/demo/exports/onnx-int8 --data new-photos.jsonl --split all
    """
    from msd_deploy.data.source import SourceOptions
    from msd_deploy.pages.formatting import score_text
    from msd_export.evaluate import evaluate_model

    with usage_errors():
        check_range("--threads", threads, 1, 256)
    display = ProgressDisplay()
    with display.running():
        result = evaluate_model(
            model,
            data or DEFAULT_DATA,
            options=SourceOptions(
                labels=split_labels(labels),
                strict=strict,
                image_column=image_column,
                text_column=text_column,
                label_column=label_column,
            ),
            split=split,
            threads=threads,
            hooks=display.stages(),
        )
    if as_json:
        print_json(result)
        return
    further = result.get("further", {})
    assert isinstance(further, dict)
    for metric, views in {str(result["metric"]): result["views"], **further}.items():
        title = f"{metric} on {split} (95 % interval), {result['runtime']}"
        table = new_table(title, "view", "score", "examples")
        for view, score in views.items():
            table.add_row(view, score_text(score), str(score["examples"]))
        result_console().print(table)
