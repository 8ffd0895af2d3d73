"""`msd bundle`: a folder for an app's project."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, print_json, print_note
from msd_cli.options import READING, Given, JsonOption, OptionsOf, OverwriteOption
from msd_cli.settings import data_of_model, usage_errors
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.run import DataConfig


def bundle(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A run, of whose exports one is taken, or an export."),
    ],
    data: Annotated[
        Given, OptionsOf(DataConfig, only=("spec",), defaults={"spec": "the run's own"})
    ],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    platform: Annotated[
        Literal["web", "android", "ios"], typer.Option(help="Where the app runs.")
    ] = "web",
    form: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which of the run's exports.",
            show_default="onnx-fp32; ios: coreml-fp16",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder.", show_default="MODEL-PLATFORM"),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what an app embeds: an exported model, code that runs it, test vectors.

    web is an npm package on onnxruntime-web, android Kotlin modules on ONNX Runtime
    or LiteRT, ios a Swift package on Core ML. They classify photos and texts as
    Python does; examples of the data set are replayed by their self-test.

    Examples:
        msd bundle runs/demo
        msd bundle runs/demo --platform android
        msd bundle runs/demo --form onnx-int8 --out moderation
        msd bundle runs/demo/exports/onnx-fp32 --data synthetic:memes
    """
    check_model_exists(model)
    from msd_export.bundle.bundle_folder import bundle_folder_beside, find_export, write_bundle

    with usage_errors():
        find_export(model, platform, form)
    spec, options = data_of_model(model, data, reading)
    display = ProgressDisplay()
    with display.running(), usage_errors():
        result = write_bundle(
            model,
            platform,
            out or bundle_folder_beside(model, platform),
            form=form,
            spec=spec,
            options=options,
            overwrite=overwrite,
            hooks=display.stages(),
        )
    if as_json:
        print_json(result)
        return
    print_note(f"Wrote {result['folder']} with {result['form']}. Next: its README.md")
