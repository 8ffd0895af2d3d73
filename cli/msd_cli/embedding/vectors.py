"""`msd vectors`: test vectors, with which an app's preprocessing is compared with Python's."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, print_json, print_note
from msd_cli.options import READING, Given, JsonOption, ModelArgument, OptionsOf, OverwriteOption
from msd_cli.settings import data_of_model
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.run import DataConfig

_NAMES = {
    "texts": "texts",
    "noise": "generated images",
    "images": "image files",
    "examples": "examples",
    "cases": "cases for the tools of the model's runtime",
}


def vectors(
    model: ModelArgument,
    data: Annotated[
        Given, OptionsOf(DataConfig, only=("spec",), defaults={"spec": "the run's own"})
    ],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    split: Annotated[
        Literal["train", "validation", "test", "all"],
        typer.Option(help="Split that the examples are from."),
    ] = "test",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder.", show_default="MODEL-vectors"),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write test vectors: odd texts and images, and what Python makes of them.

    Code that turns a photo and a text into a model's inputs is right if it
    computes the same. docs/preprocessing.md describes the files; text.json is
    the tokenizer as tables, which an app needs. Up to 100 examples of the data
    set have the answers of MODEL for image and text, and for each alone; some
    also as the runtime's own tools take them, if MODEL is an export.

    Examples:
        msd vectors runs/demo
        msd vectors runs/demo/exports/onnx-int8 --data synthetic:memes --out vectors
    """
    check_model_exists(model)
    from msd_export.bundle.vectors_folder import vectors_folder_beside, write_vectors

    spec, options = data_of_model(model, data, reading)
    folder = out or vectors_folder_beside(model)
    display = ProgressDisplay()
    with display.running():
        counts = write_vectors(
            model,
            folder,
            spec,
            options=options,
            split=split,
            overwrite=overwrite,
            hooks=display.stages(),
        )
    if as_json:
        print_json({"folder": str(folder), **counts})
        return
    listed = ", ".join(f"{counts[name]:,} {what}" for name, what in _NAMES.items() if counts[name])
    print_note(f"Wrote {folder}: {listed}.")
