"""Install what `arm64` runs into the user's cache: `msd doctor --install arm64`.

Debian's apt-get fetches QEMU, an ARM64 Python and, for ExecuTorch, a cross compiler, and verifies
their signatures; pip fetches the ARM64 wheels of the versions that are installed here. Nothing is
installed on the system, and root is not needed. The folder appears whole or not at all.

ExecuTorch's Python binding needs PyTorch. Its wheel also has the runtime for C++: a small library
(`executorch_calls.cpp`), which `executorch_worker` calls, is compiled against it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts.atomic import new_folder, remove_stale_folders
from msd_deploy.artifacts.manifest import write_json
from msd_deploy.errors import RuntimeUnavailableError
from msd_mobile_bench.runtimes.arm64 import (
    EMULATOR_SUITE,
    EXECUTORCH_LIBRARY,
    EXECUTORCH_SOURCE,
    INSTALL,
    PYTHON,
    STAMP,
    SUITE,
    emulated_python,
    installation_folder,
    is_installed,
    pinned_versions,
    recipe,
    unsupported_here,
    worker_environment,
)

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PYTHON_PACKAGES = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libssl3"),
    *("libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
)
"""Of `SUITE`, with all that Python's modules and the wheels are linked with."""
_GCC = "12"
_COMPILER_PACKAGES = (
    *(f"{name}-{_GCC}-aarch64-linux-gnu" for name in ("cpp", "gcc", "g++")),
    *("binutils-aarch64-linux-gnu", "libbinutils", "libctf0", "libctf-nobfd0"),
    *("libgmp10", "libisl23", "libjansson4", "libmpc3", "libmpfr6", "libzstd1", "zlib1g"),
    *("libc6-arm64-cross", "libc6-dev-arm64-cross", "linux-libc-dev-arm64-cross"),
    *(f"libgcc-{_GCC}-dev-arm64-cross", "libgcc-s1-arm64-cross"),
    *(f"libstdc++-{_GCC}-dev-arm64-cross", "libstdc++6-arm64-cross"),
)
"""Of `SUITE`, without libc6, which is the system's."""
_EXECUTORCH_LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
)
_WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
"""That `SUITE`'s C library, 2.36, can load."""
_UNUSED = ("libLiteRtWebGpuAccelerator.so",)
"""Large, and for processors that are not emulated."""
_MODULES = {
    "numpy": "numpy",
    "psutil": "psutil",
    "flatbuffers": "flatbuffers",
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}


def install_arm64(on_stage: Callable[[str], None] = lambda sentence: None) -> Path:
    """Install the ARM64 runtimes for emulation, unless those of these versions work already.

    Args:
        on_stage: Called with a sentence when a stage begins.

    Returns:
        The folder, about 230 MB, in the user's cache.

    Raises:
        RuntimeUnavailableError: This is not a Debian system, or something cannot be fetched, built
            or started.
        ArtifactError: The cache cannot be written, for example on a full disk.
    """
    folder = installation_folder()
    if is_installed() and _works(folder, on_stage):
        return folder
    mirror = _debian_mirror()
    if folder.parent.is_dir():
        remove_stale_folders(folder.parent)
    with new_folder(folder, keeps_programs=True) as building:
        scratch = building / "scratch"
        scratch.mkdir()
        debian = _install_system(mirror, scratch, building, on_stage)
        _install_wheels(scratch, building / "site", on_stage)
        if "executorch" in pinned_versions():
            debian |= _build_executorch(mirror, scratch, building, on_stage)
        shutil.rmtree(scratch)
        _start(building, on_stage)
        write_json(building / STAMP, {**recipe(), "debian": debian})
    return folder


