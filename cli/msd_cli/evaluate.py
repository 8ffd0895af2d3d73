"""`msd evaluate`: metrics of any model or export on any data set."""

from typing import Annotated, Any, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_decisions, print_json, result_console
from msd_cli.options import READING, Given, JsonOption, ModelArgument, OptionsOf
from msd_cli.settings import data_of_model, with_given
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.run import DataConfig
from msd_mobile_bench.config import BenchConfig


def evaluate(
    model: ModelArgument,
    data: Annotated[
        Given, OptionsOf(DataConfig, only=("spec",), defaults={"spec": "the run's own"})
    ],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    running: Annotated[Given, OptionsOf(BenchConfig, only=("threads",))],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(
            help="Examples to evaluate on; all: a whole file of which the model saw nothing in"
            " training."
        ),
    ] = "test",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on a data set: image and text together, and each alone.

    Runs and model folders are evaluated in PyTorch, exports in their own runtime.
    Without --data, a run is evaluated on its own data set.

    Examples:
        msd evaluate runs/demo
        msd evaluate runs/demo/teacher --data synthetic:memes
        msd evaluate runs/demo/exports/onnx-int8 --data new-photos.jsonl --split all
    """
    threads = with_given(BenchConfig(), running).threads
    check_model_exists(model)
    from msd_deploy.pages.formatting import NOTHING, fraction_text, percent, score_text
    from msd_export.evaluate import evaluate_model

    spec, options = data_of_model(model, data, reading)
    display = ProgressDisplay()
    with display.running():
        result = evaluate_model(
            model,
            spec,
            options=options,
            split=split,
            threads=threads,
            hooks=display.stages(),
        )
    if as_json:
        print_json(result)
        return
    further = result.get("further", {})
    confidence = result["confidence"]
    assert isinstance(further, dict)
    assert isinstance(confidence, dict)
    for metric, views in {str(result["metric"]): result["views"], **further}.items():
        title = f"{metric} on {split} (95 % interval), {result['runtime']}"
        table = new_table(title, "view", "score", "examples")
        for view, score in views.items():
            table.add_row(view, score_text(score), str(score["examples"]))
        result_console().print(table)
    table = new_table(
        f"Calibration on {split}", "view", "expected calibration error", "by chance", "confidence"
    )
    for view, measured in confidence.items():
        by_chance = measured["ece_by_chance"]  # unknown of soft labels
        table.add_row(
            view,
            fraction_text(measured["ece"]),
            NOTHING if by_chance is None else f"{by_chance:.3f}",
            percent(measured["confidence"]),
        )
    result_console().print(table)
    if "operating_point" in result:
        point: Any = result["operating_point"]
        decided: Any = result["decisions"]
        print_decisions(decided, point, split=split, chosen_on="when chosen")
