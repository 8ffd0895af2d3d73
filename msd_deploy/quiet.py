"""Keep what other packages print, log and warn off the terminal; the one place that does so.

`quiet_python` covers Python code, `quiet` C++ libraries too; `quiet_imports` is for the warnings of
packages that a command imports, `quiet_transformers` for what it prints of its own.
"""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


def quiet_imports() -> None:
    """Hold back what imports warn of, from now on; call it before the first one.

    transformers imports torchao where it is installed (executorch brings it), which warns of CUDA
    libraries that are missing, and torch warns of what is deprecated in torchao.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back everything that is written to stdout and stderr within the block, by C++ too.

    C++ libraries write to the file descriptors, so these are changed for the whole process
    meanwhile. An error raised inside passes through; only what is printed is lost.
    """
    with quiet_python(), _descriptors_discarded():
        yield


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


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' progress bars, advice and warnings within the block."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, of odd sizes
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