def _debian_mirror() -> str:
    """Return the address of the Debian mirror that this system is set up with.

    Raises:
        RuntimeUnavailableError: It is not a Debian system.
    """
    fix = f"Run {INSTALL} on Debian, or in a container with it"
    if (reason := unsupported_here()) is not None:
        raise RuntimeUnavailableError(f"ARM64 emulation is {reason}")
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing or not _KEYRING.is_file():
        what = " and ".join(missing) or str(_KEYRING)
        raise RuntimeUnavailableError(
            f"ARM64 emulation is installed from Debian's packages, and this system has no {what}",
            fix=fix,
        )
    # Labels are known once apt-get has fetched its lists, which a new container has not.
    form = "$(LABEL) $(REPO_URI)"
    listed = _run(["apt-get", "indextargets", "--format", form], "apt-get").splitlines()
    found = [line.split()[1] for line in listed if line.startswith("Debian ")]
    found += re.findall(
        r"'(\S+/debian(?:\.list)?/)dists/", _run(["apt-get", "--print-uris", "update"], "apt-get")
    )
    if not found:
        raise RuntimeUnavailableError(
            "ARM64 emulation is installed from Debian's packages, and apt-get has no mirror of them"
            " among its sources",
            fix=fix,
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class _Archive:
    """A release of Debian for one architecture, whose packages are unpacked and not installed.

    Attributes:
        mirror: Its address.
        suite: The release.
        architecture: Of its packages.
        folder: For apt-get's lists and packages; see `open_archive`.
    """

    mirror: str
    suite: str
    architecture: str
    folder: Path

    def unpack(self, names: Sequence[str], target: Path) -> dict[str, str]:
        """Fetch packages and unpack them into a folder.

        Returns:
            The version of each, by name:architecture.

        Raises:
            RuntimeUnavailableError: They cannot be fetched or unpacked.
        """
        packages = self.folder / "packages"
        packages.mkdir()
        self._apt_get("download", *names, folder=packages)
        versions = {}
        for package in sorted(packages.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(target)], "dpkg-deb")
            form = "--showformat=${Package}:${Architecture} ${Version}"
            name, version = _run(["dpkg-deb", "--show", form, str(package)], "dpkg-deb").split()
            versions[name] = version
        shutil.rmtree(packages)
        return versions

    def update(self) -> None:
        """Fetch the list of packages; the system's own lists stay as they are."""
        self._apt_get("update", folder=self.folder)

    def _apt_get(self, *arguments: str, folder: Path) -> None:
        environment = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C"}
        _run(["apt-get", "-qq", *arguments], "apt-get", folder=folder, environment=environment)


def open_archive(mirror: str, suite: str, architecture: str, folder: Path) -> _Archive:
    """Return a release of Debian whose list of packages was fetched.

    Args:
        mirror: Its address.
        suite: The release.
        architecture: Of its packages; need not be this machine's.
        folder: A new folder for apt-get's files.

    Raises:
        RuntimeUnavailableError: The list cannot be fetched.
    """
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "sources").mkdir()
    (folder / "status").touch()
    where = f"[arch={architecture} signed-by={_KEYRING}] {mirror} {suite} main"
    (folder / "sources.list").write_text(f"deb {where}\n", encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": folder / "sources",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Update::Error-Mode": "any",  # otherwise a list that cannot be fetched is a warning
        # As another user, apt-get could not write into a folder of this one.
        "APT::Sandbox::User": "root",
    }
    lines = [f'{name} "{value}";\n' for name, value in settings.items()]
    lines.append(f'APT::Architectures {{ "{architecture}"; }};\n')
    (folder / "apt.conf").write_text("".join(lines), encoding="utf-8")
    archive = _Archive(mirror, suite, architecture, folder)
    archive.update()
    return archive


def _own() -> str:
    """Return Debian's name of this machine's architecture."""
    return _run(["dpkg", "--print-architecture"], "dpkg").strip()


def _install_system(
    mirror: str, scratch: Path, building: Path, on_stage: Callable[[str], None]
) -> dict[str, str]:
    """Install QEMU and an ARM64 Python; return the versions of Debian's packages."""
    on_stage(f"Fetching QEMU of Debian {EMULATOR_SUITE}")
    emulator = open_archive(mirror, EMULATOR_SUITE, _own(), scratch / "apt-emulator")
    versions = emulator.unpack(["qemu-user"], scratch / "emulator")
    (scratch / "emulator/usr/bin/qemu-aarch64").rename(building / "qemu-aarch64")
    on_stage(f"Fetching Python {PYTHON} for ARM64 of Debian {SUITE}")
    system = open_archive(mirror, SUITE, "arm64", scratch / "apt-arm64")
    return versions | system.unpack(_PYTHON_PACKAGES, building / "system")


def _install_wheels(scratch: Path, site: Path, on_stage: Callable[[str], None]) -> None:
    """Install the ARM64 wheels that the worker imports."""
    versions = {name: pinned_versions()[name] for name in _MODULES if name in pinned_versions()}
    on_stage(f"Fetching for ARM64: {_in_words(versions)}")
    _pip("install", versions, "--target", str(site), "--no-compile", scratch=scratch)
    for path in site.rglob("*"):
        if path.name in _UNUSED:
            path.unlink()


def _pip(command: str, versions: Mapping[str, str], *options: str, scratch: Path) -> None:
    """Run pip for ARM64, with packages of these versions alone."""
    words = [sys.executable, "-m", "pip", command, "--quiet", "--no-input", "--no-deps", *options]
    words += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    for name in _WHEEL_PLATFORMS:
        words += ["--platform", f"{name}_aarch64"]
    words += [f"{name}=={version}" for name, version in versions.items()]
    # A user's setting that contradicts --target. What is fetched is unpacked beside the cache.
    environment = {**os.environ, "PIP_USER": "0", "TMPDIR": str(scratch)}
    _run(words, "pip", folder=scratch, environment=environment)


