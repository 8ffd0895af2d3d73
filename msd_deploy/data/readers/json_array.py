"""Entries of a list in a JSON file of hundreds of megabytes, read one after the other.

The file is one object, as published annotations are: {"info": .., "questions": [..], ..}. At most
two entries are held in memory.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO, cast

from msd_deploy.data.readers.rows import (
    MOST_LINE_BYTES,
    UnusableRowError,
    check_regular_file,
    shown,
    type_name,
)
from msd_deploy.errors import DataError

_CHUNK_CHARACTERS = 1 << 20
_MOST_CHARACTERS = MOST_LINE_BYTES
"""Of one entry, or of one other value of the object: a longer one is no entry, but an attack."""
_SPACE = " \t\r\n"
_LONGEST_JOINT = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the list.

    Attributes:
        value: What it holds.
        flaw: Why JSON should not hold it (a key that stands twice, NaN), or None.
    """

    value: object
    flaw: str | None

    def as_object(self) -> Mapping[str, object]:
        """Return the entry as an object.

        Raises:
            UnusableRowError: It is something else, or has a flaw.
        """
        if self.flaw is not None:
            raise UnusableRowError(self.flaw)
        if not isinstance(self.value, dict):
            raise UnusableRowError(f"is {type_name(self.value)}, not a JSON object")
        return cast(Mapping[str, object], self.value)


def read_array(path: Path, key: str, *, fix: str) -> Iterator[Entry]:
    """Yield the entries of the list that a file's object has under a key.

    Args:
        path: The file.
        key: Names the list; other values of the object are passed over.
        fix: What a user whose file is of no use should do.

    Raises:
        DataError: The file is missing, no regular file, or cannot be read; it is no UTF-8, no JSON
            (truncated, for example) or no object; it has no such list, or two. Entries before the
            place of the flaw have been yielded.
    """
    check_regular_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _Reader(file).entries(key)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, fix=fix) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", where=path, fix=fix) from error
    except UnusableRowError as error:
        raise DataError(str(error), where=path, fix=fix) from error


class _Reader:
    """A window on a file's text that moves on value by value."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._ended = "", 0, False
        self._flaws: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant
        )

    def entries(self, key: str) -> Iterator[Entry]:
        if self._next() != "{":
            _refuse("is not a JSON object")
        self._at += 1
        found = False
        while self._next() != "}":
            name = self._value(f"after {key}" if found else f"before {key}")
            self._expect(":")
            if not isinstance(name, str):
                _refuse(f"is not JSON ({type_name(name)} stands for a key)")
            if name != key:
                self._value(f"of {shown(name)}")
                self._flaws.clear()
            elif found:
                _refuse(f"has {key} twice")
            elif self._next() != "[":
                _refuse(f"has {type_name(self._value(f'of {key}'))} instead of a list of {key}")
            else:
                found = True
                yield from self._list(key)
            if self._next() != "}":
                self._expect(",")
        self._at += 1
        if self._next():
            _refuse("is not JSON (something follows its object)")
        if not found:
            _refuse(f"has no {key}")

    def _list(self, key: str) -> Iterator[Entry]:
        self._at += 1
        index = 0
        while self._next() != "]":
            value = self._value(f"in {key}[{index}]")
            yield Entry(value, self._flaws[0] if self._flaws else None)
            self._flaws.clear()
            index += 1
            if self._next() != "]":
                self._expect(",")
        self._at += 1

    def _value(self, place: str) -> object:
        """Decode the value that comes next; more is read as long as it may lack its end."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                _refuse(f"is not JSON that can be read (nested too deeply {place})")
            except json.JSONDecodeError as error:
                problem = error.msg
            # An integer of more digits than Python converts.
            except ValueError as error:
                _refuse(f"is not JSON ({str(error).partition(';')[0]}, {place})")
            else:
                # A number's rest may lie beyond what was read, its "." or "e+" before that.
                if len(self._text) - end > _LONGEST_JOINT or self._ended:
                    self._at = end
                    return value
                problem = "it has no end"
            self._flaws.clear()
            if len(self._text) - self._at > _MOST_CHARACTERS:
                _refuse(f"is not JSON ({problem} {place}, in {_MOST_CHARACTERS:,} characters)")
            if self._ended:
                _refuse(f"is not JSON ({problem} {place})")
            self._read()

    def _next(self) -> str:
        """Move to the next character that is no white space and return it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read()

    def _expect(self, character: str) -> None:
        found = self._next()
        if found != character:
            instead = f"{found!r} stands" if found else "the file ends"
            _refuse(f"is not JSON ({instead} where {character!r} should)")
        self._at += 1

    def _read(self) -> None:
        more = self._file.read(_CHUNK_CHARACTERS)
        self._text, self._at, self._ended = self._text[self._at :] + more, 0, not more

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            self._flaws.append("has a key twice")
        return values

    def _constant(self, name: str) -> None:
        self._flaws.append(f"holds {name}, which is not a JSON value")


def _refuse(reason: str) -> NoReturn:
    raise UnusableRowError(reason)
