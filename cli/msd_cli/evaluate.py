"""`msd evaluate`: any model, in any form, on any data set."""

from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, score_text
from msd_cli.options import (
    DataOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    ThreadsOption,
    split_labels,
)


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which rows.")
    ] = "test",
    labels: LabelsOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Unusable rows are an error.")] = False,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on a data set: both modalities, the image alone, the text alone.

    Examples:
        msd evaluate runs/demo --data synthetic:memes
        msd evaluate runs/demo/exports/onnx-int8 --data new-photos.jsonl
    """
    from msd_deploy.data.source_types import SourceOptions
    from msd_export.assessment import evaluate_model

    display = ProgressDisplay()
    with display.running():
        result = evaluate_model(
            model,
            data or "synthetic:memes",
            options=SourceOptions(labels=split_labels(labels), strict=strict),
            split=split,
            threads=threads,
            hooks=display.stages(),
        )
    if as_json:
        print_json(result)
        return
    title = f"{result['metric']} on {split} (95 % interval), {result['runtime']}"
    table = new_table(title, "view", "score", "examples")
    views = result["views"]
    assert isinstance(views, dict)
    for view, score in views.items():
        table.add_row(view, score_text(score), str(score["examples"]))
    result_console().print(table)
