"""Settings, paths and commands as reports show them: without absolute paths of this machine.

Changed settings leave out what the compared runs share and what affects speed only.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import cast

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig


def shown_path(path: Path, *, outside: str | None = None) -> str:
    """Return a path as reports show it: relative, and never mistaken for an option.

    Args:
        path: A path; inside the working folder it is shown relative to it.
        outside: Replaces a path outside the working folder; None: its last part.
    """
    whole, here = path.resolve(), Path.cwd().resolve()
    shown = whole.relative_to(here) if whole.is_relative_to(here) else Path(outside or whole.name)
    return f"./{shown.as_posix()}" if shown.as_posix().startswith("-") else shown.as_posix()


def shown_command(words: Sequence[str]) -> str:
    """Return a command as it was typed, with absolute and parent paths shortened.

    Args:
        words: Program, arguments and options, unquoted; a path may follow the `=` of an option.
    """
    return shlex.join(_shown_word(word) for word in words)


def _shown_word(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    leaves = path.is_absolute() or ".." in path.parts
    return f"{option}{sign}{shown_path(path)}" if leaves else word


Value = str | bool | int | float | None
Settings = dict[str, Value]
"""Value by dotted key, as in a TOML file."""

_OF_DATA = ("labelled_share", "image_size", "image_mode", "max_length", "vocabulary_size")
_WITHOUT_EFFECT = ("checkpoint_seconds", "log_every")


def changed_settings(config: RunConfig) -> Settings:
    """Return the settings that differ from their defaults; paths as `shown_path` shows them."""
    data, teacher, student, distill = config.data, config.teacher, config.student, config.distill
    changed: Settings = {
        **{f"data.{name}": value for name, value in _changed(data) if name in _OF_DATA},
        **{f"teacher.{name}": value for name, value in _changed(teacher)},
        **{f"student.{name}": value for name, value in _changed(student)},
        **{
            f"distill.{name}": value
            for name, value in _changed(distill)
            if name not in _WITHOUT_EFFECT
        },
        **{f"augment.{name}": value for name, value in _changed(config.augment)},
    }
    paths = {
        "teacher.path": teacher.path,
        **{f"teacher.{view}_path": path for view, path in teacher.specialist_paths.items()},
        "student.start": student.start,
        "student.vision": student.vision,
        "student.text": student.text,
    }
    for key, path in paths.items():
        if path is not None and Path(path).is_absolute():
            changed[key] = shown_path(Path(path))
    return changed if config.seed == RunConfig().seed else {**changed, "seed": config.seed}


def _changed(
    section: DataConfig | TeacherConfig | StudentConfig | DistillConfig | AugmentConfig,
) -> list[tuple[str, Value]]:
    plain = cast("dict[str, Value]", config_as_json(section))
    values = [(field.name, plain[field.name], field.default) for field in fields(section)]
    return [(name, value) for name, value, default in values if value != default]


def settings_words(settings: Mapping[str, object]) -> str:
    """Return settings in TOML syntax, on one line."""
    return ", ".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()
    )
