"""What a field of a configuration declares about itself: help text, range, command-line option.

A field is `Annotated[type, Setting(...), Option(...)] = default`. The range checks, the options of
the commands and the tables of docs/cli.md are all derived from that. Torch-free.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, get_args, get_origin

from msd_deploy.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SHARE = (0.0, 1.0)
WEIGHT = (0.0, 1000.0)
SEED = (0, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Setting:
    """The meaning of a field.

    Attributes:
        help: What it is, with its unit.
        between: Smallest and largest allowed value; None where the type is the only limit.
    """

    help: str
    between: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """The command-line option of a field.

    Attributes:
        name: As it is typed.
        panel: Heading under which `--help` lists it; None: with the general options.
        default: The default in words, where the field's own is not enough.
        metavar: Name of the value; None: its type.
        is_repeated: Whether a list of names is given by repeating it, instead of with commas.
    """

    name: str
    panel: str | None = None
    default: str | None = None
    metavar: str | None = None
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """A field of a configuration with what it declares.

    Attributes:
        key: Its dotted key, as in a TOML file and in errors.
        type: The type of its values.
        default: Its default value.
        setting: Its meaning.
        option: Its command-line option; None: it has none.
    """

    key: str
    type: object
    default: object
    setting: Setting
    option: Option | None

    @property
    def is_list(self) -> bool:
        """Whether its value is a list of names."""
        return tuple in {get_origin(kind) for kind in (self.type, *get_args(self.type))}

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.option is not None and self.option.default is not None:
            return self.option.default
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "none" if self.default is None else str(self.default)


def declarations(
    config: "DataclassInstance | type[DataclassInstance]", section: str = ""
) -> Iterator[Declaration]:
    """Yield the declared settings of a configuration, those of its sections included.

    Args:
        config: A configuration, or its class.
        section: The section that the keys begin with.
    """
    prefix = f"{section}." if section else ""
    for field in fields(config):
        if is_dataclass(field.type):
            yield from declarations(field.type, f"{prefix}{field.name}")
        metadata = getattr(field.type, "__metadata__", ())
        for setting in (item for item in metadata if isinstance(item, Setting)):
            option = next((item for item in metadata if isinstance(item, Option)), None)
            kind = getattr(field.type, "__origin__", None)
            yield Declaration(f"{prefix}{field.name}", kind, field.default, setting, option)


def check_ranges(config: "DataclassInstance", section: str = "") -> None:
    """Check a configuration's own fields, without its sections, against their ranges.

    Args:
        config: The configuration.
        section: Its section, which the keys in errors begin with.

    Raises:
        ConfigError: A value is out of range; names its key.
    """
    for field in fields(config):
        for item in getattr(field.type, "__metadata__", ()):
            if isinstance(item, Setting) and item.between is not None:
                key = f"{section}.{field.name}" if section else field.name
                check_range(key, getattr(config, field.name), *item.between)


def check_range(key: str, value: float | None, low: float, high: float) -> None:
    """Check that a setting lies in its range, both ends included; None is always in range.

    Raises:
        ConfigError: It does not, or is not a number; names the key.
    """
    if value is not None and not isinstance(value, (int, float)):
        raise ConfigError(f"must be a number, not {value!r}", where=key)
    if value is not None and not low <= value <= high:
        raise ConfigError(f"must lie between {low:.10g} and {high:.10g}, not {value!r}", where=key)
