"""Fill configuration dataclasses from TOML, JSON and options, types checked. Torch-free."""

import difflib
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msd_deploy.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


_Config = TypeVar("_Config", bound="DataclassInstance")
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def config_as_json(config: "DataclassInstance") -> dict[str, object]:
    """Return a configuration as JSON values."""
    return {key: _plain(value) for key, value in asdict(config).items()}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def read_config_of(kind: type[_Config], path: Path) -> _Config:
    """Read a configuration from a TOML file.

    Raises:
        ConfigError: The file is missing or not TOML, or a key is unknown, mistyped or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=path, fix="Check --config") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read as TOML ({error})", where=path) from error
    try:
        return config_of(kind, values)
    except ConfigError as error:
        raise ConfigError(str(error), where=path) from error


def with_options(config: _Config, options: Mapping[str, object]) -> _Config:
    """Return the configuration with options set, by dotted key; None leaves a key as it is."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        section, _, name = key.rpartition(".")
        if value is not None:
            by_section.setdefault(section, {})[name] = value
    own = by_section.pop("", {})
    # All keys of a section together: one by one they might contradict each other.
    sections = {name: replace(getattr(config, name), **new) for name, new in by_section.items()}
    return replace(config, **own, **sections)


def config_of(kind: type[_Config], values: Mapping[str, object], *, prefix: str = "") -> _Config:
    """Build a configuration from plain values.

    Args:
        kind: Its class.
        values: Values by key, tables as mappings.
        prefix: Prefix of the keys in errors.

    Raises:
        ConfigError: Names the key that is unknown, mistyped or out of range.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    converted: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"Did you mean {prefix}{near[0]}? " if near else ""
            fix = f"{guess}Known keys: {', '.join(sorted(known))}"
            raise ConfigError("unknown key", where=key, fix=fix)
        converted[name] = _convert(hints[name], value, key)
    return kind(**converted)


def _convert(hint: Any, value: object, key: str) -> object:
    """Check a plain value against a field's type, and convert tables, paths and lists."""
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be a table, not {value!r}", where=key)
        return config_of(hint, value, prefix=f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(arg for arg in arguments if arg is not type(None)), value, key)
    if origin is Literal:
        return _require(value in arguments, value, key, f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        is_list = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        _require(is_list, value, key, "a list of strings")
        return tuple(typing.cast(list[str], value))
    if hint is Path:
        # Path("") would be the working directory.
        is_path = isinstance(value, (str, Path)) and value != ""
        return Path(typing.cast(str, _require(is_path, value, key, "a path")))
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    return _require(type(value) is hint, value, key, _TYPE_NAMES[hint])


def _require(is_met: bool, value: object, key: str, expected: str) -> object:
    if not is_met:
        given = str(value).lower() if isinstance(value, bool) else repr(value)  # as in TOML
        raise ConfigError(f"must be {expected}, not {given}", where=key)
    return value
