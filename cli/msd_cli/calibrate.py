"""`msd calibrate`: temperatures and operating point of a finished model."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from msd_cli.console import (
    ProgressDisplay,
    new_table,
    print_decisions,
    print_json,
    print_note,
    result_console,
)
from msd_cli.options import READING, Given, JsonOption, OptionsOf
from msd_cli.settings import data_of_model, with_given
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.decisions import DecisionConfig
from msd_deploy.config.run import DataConfig


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run (for its student), or a model folder.")
    ],
    data: Annotated[
        Given, OptionsOf(DataConfig, only=("spec",), defaults={"spec": "the run's own"})
    ],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    deciding: Annotated[
        Given,
        OptionsOf(
            DecisionConfig, defaults={"decide": "the model's own rule, the run's, or the problem's"}
        ),
    ],
    split: Annotated[
        Literal["validation", "all"],
        typer.Option(
            help="Examples to fit on; all: a whole file of which the model saw nothing in training."
        ),
    ] = "validation",
    as_json: JsonOption = False,
) -> None:
    """Calibrate a model: fit a temperature for each view, choose thresholds.

    Where classes are independent, each view has a bias, too. A view of which the
    data has fewer than 50 examples keeps its temperature.

    `msd distill` calibrates its student. This command is for teachers, for students
    of earlier versions, for data that has changed, and to choose another operating
    point. The model folder is replaced; its weights stay, its exports have to be
    made again.

    Examples:
        msd calibrate runs/demo
        msd calibrate teachers/clip --data products.jsonl
        msd calibrate runs/products --data new-photos.jsonl --split all
        msd calibrate runs/demo --decide precision=0.9
    """
    check_model_exists(model)
    from msd_deploy.pages.formatting import fraction_text
    from msd_export.calibrate import calibrate_model, refuse_export

    refuse_export(model)
    spec, options = data_of_model(model, data, reading)
    decisions = with_given(DecisionConfig(), deciding)
    display = ProgressDisplay()
    with display.running():
        result: Any = calibrate_model(
            model,
            spec,
            options=options,
            split=split,
            decisions=decisions,
            hooks=display.stages(),
        )
    if as_json:
        print_json(result)
        return
    confidence, biases = result["confidence"], result["biases"]
    table = new_table(
        f"expected calibration error on {split}, which it was fitted on (95 % interval)",
        "view",
        "temperature, bias" if result["biases"] else "temperature",
        "before",
        "after",
        "examples",
    )
    for view in result["fitted"]:
        table.add_row(
            view,
            f"{result['temperatures'][view]:.2f}" + (f", {biases[view]:+.2f}" if biases else ""),
            *(fraction_text(confidence[when][view]["ece"]) for when in ("before", "after")),
            f"{result['examples'][view]:,}",
        )
    result_console().print(table)
    if result["operating_point"] is not None:
        print_decisions({}, result["operating_point"], split=split, chosen_on=split)
    is_run = str(model) != result["folder"]
    again = "--overwrite" if is_run else f"--data {shlex.quote(result['data'])} --overwrite"
    command = f"msd export {shlex.quote(str(model))} {again}"
    print_note(f"Wrote {result['folder']}. Exports are those of the earlier ones; next: {command}")
