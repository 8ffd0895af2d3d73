"""Ends this process before its n-th operation on a folder; a child process of a test imports it.

What a kill leaves depends on what was written before it, and on nothing else. So its moment is
counted in operations that change a folder: files opened for writing, folders made, renames,
removals. Then every run of a test dies at the same places. (Interpreter and libraries announce
these operations to audit hooks.)
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def kill_before(last: int, folder: Path, number: int = signal.SIGKILL) -> Callable[[], int]:
    """Send this process a signal before the n-th change in a folder, never if n is 0.

    Returns what tells how many there were so far.
    """
    inside, done = os.path.realpath(folder), 0

    def is_change(event: str, args: tuple[Any, ...]) -> bool:
        if event in ("os.remove", "os.rmdir") and args[-1] != -1:
            return True  # inside a tree that is being removed: its names are relative
        if event == "open" and not (args[2] & (os.O_WRONLY | os.O_RDWR)):
            return False
        return event in _CHANGES and str(args[0]).startswith(inside)

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        if is_change(event, args):
            done += 1
            if done == last:
                os.kill(os.getpid(), number)

    sys.addaudithook(count)
    return lambda: done
