"""`msd push`: a run's exports as a repository of the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import print_json, print_note
from msd_cli.options import JsonOption, OverwriteOption, RunArgument


def push(
    run: RunArgument,
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False)
    ],
    *,
    upload: Annotated[
        bool, typer.Option("--upload", help="Upload the folder; otherwise it is only written.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder.", show_default="RUN-hub"),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The teacher on the hub, for the card."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="License, for the card.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's exports in the layout of the Hugging Face hub, and upload them if asked to.

    Without --upload nothing leaves this machine: look at the folder first, and
    complete its README.md. --upload sends the folder that is there already, as
    it is. The token is that of hf auth login, or in HF_TOKEN.

    Examples:
        msd push runs/demo ada/meme-moderation
        msd push runs/demo ada/meme-moderation --upload --private
    """
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_export.provenance import hub

    folder, directory = out or hub.hub_folder_beside(run), RunDirectory(run)
    is_written = upload and not overwrite and hub.is_written(directory, repository, folder)
    if is_written and (base_model or license):
        raise typer.BadParameter(
            f"has no effect: {folder} is written already. Edit its README.md, or add --overwrite.",
            param_hint="--license" if license else "--base-model",
        )
    if not is_written:
        hub.write_hub_folder(
            directory,
            repository,
            folder,
            base_model=base_model,
            license=license,
            overwrite=overwrite,
            on_note=print_note,
        )
    address = hub.upload(folder, repository, private=private) if upload else None
    if as_json:
        print_json({"folder": str(folder), "uploaded": address})
    elif address is None:
        print_note(f"Wrote {folder}; nothing was uploaded. Look at it, then add --upload.")
    else:
        print_note(f"Uploaded {folder}: {address}")
