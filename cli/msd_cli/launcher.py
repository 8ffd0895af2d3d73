"""What a process of `msd` starts with: its streams, its environment, its launcher. Torch-free.

Under `accelerate launch` the main process prints the output. An error is printed by the process
that fails first; the others exit without output, as their errors only follow from it.
"""

import io
import os
import re
import sys
from pathlib import Path

from msd_deploy.errors import RuntimeUnavailableError

_LAUNCHED = frozenset({"distill", "teacher"})


# Libraries read an empty one as a value: HF_HOME as the working directory.
_PREFIXES = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "XDG_", "ACCELERATE_")
_NAMES = frozenset({"HOME", "TMPDIR", "TEMP", "TMP", "TERM"})
_NUMBERS = frozenset(
    {
        *("COLUMNS", "LINES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *("WORLD_SIZE", "RANK", "LOCAL_RANK", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"),
    }
)
_RANKS = frozenset({"RANK", "LOCAL_RANK"})


def forget_invalid_variables() -> None:
    """Unset environment variables of libraries that are empty, or not the number they should be."""
    for name, value in list(os.environ.items()):
        is_ours = name in _NAMES or name.startswith(_PREFIXES)
        if name in _NUMBERS:
            is_number = re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value.strip(), re.ASCII)
            is_valid = bool(is_number) or (name in _RANKS and value.strip() == "0")
        else:
            is_valid = not is_ours or bool(value.strip())
        if not is_valid:
            del os.environ[name]


def open_streams() -> None:
    """Open closed standard streams as empty ones, and let no character fail to be printed.

    A file that is opened while a standard descriptor is closed would get its number, and what
    libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free. Processes of a benchmark inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_unwritable_output() -> None:
    """Discard what stdout could not take, which Python would try to write again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")


def is_launched() -> bool:
    """Return whether this is one of several processes of a command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_secondary() -> bool:
    """Return whether another process prints the output."""
    return is_launched() and os.environ.get("RANK", "0") != "0"


def silence_output() -> None:
    """Discard all output until an error."""
    sys.stdout = sys.stderr = _nowhere()


def reports_error() -> bool:
    """Return whether this process prints its error, and restore its output; call once."""
    if not is_launched():
        return True
    is_reporting = not is_secondary()
    if "torch" in sys.modules:
        from msd_deploy import process_group

        is_reporting = process_group.is_first_to_fail()
    if is_reporting:
        sys.stdout, sys.stderr = sys.__stdout__ or sys.stdout, sys.__stderr__ or sys.stderr
    return is_reporting


def check_launchable(command: str | None) -> None:
    """Refuse to launch a command that does not share its work between processes.

    Raises:
        RuntimeUnavailableError: The command runs in one process only.
    """
    if is_launched() and command not in _LAUNCHED:
        raise RuntimeUnavailableError(
            f"msd {command} runs in one process, and was launched in {os.environ['WORLD_SIZE']}",
            fix="Start it without the launcher",
        )
