"""The command `msd`: registers all commands, turns an MsdError into one line and an exit code."""

import errno
import logging
import sys
from typing import Annotated

import typer

from msd_cli.bench import bench
from msd_cli.compare import compare
from msd_cli.console import print_note
from msd_cli.distill import distill
from msd_cli.doctor import doctor
from msd_cli.evaluate import evaluate
from msd_cli.export import export
from msd_cli.inspect import inspect
from msd_cli.launcher import check_launchable, is_secondary, reports_error, silence_output
from msd_cli.options import with_settings
from msd_cli.predict import predict
from msd_cli.report import report
from msd_cli.teacher import teacher
from msd_deploy import __version__
from msd_deploy.errors import MsdError
from msd_deploy.quiet import quiet_imports

app = typer.Typer(
    name="msd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
_WORKFLOW = (distill, teacher, export, inspect, bench, report)
_OTHERS = (compare, evaluate, predict, doctor)
for command in _WORKFLOW + _OTHERS:
    app.command()(with_settings(command))


def _print_version(wanted: bool) -> None:
    if wanted:
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
    check_launchable(context.invoked_subcommand)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    quiet_imports()


def main() -> None:
    """Run the command line."""
    if is_secondary():
        silence_output()
    try:
        app()
    except MsdError as error:
        _fail(str(error), error, exit_code=error.exit_code)
    except OSError as error:
        _fail(_system_error(error), error, exit_code=1)
    # safetensors and arrow report a full disk in exceptions of their own.
    except Exception as error:
        if not _is_disk_full(error):
            if not reports_error():
                sys.exit(1)
            raise
        _fail(_DISK_FULL, error, exit_code=1)


_DISK_FULL = (
    "no space left on the device; no partial output was kept. Free some space and run the command"
    " again, `msd distill` with --resume."
)


def _fail(line: str, error: Exception, *, exit_code: int) -> None:
    if not reports_error():
        sys.exit(exit_code)
    if "--debug" in sys.argv:
        raise error
    print_note(f"error: {line}")
    sys.exit(exit_code)


def _system_error(error: OSError) -> str:
    if _is_disk_full(error):
        return _DISK_FULL
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def _is_disk_full(error: Exception) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
