"""The options of a command's settings, derived from configurations, and others that it shares."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from msd_deploy.config.setting import Declaration, declarations

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file with settings; options override it.", show_default="none"
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that `msd distill --out` wrote.")
]


ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run (for its student), a model folder, or an export folder of a run.",
    ),
]

Given = dict[str, object]
"""The settings that were given as options, by dotted key."""
READING = ("labels", "image_column", "text_column", "label_column", "strict", "max_pixels")
"""Keys of DataConfig for the format of a data set."""


@dataclass(frozen=True, slots=True)
class OptionsOf:
    """Marks a command's parameter of type `Given` as the options of a configuration.

    Attributes:
        config: The configuration; each setting that declares an option has it.
        only: Keys of the settings, if not all of them.
        without: Keys of settings, or of whole sections, that the command does not have.
        defaults: By key, the default in words where the command has another one.
    """

    config: "type[DataclassInstance]"
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> list[Declaration]:
        """Return the settings whose options the command has."""
        return [
            item
            for item in declarations(self.config)
            if item.option is not None
            and (not self.only or item.key in self.only)
            and not any(f"{item.key}.".startswith(f"{key}.") for key in self.without)
        ]


def utf8_text(text: str, option: str) -> str:
    """Return a text that was given as an option, decoded as UTF-8 where the locale was not.

    Raises:
        typer.BadParameter: It is not UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes that the locale's encoding does not have
        try:
            return os.fsencode(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise typer.BadParameter(
                f"is not UTF-8 (byte 0x{error.object[error.start]:02x}). Use a UTF-8 terminal.",
                param_hint=option,
            ) from error
    return text


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has the options of each parameter marked with `OptionsOf`."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, dict[str, Declaration]] = {}
    for parameter in inspect.signature(command).parameters.values():
        metadata = getattr(parameter.annotation, "__metadata__", ())
        if metadata and isinstance(metadata[0], OptionsOf):
            settings = metadata[0].settings()
            own = [_parameter(item, metadata[0].defaults) for item in settings]
            groups[parameter.name] = {
                option.name: item for option, item in zip(own, settings, strict=True)
            }
            parameters += own
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: object) -> None:
        for name, settings in groups.items():
            given = {item: values.pop(option) for option, item in settings.items()}
            values[name] = {
                item.key: _listed(item, value) if item.is_list else value
                for item, value in given.items()
                if value is not None and value is not False and value != []
            }
        command(**values)

    # Typer reads both.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # of a function
    return run


def _parameter(item: Declaration, defaults: Mapping[str, str]) -> inspect.Parameter:
    """Return a setting's option as the parameter of a function that Typer reads."""
    option = item.option
    assert option is not None
    is_flag = item.type is bool
    described = typer.Option(
        # Not given is None, or False: only what is given overrides a file's or a run's setting.
        False if is_flag else None,
        option.name,
        help=escape(item.setting.help),  # [pretrained] is no markup
        show_default=is_flag or defaults.get(item.key, item.shown_default),
        rich_help_panel=option.panel,
        metavar=option.metavar,
    )
    return inspect.Parameter(
        option.name.removeprefix("--").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=described,
        annotation=list[str] if option.is_repeated else str if item.is_list else item.type,
    )


def _listed(item: Declaration, value: object) -> tuple[str, ...]:
    """Return the values of an option that is a list."""
    if isinstance(value, list):
        assert item.option is not None
        return tuple(utf8_text(text, item.option.name) for text in value)
    return tuple(name.strip() for name in str(value).split(",") if name.strip())
