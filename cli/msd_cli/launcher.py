"""Under `accelerate launch`: many processes of one command speak with one voice. Torch-free.

The main process prints what a command prints. An error is told by whichever process fails first;
the others end without a word, for what they would say is only that they lost it.
"""

import os
import sys
from pathlib import Path

from msd_deploy.errors import RuntimeUnavailableError

_LAUNCHED = frozenset({"distill", "teacher"})


def is_launched() -> bool:
    """Return whether this is one of several processes of a command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_silent() -> bool:
    """Return whether another process of this command prints."""
    return is_launched() and os.environ.get("RANK", "0") != "0"


def fall_silent() -> None:
    """Print nothing more, until an error."""
    nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = nowhere


def tells_of_error() -> bool:
    """Return whether this process is to tell of its error, and let it; ask once."""
    if not is_launched():
        return True
    is_telling = not is_silent()
    if "torch" in sys.modules:
        from msd_deploy import process_group

        is_telling = process_group.is_first_to_fail()
    if is_telling:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return is_telling


def check_launchable(command: str | None) -> None:
    """Refuse to run in several processes what they would only do several times.

    Raises:
        RuntimeUnavailableError: The command is not one of those that share their work.
    """
    if is_launched() and command not in _LAUNCHED:
        raise RuntimeUnavailableError(
            f"msd {command} runs in one process, and was launched in {os.environ['WORLD_SIZE']}",
            fix="Start it without the launcher",
        )
