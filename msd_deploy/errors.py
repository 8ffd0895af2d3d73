"""Errors that a user can fix: each is one line of where, what is wrong and what to do."""

import re

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls of terminals (C0, DEL, C1), other line breaks, bidirectional overrides, and bytes of a
path or an argument that are not UTF-8 (lone surrogates). JSON's own line breaks are none."""
_LONG_WORD = re.compile(r"\S{1000,}")
"""No path and no word of a language; a name in data may have a hundred thousand characters."""
_MOST_CHARACTERS = 80
_LONGEST = 2000
"""Characters of a reason; a library's may repeat a whole file."""


def printable(text: str) -> str:
    """Return a text in one line, with escapes in place of characters that control a terminal.

    Of a word of 1,000 characters or more the first 200 are left.
    """
    text = _LONG_WORD.sub(lambda found: f"{found[0][:200]}... ({len(found[0]):,} characters)", text)
    shown = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return shown.replace("\n", "\\n")


def shortened(text: str) -> str:
    """Return a text from data, as the name of a class, as a message shows it."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}... ({len(text):,} characters)"


def counted(number: int, one: str, more: str) -> str:
    """Return a number with the words for one or for more, as "1 row has" and "2 rows have"."""
    return f"{number:,} {one if number == 1 else more}"


class MsdError(Exception):
    """An error in the input or the environment that the user can fix.

    Args:
        what: What is wrong, with the value concerned.
        where: The file, line or option concerned; printed first.
        fix: What to do, as a sentence without its full stop.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        shown = what if len(what) <= _LONGEST else f"{what[:_LONGEST]} ..."
        message = shown if where is None else f"{where}: {shown}"
        super().__init__(printable(f"{message}. {fix}." if fix else message))
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix


class ConfigError(MsdError):
    """An option or a key of the configuration file is unknown, mistyped or out of range."""


class DataError(MsdError):
    """A data set is missing, empty, malformed or unusable for training."""


class ArtifactError(MsdError):
    """A run, model or export folder is missing, incomplete, altered or of a newer schema."""


class ExportError(MsdError):
    """A converter or quantizer failed."""


class UnmetRuleError(MsdError):
    """A run is finished, but its student cannot decide as was asked for."""

    exit_code = 3


class ParityError(ExportError):
    """An exported model differs from its source by more than the tolerance."""

    exit_code = 3


class RuntimeUnavailableError(MsdError):
    """A runtime or an optional package is not installed on this machine."""


class StoppedError(MsdError):
    """Work was interrupted on request; its progress is saved."""

    exit_code = 130


class LostProcessError(MsdError):
    """Another process of a launched command has ended."""
