"""Fetch packages of npm into the user's cache, each verified, once.

Only files that are used are kept, and no script of a package is run. All packages that a command
uses are listed here, so that each version is stated once: `msd demo` serves onnxruntime-web, and
`msd bench` runs it and LiteRT.js in a browser that playwright-core controls.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import read_manifest, write_manifest
from msd_deploy.artifacts.output import user_cache
from msd_deploy.errors import ArtifactError, RuntimeUnavailableError

_KIND = "npm-package"
_ROOT = "package"


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A version of a package.

    Attributes:
        name: As npm knows it.
        version: Exact.
        integrity: Of the published archive, as `npm view NAME@VERSION dist.integrity` prints it.
        files: What is kept: files, and folders with a slash at the end.
    """

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


ONNXRUNTIME_WEB = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ("package.json", "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"),
)
LITERT_JS = NpmPackage(
    "@litertjs/core",
    "2.5.3",
    "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    (
        "package.json",
        "dist/index.js",
        "wasm/litert_wasm_internal.js",
        "wasm/litert_wasm_internal.wasm",
        "wasm/litert_wasm_threaded_internal.js",
        "wasm/litert_wasm_threaded_internal.wasm",
    ),
)
LITERT_WASM_UTILS = NpmPackage(
    "@litertjs/wasm-utils",
    "2.5.3",
    "sha512-4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    ("package.json", "dist/index.js"),
)
PLAYWRIGHT = NpmPackage(
    "playwright-core",
    "1.65.1",
    "sha512-hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==",
    ("package.json", "browsers.json", "index.js", "index.mjs", "LICENSE", "NOTICE", "lib/"),
)


def package_folder(package: NpmPackage) -> Path:
    """Return where a package is kept in the user's cache, whether it is there or not."""
    name = package.name.removeprefix("@").replace("/", "-")
    return user_cache() / "npm" / f"{name}-{package.version}"


def is_fetched(package: NpmPackage) -> bool:
    """Return whether a package is in the user's cache, every file as it was published."""
    try:
        manifest = read_manifest(package_folder(package), _KIND)
    except ArtifactError:
        return False
    return manifest.get("integrity") == package.integrity


def fetch_package(package: NpmPackage) -> Path:
    """Return the folder of a package in the user's cache; npm fetches it if it is not there.

    Raises:
        RuntimeUnavailableError: npm is missing, or cannot fetch it, or what it fetches is not what
            was published.
        ArtifactError: The cache cannot be written.
    """
    folder = package_folder(package)
    if is_fetched(package):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(package, Path(scratch))
        _check_integrity(package, archive)
        with new_folder(folder) as building:
            _extract(package, archive, building)
            write_manifest(building, _KIND, {"name": str(package), "integrity": package.integrity})
    return folder


def _download(package: NpmPackage, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeUnavailableError(
            f"{package} is fetched by npm, which is not installed",
            fix="Install Node.js (https://nodejs.org, or apt-get install npm)",
        )
    line = [npm, "pack", "--silent", "--ignore-scripts", str(package)]
    answer = subprocess.run(line, cwd=scratch, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if answer.returncode or not archives:
        reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        raise RuntimeUnavailableError(
            f"npm cannot fetch {package} ({reason})", fix="Check the network, and try again"
        )
    return archives[0]


def _check_integrity(package: NpmPackage, archive: Path) -> None:
    algorithm, _, expected = package.integrity.partition("-")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    if base64.b64encode(digest).decode() != expected:
        raise RuntimeUnavailableError(
            f"{package} is not the published package (its SHA-512 differs)",
            fix="Check where npm fetches packages from",
        )


def _extract(package: NpmPackage, archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as content:
        for member in content:
            name = PurePosixPath(member.name).relative_to(_ROOT)
            if not member.isfile() or not _is_kept(package, name):
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            source = content.extractfile(member)
            assert source is not None  # a file
            with path.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def _is_kept(package: NpmPackage, name: PurePosixPath) -> bool:
    if ".." in name.parts:
        return False
    return any(
        str(name).startswith(kept) if kept.endswith("/") else str(name) == kept
        for kept in package.files
    )
