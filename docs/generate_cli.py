"""Write docs/cli.md: the help of all commands, and the settings of TOML files.

    python docs/generate_cli.py            writes docs/cli.md
    python docs/generate_cli.py --check    writes nothing, exit code 1 if docs/cli.md is stale

The text is what `msd COMMAND --help` prints, 88 columns wide and without colour, with the typer of
requirements/constraints.txt: another version may draw its boxes otherwise.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args, get_origin

# Read by typer and rich when they are imported.
os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "88"
os.environ["NO_COLOR"] = "1"
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # typer colours on GitHub's machines
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mobile_bench"))

import typer
from typer.testing import CliRunner

from msd_cli.main import app
from msd_cli.options import OptionsOf
from msd_deploy.config.fine_tuning import TeachingConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.config.setting import Declaration, declarations

PAGE = Path(__file__).resolve().parent / "cli.md"

_HEAD = """\
# The command line

Written by `make docs`. The texts stand in `cli/msd_cli/` and on the fields of the configurations;
change them there.

A result goes to stdout, progress and notes go to stderr. With `--json`, stdout holds one JSON
object and nothing else. An error is one line on stderr; `msd --debug COMMAND ...` shows its
traceback.

| Exit code | Meaning |
| --- | --- |
| 0 | Done. |
| 1 | An error that you can fix: data, settings of a TOML file, files, a full disk. |
| 2 | Usage: an unknown command or option, a value of the wrong type or out of range. |
| 3 | An export exceeds its tolerance or `--max-drop`; a student cannot meet `--decide`. |
| 130 | Stopped by Ctrl-C; finished work is kept. |
| 143 | Ended by SIGTERM; files begun are removed, and checkpoints stay for `--resume`. |
"""


def command_names() -> list[str]:
    """Return the names of all commands, in the order in which they are registered."""
    functions = (command.callback for command in app.registered_commands)
    return [function.__name__ for function in functions if function is not None]


def help_of(arguments: Iterable[str]) -> str:
    """Return what `msd ARGUMENTS --help` prints, without blanks at the ends of lines."""
    result = CliRunner().invoke(app, [*arguments, "--help"], prog_name="msd", color=False)
    if result.exit_code != 0:
        raise RuntimeError(f"msd {' '.join(arguments)} --help ended with {result.exit_code}")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    return "\n".join(lines).strip("\n")


_SETTINGS = """\
## Settings

Settings of `--config FILE.toml`: the key `distill.alpha` is `alpha` in the table `[distill]`. An
option overrides the file. Default none: not set; in `augment`, the value of the preset.
"""


def page() -> str:
    """Return docs/cli.md."""
    parts = [_HEAD, _section("msd", [])]
    parts += [_section(f"msd {name}", [name]) for name in command_names()]
    tables = (_table(["distill", "compare"], RunConfig), _table(["teacher"], TeachingConfig))
    parts += [_SETTINGS, *tables]
    return "\n".join(parts)


def _table(commands: list[str], config: type[RunConfig] | type[TeachingConfig]) -> str:
    """Return the settings of some commands as a table: key, option, default, values, meaning."""
    shown = "\n".join(help_of([name]) for name in commands)
    lines = ["| Key | Option | Default | Values | Meaning |", "| --- | --- | --- | --- | --- |"]
    defaults = _defaults(commands[0])
    for item in declarations(config):
        name = "" if item.option is None else item.option.name
        option = f"`{name}`" if name and f" {name} " in shown else ""
        cells = (
            f"`{item.key}`",
            option,
            defaults.get(item.key, item.shown_default),
            _values(item),
            item.setting.help,
        )
        lines.append(f"| {' | '.join(cell.replace('|', ',') for cell in cells)} |")
    title = " and ".join(f"msd {name}" for name in commands)
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def _defaults(name: str) -> dict[str, str]:
    """Return the defaults in words that a command has instead of the settings' own, by key."""
    functions = {command.callback.__name__: command.callback for command in app.registered_commands}
    parameters = inspect.signature(functions[name].__wrapped__).parameters
    return {
        key: default
        for parameter in parameters.values()
        for item in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(item, OptionsOf)
        for key, default in item.defaults.items()
    }


def _values(item: Declaration) -> str:
    """Return the values that a setting may have."""
    if item.setting.between is not None:
        low, high = item.setting.between
        return f"{low:,.10g} to {high:,.10g}"
    kinds = [kind for kind in (item.type, *get_args(item.type)) if get_origin(kind) is Literal]
    choices = [str(choice) for kind in kinds for choice in get_args(kind)]
    if item.type is bool:
        choices = ["true", "false"]
    return ", ".join(choices) or ("list of strings" if item.is_list else "string")


def _section(title: str, arguments: list[str]) -> str:
    return f"## {title}\n\n```text\n{help_of(arguments)}\n```\n"


def main() -> int:
    """Write the page, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/cli.md from the command line itself.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    expected = page()
    if not parser.parse_args().check:
        PAGE.write_text(expected, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == expected:
        return 0
    sys.stderr.write(f"docs/cli.md is stale (typer {typer.__version__}): run `make docs`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