def _build_executorch(
    mirror: str, scratch: Path, building: Path, on_stage: Callable[[str], None]
) -> dict[str, str]:
    """Build the library that runs .pte files; return the versions of Debian's packages."""
    library = building / EXECUTORCH_LIBRARY
    include = _fetch_executorch(scratch, library.parent, on_stage)
    on_stage(f"Fetching the cross compiler of Debian {SUITE}")
    compiler = scratch / "compiler"
    archive = open_archive(mirror, SUITE, _own(), scratch / "apt-compiler")
    versions = archive.unpack(_COMPILER_PACKAGES, compiler)
    on_stage("Compiling the library that calls ExecuTorch")
    its_libraries = ":".join(map(str, (compiler / "usr/lib").glob("*-linux-gnu")))
    _run(
        [
            str(compiler / f"usr/bin/aarch64-linux-gnu-g++-{_GCC}"),
            f"--sysroot={compiler}",
            f"-B{compiler}/usr/bin",
            *compiler_arguments(include, library.parent, library),
        ],
        "the compiler",
        environment={**os.environ, "LD_LIBRARY_PATH": its_libraries},
    )
    return versions


def _fetch_executorch(scratch: Path, libraries: Path, on_stage: Callable[[str], None]) -> Path:
    """Put the libraries of ExecuTorch's ARM64 wheel into a new folder; return its headers."""
    versions = {"executorch": pinned_versions()["executorch"]}
    on_stage(f"Fetching for ARM64: {_in_words(versions)}")
    _pip("download", versions, "--dest", str(scratch / "wheels"), scratch=scratch)
    (wheel,) = (scratch / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        prefixes = ("executorch/lib/", "executorch/include/")
        names = [name for name in archive.namelist() if name.startswith(prefixes)]
        archive.extractall(scratch / "wheel", names)
    libraries.mkdir()
    for name in _EXECUTORCH_LIBRARIES:
        source = scratch / f"wheel/executorch/lib/lib{name}.so"
        if source.is_file():
            source.rename(libraries / source.name)
    return scratch / "wheel/executorch/include"


def compiler_arguments(include: Path, libraries: Path, target: Path) -> list[str]:
    """Return the arguments with which a C++ compiler makes the library that calls ExecuTorch.

    Args:
        include: Headers of ExecuTorch's wheel.
        libraries: The folder of its libraries.
        target: The library to write; finds the others beside itself.
    """
    there = [name for name in _EXECUTORCH_LIBRARIES if (libraries / f"lib{name}.so").is_file()]
    return [
        *("-std=c++17", "-O2", "-w", "-shared", "-fPIC"),
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        f"-I{include}",
        f"-I{include}/executorch/runtime/core/portable_type/c10",
        *(str(EXECUTORCH_SOURCE), "-o", str(target)),
        # Kernels and delegates register themselves when they are loaded: none may be left out.
        *(f"-L{libraries}", "-Wl,--no-as-needed"),
        *(f"-l{name}" for name in there),
        "-Wl,-rpath,$ORIGIN",
    ]


def _start(folder: Path, on_stage: Callable[[str], None]) -> None:
    """Import the runtimes under emulation; the first time this also writes their byte code.

    Raises:
        RuntimeUnavailableError: They cannot be imported.
    """
    on_stage("Starting the ARM64 runtimes")
    names = [module for name, module in _MODULES.items() if name in pinned_versions()]
    lines = [f"import {', '.join(names)}"]
    if "executorch" in pinned_versions():
        lines.append(f"import ctypes; ctypes.CDLL({str(folder / EXECUTORCH_LIBRARY)!r})")
    environment = worker_environment(folder, 1)
    del environment["PYTHONDONTWRITEBYTECODE"]
    command = [*emulated_python(folder), "-P", "-c", "\n".join(lines)]
    _run(command, "the emulated Python", environment=environment)


def _works(folder: Path, on_stage: Callable[[str], None]) -> bool:
    try:
        _start(folder, on_stage)
    except RuntimeUnavailableError:  # damaged since: it is installed again
        return False
    return True


def _in_words(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _run(
    command: Sequence[str],
    name: str,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return what it prints.

    Args:
        command: The program and its arguments.
        name: What the error calls it.
        folder: Its working directory.
        environment: Its variables.

    Raises:
        RuntimeUnavailableError: It cannot be started or fails; with what it prints.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,  # the first Ctrl-C stops after the stage
        )
    except OSError as error:
        raise RuntimeUnavailableError(f"{name} cannot be started ({error.strerror})") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reasons = [line for line in lines if line.startswith(("E:", "ERROR:"))] or lines[-1:]
        raise RuntimeUnavailableError(
            f"{name} failed ({' '.join(reasons) or f'exit code {done.returncode}'}) in:"
            f" {shlex.join(command)}",
            fix=f"Check the network and the free space, and run {INSTALL} again",
        )
    return done.stdout
