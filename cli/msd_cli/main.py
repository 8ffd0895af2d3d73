"""The command `msd`: registers all commands, turns an MsdError into one line and an exit code."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from msd_cli.bench import bench
from msd_cli.calibrate import calibrate
from msd_cli.compare import compare
from msd_cli.console import NoteHandler, print_note
from msd_cli.distill import distill
from msd_cli.doctor import doctor
from msd_cli.embedding.bundle import bundle
from msd_cli.embedding.demo import demo
from msd_cli.embedding.phone import phone
from msd_cli.embedding.vectors import vectors
from msd_cli.evaluate import evaluate
from msd_cli.export import export
from msd_cli.inspect import inspect
from msd_cli.launcher import (
    check_launchable,
    discard_unwritable_output,
    forget_invalid_variables,
    is_secondary,
    open_streams,
    reports_error,
    silence_output,
)
from msd_cli.options import with_settings
from msd_cli.predict import predict
from msd_cli.push import push
from msd_cli.report import report
from msd_cli.sign import sign
from msd_cli.teacher import teacher
from msd_deploy import __version__
from msd_deploy.artifacts.write_errors import cache_fix, write_error
from msd_deploy.errors import MsdError, printable
from msd_deploy.quiet import quiet_imports


class _Commands(typer.core.TyperGroup):
    """The commands; usage errors quote arguments without what controls a terminal."""

    def invoke(self, *arguments: Any, **options: Any) -> object:
        """Run a command."""
        try:
            return super().invoke(*arguments, **options)
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):
                setattr(error, "message", printable(message))  # noqa: B010 - of click's errors
            raise


app = typer.Typer(
    name="msd",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
_WORKFLOW = (distill, teacher, export, inspect, bench, report)
_OTHERS = (compare, evaluate, calibrate, predict, demo, bundle, vectors, phone, sign, push, doctor)
for command in _WORKFLOW + _OTHERS:
    app.command()(with_settings(command))


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"msd-deploy {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Distil a vision-and-language classifier into a small one, export it, verify it, measure it.

    Run msd COMMAND --help for the options of a command.

    Quick start on synthetic data:

        msd distill --out runs/demo
        msd export runs/demo
        msd bench runs/demo
        msd report runs/demo
    """
    _check_current_folder()
    check_launchable(context.invoked_subcommand)
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[NoteHandler()])
    quiet_imports()


def _check_current_folder() -> None:
    """Refuse a current folder that is gone: the libraries of torch end the process without it."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise MsdError(
            "the current folder no longer exists", fix="Change to another folder (cd)"
        ) from error


def main() -> None:
    """Run the command line."""
    forget_invalid_variables()
    open_streams()
    if is_secondary():
        silence_output()
    try:
        app()
    except SystemExit as error:
        if error.code == _STOPPED:  # Ctrl-C, of which Typer prints nothing
            print_note("error: stopped.")
        raise
    except MsdError as error:
        _fail(str(error), error, exit_code=error.exit_code)
    except Exception as error:
        line = _system_error(error)
        if line is None:
            if not reports_error():
                sys.exit(1)
            raise
        _fail(line, error, exit_code=1)


_STOPPED = 130


def _fail(line: str, error: Exception, *, exit_code: int) -> None:
    discard_unwritable_output()
    if not reports_error():
        sys.exit(exit_code)
    if "--debug" in sys.argv:
        raise error
    print_note(f"error: {line}")
    sys.exit(exit_code)


def _system_error(error: Exception) -> str | None:
    """Return an error of the operating system in one line; None if it is none."""
    if (failure := write_error(error)) is not None:
        return str(failure)
    if not isinstance(error, OSError):
        return None
    if "temporary directory" in str(error):
        return f"{error.strerror}. Set TMPDIR to a folder that can be written."
    where, fix = "", ""
    if error.filename:
        where = f"{error.filename}: "
        fix = cache_fix(Path(os.fsdecode(error.filename)))
    return f"{where}{error.strerror or error}." + (f" {fix}." if fix else "")
