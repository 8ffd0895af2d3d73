"""Rows as text files hold them: one JSON object each, parsed and checked value by value.

A row that cannot be used raises `UnusableRowError` with its reason; the reader of the format names
the place. What the rows make together is `from_rows`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from msd_deploy.data.source_types import Split

_JSON_TYPES = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class UnusableRowError(ValueError):
    """A row cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row.

    Attributes:
        file: Where it stands.
        line: Its line in the file, from 1.
        image_path: Absolute path of its picture, or "".
        image_sha256: SHA-256 of the picture's bytes, or "".
        text: Its text, or None.
        labels: Its class names, sorted; exactly one in a single-label problem.
        split: The split that it states, if any.
    """

    file: Path
    line: int
    image_path: str
    image_sha256: str
    text: str | None
    labels: tuple[str, ...]
    split: Split | None

    @property
    def origin(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"

    @property
    def key(self) -> str:
        """What stands in one split only: the picture's digest, else the text's."""
        return self.image_sha256 or hashlib.sha256((self.text or "").encode()).hexdigest()


def type_name(value: object) -> str:
    """Return what a JSON value is, for a reason."""
    return _JSON_TYPES[type(value)]


def parse_object(raw: bytes) -> Mapping[str, object]:
    """Return the JSON object that bytes hold.

    Raises:
        UnusableRowError: They hold anything else.
    """
    try:
        value = json.loads(raw.rstrip().decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UnusableRowError(f"is not UTF-8 (byte {error.start + 1})") from error
    except RecursionError as error:
        raise UnusableRowError("is not JSON that can be read (nested too deeply)") from error
    except json.JSONDecodeError as error:
        reason = f"is not JSON ({error.msg} at column {error.colno})"
        raise UnusableRowError(reason) from error
    # A forbidden constant, or an integer of more digits than Python converts.
    except ValueError as error:
        raise UnusableRowError(f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UnusableRowError(f"is {type_name(value)}, not a JSON object")
    return cast(Mapping[str, object], value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def parse_text(value: object, what: str) -> str | None:
    """Return a text; None where there is none, or white space alone.

    Raises:
        UnusableRowError: It is no string, or no text that UTF-8 can hold.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise UnusableRowError(f"{what} is {type_name(value)}, not a string")
    return without_surrogates(value, what) if value.strip() else None


def without_surrogates(value: str, what: str) -> str:
    """Return a string as it is.

    Raises:
        UnusableRowError: It holds half a surrogate pair, which no file name and no UTF-8 can hold.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRowError(f"{what} holds half a surrogate pair, no character") from error
    return value
