"""`msd sign`: sign exports."""

from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import print_note


def sign(
    exports: Annotated[
        list[Path], typer.Argument(metavar="EXPORT...", help="Export folders.", show_default=False)
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="KEY",
            help="Private elliptic curve key in PEM; the password of an encrypted one is read from"
            " MSD_SIGNING_PASSWORD.",
            show_default=False,
        ),
    ],
) -> None:
    """Sign exports with a private key, after their model cards are filled in.

    Writes model.sig into each folder, over every file in it. Anybody can verify it with the public
    key: msd inspect EXPORT --verify-signature KEY, or the model_signing command.

    Examples:
        openssl ecparam -name prime256v1 -genkey -noout -out key.pem
        openssl ec -in key.pem -pubout -out public.pem
        msd sign runs/demo/exports/onnx-int8 --key key.pem
    """
    from msd_export.provenance.signing import sign_export

    for export in exports:
        sign_export(export, key)
        print_note(f"Signed {export}.")
