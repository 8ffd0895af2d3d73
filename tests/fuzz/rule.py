"""The rule of all fuzz tests: an input is read as it stands, or refused in one clear line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msd_deploy.errors import MsdError

_Result = TypeVar("_Result")
# Of terminals (C0, DEL, C1), and what breaks a line or turns its direction.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def read_or_refused(read: Callable[[], _Result], file: Path) -> _Result | None:
    """Return what is read; None where it is refused, in one line with file and advice."""
    try:
        return read()
    except MsdError as error:
        refusal = error
    assert_one_line(str(refusal))
    assert str(file) in str(refusal), f"does not name its file: {refusal}"
    assert refusal.fix, f"does not state what to do: {refusal}"
    return None


def assert_one_line(text: str) -> None:
    found = _CONTROLS.search(text)
    assert not found, f"holds a control character: {text!r}"
    assert len(text) < 20_000, f"is too long to read: {text[:200]!r}"
