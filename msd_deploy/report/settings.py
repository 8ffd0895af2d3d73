"""The settings that decide a student's result and are not the defaults, for reports to state.

Not covered: what two runs of one data set and one teacher share, and what only costs time.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from msd_deploy.augment_config import AugmentConfig
from msd_deploy.config import DataConfig, DistillConfig, RunConfig, StudentConfig
from msd_deploy.report.commands import told_path

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
