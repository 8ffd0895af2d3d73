"""A value out of range is a usage error in an option, and an error to mend in a file.

Ranges have one home, the configurations: they raise ConfigError wherever a value comes from.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from msd_deploy.errors import ConfigError

_SHORTER = {
    "data.vocabulary_size": "--vocab-size",
    "finetune.cut_vocabulary": "--cut-vocab",
    "finetune.gradient_checkpointing": "--grad-checkpointing",
    "student.text": "--student-text",
    "student.vision": "--student-vision",
}


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ConfigError into a usage error, exit code 2: what the block reads came from options.

    Raises:
        typer.BadParameter: Names the option.
    """
    try:
        yield
    except ConfigError as error:
        message = f"{error.what}. {error.fix}." if error.fix else f"{error.what}."
        hint = None if error.where is None else option_of_key(error.where)
        raise typer.BadParameter(message, param_hint=hint) from error


def option_of_key(key: str) -> str:
    """Return the option that sets a key of a configuration: --batch-size of distill.batch_size."""
    if key in _SHORTER:
        return _SHORTER[key]
    section, _, name = key.rpartition(".")
    prefix = "teacher-" if section == "teacher" else ""
    return f"--{prefix}{name.removeprefix('--').replace('_', '-')}"
