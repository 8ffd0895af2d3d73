"""Keep what converters and runtimes print, log and warn off the terminal.

Read a model's file whose library raises whatever damaged bytes lead it to.
"""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from msd_deploy.errors import ArtifactError, ExportError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back everything that is written to stdout and stderr within the block, by C++ too.

    C++ libraries write to the file descriptors, so these are changed for the whole process
    meanwhile. An error raised inside passes through; only what is printed is lost.
    """
    with quiet_python(), _descriptors_discarded():
        yield


@contextlib.contextmanager
def converting(title: str, path: Path) -> Iterator[None]:
    """Hold back what a converter writes, and wrap whatever it raises.

    Args:
        title: What is converted to, for the error.
        path: The file that is written.

    Raises:
        ExportError: Anything was raised: converters and torch.export raise what their passes meet.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"the conversion to {title} failed ({reason})", where=path.name
        ) from error


@contextlib.contextmanager
def quiet_python() -> Iterator[None]:
    """Hold back what Python code prints, logs and warns within the block.

    The root logger is as before afterwards: some libraries configure it when they are imported.
    """
    root = logging.getLogger()
    disabled, level, handlers = root.manager.disable, root.level, root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        # Kept and not closed: a handler that a library makes in the block holds on to it.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as sink:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(sink):
                yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


@contextlib.contextmanager
def _descriptors_discarded() -> Iterator[None]:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in kept:
            os.dup2(nothing, descriptor)
        yield
    finally:
        os.close(nothing)
        for descriptor, original in kept.items():
            os.dup2(original, descriptor)
            os.close(original)


_LONGEST_REASON = 120


@contextlib.contextmanager
def reading(title: str, path: Path) -> Iterator[None]:
    """Hold back what a format's library writes, and wrap whatever it raises.

    Args:
        title: The format, for the error.
        path: The file that is read.

    Raises:
        ArtifactError: Anything was raised.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0][:_LONGEST_REASON]
        raise ArtifactError(
            f"cannot be read as {title} ({reason})", where=path, fix="Export it again"
        ) from error
