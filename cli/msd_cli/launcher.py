"""Commands under `accelerate launch`: only one of their processes prints. Torch-free.

The main process prints the output. An error is printed by the process that fails first; the others
exit without output, as their errors only follow from it.
"""

import os
import sys
from pathlib import Path

from msd_deploy.errors import RuntimeUnavailableError

_LAUNCHED = frozenset({"distill", "teacher"})


def is_launched() -> bool:
    """Return whether this is one of several processes of a command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_secondary() -> bool:
    """Return whether another process prints the output."""
    return is_launched() and os.environ.get("RANK", "0") != "0"


def silence_output() -> None:
    """Discard all output until an error."""
    nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = nowhere


def reports_error() -> bool:
    """Return whether this process prints its error, and restore its output; call once."""
    if not is_launched():
        return True
    is_reporting = not is_secondary()
    if "torch" in sys.modules:
        from msd_deploy import process_group

        is_reporting = process_group.is_first_to_fail()
    if is_reporting:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
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
