"""The command in a report: it repeats the work, and states no folder of this machine."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def told_path(path: Path, *, outside: str | None = None) -> str:
    """Return a path as a report tells it, so that it is not taken for an option.

    Args:
        path: In the working folder it is told relative to it.
        outside: How it is called outside; None: by its last part.
    """
    whole, here = path.resolve(), Path.cwd().resolve()
    told = whole.relative_to(here) if whole.is_relative_to(here) else Path(outside or whole.name)
    return f"./{told.as_posix()}" if told.as_posix().startswith("-") else told.as_posix()


def told_command(words: Sequence[str]) -> str:
    """Return a command as it was typed, but for paths that name a folder of this machine.

    Args:
        words: Program, arguments and options, unquoted; a path may follow an option's `=`.
    """
    return shlex.join(_told_word(word) for word in words)


def _told_word(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    leaves = path.is_absolute() or ".." in path.parts
    return f"{option}{sign}{told_path(path)}" if leaves else word
