"""State settings, paths and commands in reports, without this machine's folders.

Not covered: what two runs of one data set and one teacher share, and what only costs time.

The command in a report: it repeats the work, and states no folder of this machine.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig


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


Value = str | bool | int | float | None
Settings = dict[str, Value]
"""Dotted key, as in a TOML file, to value."""

_OF_DATA = ("labelled_share", "image_size", "image_mode", "max_length", "vocabulary_size")
_WITHOUT_EFFECT = ("checkpoint_seconds", "log_every")


def changed_settings(config: RunConfig) -> Settings:
    """Return what differs from the defaults, in the order of the configuration.

    A path is told as every report tells one; see `told_path`.
    """
    data, student, distill = config.data, config.student, config.distill
    changed: Settings = {
        **{f"data.{name}": value for name, value in _changed(data) if name in _OF_DATA},
        **{f"student.{name}": value for name, value in _changed(student)},
        **{
            f"distill.{name}": value
            for name, value in _changed(distill)
            if name not in _WITHOUT_EFFECT
        },
        **{f"augment.{name}": value for name, value in _changed(config.augment)},
    }
    vision = student.vision
    if vision is not None and Path(vision).is_absolute():
        changed["student.vision"] = told_path(Path(vision))
    return changed if config.seed == RunConfig().seed else {**changed, "seed": config.seed}


def _changed(
    section: DataConfig | StudentConfig | DistillConfig | AugmentConfig,
) -> list[tuple[str, Value]]:
    values = [
        (field.name, getattr(section, field.name), field.default) for field in fields(section)
    ]
    return [(name, value) for name, value, default in values if value != default]


def settings_words(settings: Mapping[str, object]) -> str:
    """Return settings as a TOML file states them, in one line."""
    return ", ".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()
    )
