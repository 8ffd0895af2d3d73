"""The browser's runtimes: onnxruntime-web and LiteRT.js, in a real headless Chromium.

A worker of these is web_worker.mjs, in Node.js: it starts the browser, serves the model and the
runtime to its page on 127.0.0.1, and speaks the protocol of worker.py. WebAssembly only: what
runs WebGPU without a graphics processor is no measurement. Chromium is the system's, all else
is fetched by `install_web`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from msd_deploy.errors import RuntimeUnavailableError
from msd_export.bundle.npm_packages import (
    LITERT_JS,
    LITERT_WASM_UTILS,
    ONNXRUNTIME_WEB,
    PLAYWRIGHT,
    NpmPackage,
    fetch_package,
    is_fetched,
    package_folder,
)

INSTALL = "msd doctor --install web"
_WORKER = Path(__file__).with_name("web_worker.mjs")
_OLDEST_NODE = 20
_BROWSER_VARIABLE = "CHROME_PATH"
"""The variable by which Lighthouse and other tools of Chromium are given a browser."""
_BROWSER_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
_BROWSER_PLACES = {
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
    "win32": (
        "C:/Program Files/Google/Chrome/Application/chrome.exe",
        "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    ),
}
_BROWSER_SOURCES = {
    "darwin": "https://www.google.com/chrome, or brew install --cask chromium",
    "win32": "https://www.google.com/chrome",
}
_NODE_SOURCE = "https://nodejs.org, or apt-get install npm"
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class WebRuntime:
    """A runtime that runs models of some targets in a browser.

    Attributes:
        key: Its name in bench.json, which is also the worker's name for it.
        name: Its name for people, without its version.
        targets: Of exports that it runs.
        packages: Of npm, which it needs; the first is the runtime itself.
        folder_of: Where a package lies; None: the user's cache, where it is verified.
    """

    key: str
    name: str
    targets: tuple[str, ...]
    packages: tuple[NpmPackage, ...]
    folder_of: Callable[[NpmPackage], Path] | None = None

    @property
    def title(self) -> str:
        """Its name for people, for example "onnxruntime-web 1.30.0 in Chromium 142"."""
        browser = find_browser()
        version = None if browser is None else _version_of(browser)
        return f"{self.name} {self.packages[0].version} in Chromium {version or ''}".rstrip()

    @property
    def measures(self) -> frozenset[str]:
        """What it measures: memory only where a process of the browser can be read."""
        always = frozenset({"answers", "latency", "load"})
        return always | {"memory"} if sys.platform == "linux" else always

    @property
    def untimed_note(self) -> str:
        """Why its latency is not measured: it is."""
        return ""

    def runs(self, target: str) -> bool:
        """Return whether it runs exports of a target; a precision may still be refused."""
        return target in self.targets

    def unavailable(self) -> str | None:
        """Return why it cannot run on this machine and what to do, in a sentence; None: it can."""
        reason = _missing_program()
        if reason is None and not all(map(self._has, (*self.packages, PLAYWRIGHT))):
            reason = f"run {INSTALL}"
        return None if reason is None else f"not installed: {reason}"

    def command(self, target: str, threads: int) -> list[str]:
        """Return what starts a worker, which speaks worker.py's protocol on stdin and stdout.

        Args:
            target: Of the export that it will open.
            threads: Of WebAssembly.
        """
        node = shutil.which("node") or "node"  # what is missing is an error of the worker
        browser = find_browser() or _BROWSER_NAMES[0]
        options = [f"--runtime={self.key}", f"--threads={threads}", f"--browser={browser}"]
        packages = {package.name: self._folder(package) for package in (PLAYWRIGHT, *self.packages)}
        options += [f"--package={name}={folder}" for name, folder in packages.items()]
        return [node, str(_WORKER), *options]

    def environment(self, threads: int) -> dict[str, str]:
        """Return the worker's environment; threads are WebAssembly's own, which `command` sets."""
        return dict(os.environ)

    def _folder(self, package: NpmPackage) -> Path:
        return (self.folder_of or package_folder)(package)

    def _has(self, package: NpmPackage) -> bool:
        if self.folder_of is None:
            return is_fetched(package)
        return (self.folder_of(package) / "package.json").is_file()


def web_runtimes(folder_of: Callable[[NpmPackage], Path] | None = None) -> list[WebRuntime]:
    """Return the browser's runtimes, whether they are installed or not.

    Args:
        folder_of: Where a package of npm lies; None: where `install_web` keeps it.
    """
    return [
        WebRuntime(
            "onnxruntime-web", "onnxruntime-web", ("onnx", "ort"), (ONNXRUNTIME_WEB,), folder_of
        ),
        WebRuntime(
            "litert.js", "LiteRT.js", ("litert",), (LITERT_JS, LITERT_WASM_UTILS), folder_of
        ),
    ]


def install_web(on_stage: Callable[[str], None] = lambda stage: None) -> Path:
    """Fetch what the browser's runtimes need into the user's cache; what is there is kept.

    Args:
        on_stage: Called with a sentence before each package is fetched.

    Returns:
        The folder of the packages.

    Raises:
        RuntimeUnavailableError: A package cannot be fetched, or Node.js or a browser, which come
            from the system, are missing.
        ArtifactError: The cache cannot be written.
    """
    packages = dict.fromkeys(package for runtime in web_runtimes() for package in runtime.packages)
    for package in (PLAYWRIGHT, *packages):
        if not is_fetched(package):
            on_stage(f"Fetching {package}")
            fetch_package(package)
    reason = _missing_program()
    if reason is not None:
        raise RuntimeUnavailableError(
            f"all packages are fetched, but a program is missing: {reason}"
        )
    return package_folder(PLAYWRIGHT).parent


def find_browser() -> Path | None:
    """Return Chromium's program: what CHROME_PATH names, or the first that is installed."""
    named = os.environ.get(_BROWSER_VARIABLE)
    if named:
        return Path(named) if Path(named).is_file() else None
    found = next(filter(None, map(shutil.which, _BROWSER_NAMES)), None)
    if found is not None:
        return Path(found)
    places = map(Path, _BROWSER_PLACES.get(sys.platform, ()))
    return next((place for place in places if place.is_file()), None)


def _missing_program() -> str | None:
    """Return what to install of the system's programs; None: all are there."""
    node = shutil.which("node")
    version = None if node is None else _version_of(Path(node))
    if version is None or version < _OLDEST_NODE:
        return f"install Node.js {_OLDEST_NODE} or newer ({_NODE_SOURCE}), then run {INSTALL}"
    if find_browser() is not None:
        return None
    named = os.environ.get(_BROWSER_VARIABLE)
    if named:
        return f"{_BROWSER_VARIABLE} names no file ({named}): name Chromium's program, or unset it"
    source = _BROWSER_SOURCES.get(sys.platform, "apt-get install chromium")
    return f"install Chromium ({source}), or name a browser in {_BROWSER_VARIABLE}"


@lru_cache
def _version_of(program: Path) -> int | None:
    """Return a program's major version; None: it prints none."""
    if sys.platform == "win32" and program.stem != "node":  # a browser opens a window instead
        return None
    line = [str(program), "--version"]
    try:
        answer = subprocess.run(line, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.\d+\.\d+", answer.stdout)
    return int(found[1]) if found else None
