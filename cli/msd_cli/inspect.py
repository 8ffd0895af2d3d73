"""`msd inspect`: the contents of an exported model."""

from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import new_table, print_json, print_note, result_console
from msd_cli.options import JsonOption


def inspect(
    export: Annotated[
        Path,
        typer.Argument(metavar="EXPORT", help="An export folder, or its model file or package."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show the inputs, outputs, operators, sizes and origin of an exported model.

    Verifies the digest of each file of an export folder.

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
        print_note(f"{note}.")
    if found.files is not None:
        print_note(f"The digests of all {len(found.files)} files match.")
    else:
        print_note("A single file has no digest to verify; name its export folder instead.")
