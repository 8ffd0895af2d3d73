"""Keep what converters and runtimes print, log and warn off the terminal."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back everything that is written to stdout and stderr within the block, by C++ too.

    C++ libraries write to the file descriptors, so these are changed for the whole process
    meanwhile. An error raised inside passes through; only what is printed is lost.
    """
    disabled = logging.root.manager.disable
    handlers = logging.root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        # Kept and not closed: a handler that a library makes in the block holds on to it.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as sink:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(sink), _descriptors_discarded():
                yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


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
