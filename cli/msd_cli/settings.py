"""The settings of a command: from its options, an optional TOML file, and an existing run.

Configurations raise ConfigError for a value out of range. From an option it becomes a usage error
(exit code 2), from a file it stays an error of that file (exit code 1).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.parsing import read_config_of, with_options
from msd_deploy.config.run import DataConfig, RunConfig, read_config
from msd_deploy.config.setting import declarations
from msd_deploy.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from msd_deploy.data.source import SourceOptions

_MOST_NAME_BYTES = 200
_Config = TypeVar("_Config", bound="DataclassInstance")


@contextmanager
def usage_errors(config: "type[DataclassInstance] | None" = None, **options: str) -> Iterator[None]:
    """Turn a ConfigError into a usage error (exit code 2), as the block reads options only.

    Args:
        config: The configuration whose keys errors name.
        options: The options of other keys that errors name.

    Raises:
        typer.BadParameter: Names the option.
    """
    try:
        yield
    except ConfigError as error:
        message = f"{error.what}. {error.fix}." if error.fix else f"{error.what}."
        hint = error.where if error.where is None else str(error.where)
        if hint is not None and config is not None:
            hint = options.get(hint) or option_of(config, hint)
        raise typer.BadParameter(message, param_hint=hint) from error


def option_of(config: "type[DataclassInstance]", key: str) -> str:
    """Return the option that sets a key of a configuration, or the key if it has none."""
    options = {item.key: item.option.name for item in declarations(config) if item.option}
    return options.get(key, key)


def with_given(config: _Config, given: Mapping[str, object]) -> _Config:
    """Return a configuration with the settings that were given as options.

    Raises:
        typer.BadParameter: One is out of range, or contradicts others.
    """
    with usage_errors(type(config)):
        return with_options(config, given)


# Fixed by the student that --from continues.
_FIXED_BY_STUDENT = (
    "student.size",
    "student.vision",
    "student.text",
    "student.text_layers",
    "data.image_size",
    "data.max_length",
    "data.vocabulary_size",
)


def data_of_model(
    model: Path, data: Mapping[str, object], reading: Mapping[str, object]
) -> "tuple[str | None, SourceOptions]":
    """Return the data set that a model is used on, and how it is read; None: the run's own.

    Args:
        model: A run, model folder or export folder.
        data: The option for the data set.
        reading: The options for its format.

    Raises:
        typer.BadParameter: The model is not a run and no data set is named, or a run's own data is
            to be read in another way.
    """
    from msd_deploy.data.source import SourceOptions
    from msd_export.opened_model import check_has_data

    spec = with_options(DataConfig(), data).spec if data else None
    options = with_options(SourceOptions(), reading)
    if spec is None:
        name = option_of(DataConfig, next(iter(reading), ""))
        with usage_errors(DataConfig, data="--data", options=name):
            check_has_data(model, options)
    return spec, options


def run_settings(
    given: Mapping[str, object],
    *,
    config_file: Path | None,
    out: Path | None,
    resume: bool,
    start: Path | None,
) -> tuple[RunConfig, RunDirectory]:
    """Return the configuration and the folder of a run.

    Args:
        given: Settings that were given as options, by dotted key.
        config_file: TOML file that the options override.
        out: The run's folder, or None for the default.
        resume: Start from the settings of the existing run.
        start: A finished run, whose settings and student the new run continues from.

    Raises:
        typer.BadParameter: An option is out of range, --resume or --from was given without --out,
            or a setting that the student of --from fixes.
        ConfigError: The TOML file is wrong.
        ArtifactError: There is no run to resume or to continue from.
    """
    if resume and out is None:
        raise typer.BadParameter("needs --out. Name the run to continue.", param_hint="--resume")
    if start is not None:
        base = _settings_after(start, given, config_file=config_file, out=out, resume=resume)
    elif resume and out is not None and config_file is None:
        from msd_deploy.run.record import read_run

        base = read_run(RunDirectory(out)).config
    else:
        base = RunConfig() if config_file is None else read_config(config_file)
    settings = with_given(base, given)
    return settings, RunDirectory(out or default_run_folder(settings.data.spec))


def _settings_after(
    start: Path,
    given: Mapping[str, object],
    *,
    config_file: Path | None,
    out: Path | None,
    resume: bool,
) -> RunConfig:
    """Return the settings of a finished run, with its student as the start of a new one."""
    from msd_deploy.run.record import read_finished_run

    if config_file is not None or resume or out is None:
        problem = "needs --out" if out is None else "takes its settings from the run"
        fix = "Name the new run" if out is None else "Remove --config and --resume"
        raise typer.BadParameter(f"{problem}. {fix}.", param_hint="--from")
    for key in _FIXED_BY_STUDENT:
        if key in given:
            raise typer.BadParameter(
                "is fixed by the student that --from continues. Remove it.",
                param_hint=option_of(RunConfig, key),
            )
    run = RunDirectory(start)
    config = read_finished_run(run).config
    return replace(
        config,
        teacher=replace(config.teacher, path=run.distilled_teacher, adapt_epochs=0),
        student=replace(config.student, start=run.student),
        distill=replace(config.distill, epochs=None, int8_epochs=0),
    )


def teaching_settings(
    given: Mapping[str, object], *, config_file: Path | None, out: Path, resume: bool
) -> TeachingConfig:
    """Return the configuration of a teacher's fine-tuning.

    Args:
        given: Settings that were given as options, by dotted key.
        config_file: TOML file that the options override.
        out: The teacher's folder.
        resume: Start from the settings of the existing fine-tuning.

    Raises:
        typer.BadParameter: An option is out of range, or no checkpoint is named.
        ConfigError: The TOML file is wrong.
        ArtifactError: There is nothing to resume.
    """
    base = TeachingConfig()
    if config_file is not None:
        base = read_config_of(TeachingConfig, config_file)
    elif resume:
        from msd_deploy.run.fine_tuning_folder import fine_tuning_config

        base = fine_tuning_config(out)
    settings = with_given(base, given)
    if not settings.finetune.has_start:
        raise typer.BadParameter(
            "is required, or --text and --vision, or --adapt.", param_hint="--model"
        )
    return settings


def default_run_folder(spec: str) -> Path:
    """Return runs/NAME, where NAME is the data set's name, or the stem of its file.

    It is cut to `_MOST_NAME_BYTES`: what is being written has a longer name beside it.
    """
    name = _name_of_data(spec)[:_MOST_NAME_BYTES]
    while len(name.encode("utf-8", "surrogatepass")) > _MOST_NAME_BYTES:
        name = name[:-1]
    return Path("runs") / name


def _name_of_data(spec: str) -> str:
    from msd_deploy.data.readers.spec import FILE_SUFFIXES

    kind, _, rest = spec.partition(":")
    if spec.lower().endswith(FILE_SUFFIXES):
        return Path(spec).stem
    if kind == "hub":
        from msd_deploy.data.readers.hub_dataset import hub_name

        return Path(hub_name(rest).place).resolve().name
    return Path(rest if kind == "synthetic" else kind).name
