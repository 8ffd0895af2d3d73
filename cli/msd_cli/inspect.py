"""`msd inspect`: what is in an exported model."""

from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import new_table, print_json, result_console, say
from msd_cli.options import JsonOption


def inspect(
    export: Annotated[
        Path,
        typer.Argument(metavar="EXPORT", help="An export folder, or its model's file or package."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Look into an exported model: inputs, outputs, operators, sizes, where it comes from.

    Every file of an export folder is verified against its digest.

    Examples:
        msd inspect runs/demo/exports/onnx-int8
        msd inspect model.tflite --json
    """
    from msd_export.inspection import inspect_export, tables_of

    found = inspect_export(export)
    if as_json:
        print_json(found.as_json())
        return
    for text in tables_of(found):
        table = new_table(text.title, *text.columns)
        for row in text.rows:
            table.add_row(*row)
        result_console().print(table)
    for note in found.facts.notes:
        say(f"{note}.")
    if found.files is not None:
        say(f"All {len(found.files)} files are as they were verified.")
    else:
        say("A file alone has no digest to be held against: name its export folder for that.")
