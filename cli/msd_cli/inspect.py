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
    verify_signature: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC_KEY",
            help="Check that the export is signed with the private key of this one, in PEM.",
            show_default="not checked",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the inputs, outputs, operators, sizes and origin of an exported model.

    Verifies the digest of each file of an export folder, and its signature if
    asked to.

    Examples:
        msd inspect runs/demo/exports/onnx-int8
        msd inspect runs/demo/exports/onnx-int8 --verify-signature public.pem
        msd inspect model.tflite --json
    """
    from msd_export.inspection import inspect_export, tables_of
    from msd_export.provenance import signing

    if verify_signature is not None:
        signing.verify_signature(export, verify_signature)
    found = inspect_export(export)
    if as_json:
        verified = {"signature_verified": verify_signature is not None}
        print_json({**found.as_json(), **verified})
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
        print_note(_signature(is_signed=found.is_signed, key=verify_signature))
    else:
        print_note("A single file has no digest to verify; name its export folder instead.")


def _signature(*, is_signed: bool, key: Path | None) -> str:
    if key is not None:
        return f"The signature of all files, the model card included, is valid for the key {key}."
    if is_signed:
        return "It has a signature, which was not checked; add --verify-signature PUBLIC_KEY."
    return "It is not signed."
