"""`msd demo`: a page in the browser that shows what a model says."""

import contextlib
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from msd_cli.console import ProgressDisplay, print_note
from msd_cli.options import READING, Given, OptionsOf
from msd_cli.settings import data_of_model, usage_errors
from msd_deploy.artifacts.run_directory import check_model_exists
from msd_deploy.config.run import DataConfig


def demo(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run, of whose exports one is shown, an export, or a bundle for the web.",
        ),
    ],
    data: Annotated[
        Given, OptionsOf(DataConfig, only=("spec",), defaults={"spec": "the run's own"})
    ],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    form: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which of the run's exports.", show_default="onnx-fp32"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the address alone; open no browser.")
    ] = False,
) -> None:
    """Show a model in the browser: drop a photo, type a text, see all three views.

    Serves a bundle for the web on 127.0.0.1 until Ctrl-C; photos and texts stay in
    the page. The first time, npm fetches onnxruntime-web into the user's cache.

    Examples:
        msd demo runs/demo
        msd demo runs/demo --form onnx-int8
        msd demo runs/demo-web --port 8000 --no-open
    """
    from msd_deploy.artifacts.manifest import is_folder_of
    from msd_deploy.errors import ConfigError
    from msd_export.bundle.bundle_folder import KIND, PLATFORMS, write_bundle
    from msd_export.bundle.web_server import BundleServer, fetch_runtime

    is_bundle = is_folder_of(KIND, model / PLATFORMS["web"].folder)
    if not is_bundle:
        check_model_exists(model)
    with contextlib.ExitStack() as stack:
        folder = model
        display = ProgressDisplay()
        with display.running(), usage_errors():
            display.stages().on_stage("Looking for the browser's runtime")
            runtime = fetch_runtime()
            if not is_bundle:
                spec, options = data_of_model(model, data, reading)
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="msd-demo-"))
                folder = Path(scratch) / "bundle"
                write_bundle(
                    model,
                    "web",
                    folder,
                    form=form,
                    spec=spec,
                    options=options,
                    hooks=display.stages(),
                )
        try:
            server = stack.enter_context(BundleServer(folder, runtime, port))
        except OSError as error:
            raise ConfigError(
                f"{port} cannot be used ({error.strerror})", where="--port", fix="Use another"
            ) from error
        print_note(f"Serving {model} at {server.address} until Ctrl-C")
        if not no_open:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
