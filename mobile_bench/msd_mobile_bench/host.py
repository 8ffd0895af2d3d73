"""The properties of the machine that a measurement depends on: processor, system, versions.

Names of the machine and of users, and absolute paths, are left out.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from msd_mobile_bench.schema import Host

_PACKAGES = ("torch", "transformers", "onnxruntime", "coremltools", "numpy")
_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""Instruction sets that decide how fast float32 and int8 kernels are."""


def describe_host() -> Host:
    """Return the properties of this machine that the measurements depend on."""
    return {
        "cpu": _cpu_model(),
        "instructions": _instructions(),
        "logical_cores": psutil.cpu_count() or 1,
        "physical_cores": psutil.cpu_count(logical=False),
        "memory_bytes": int(psutil.virtual_memory().total),
        "os": _system(),
        "python": platform.python_version(),
        "versions": _versions(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    for key in ("model name", "Model"):  # x86; some ARM boards
        value = _cpuinfo(key)
        if value:
            return value
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [name for name in _INSTRUCTIONS if name in flags]


def _cpuinfo(key: str) -> str:
    if not _CPUINFO.is_file():
        return ""
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _system() -> str:
    machine = platform.machine()
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {machine}"
    if sys.platform == "linux":
        return f"{_linux_name()}, Linux {platform.release()} {machine}"
    return f"{platform.system()} {platform.release()} {machine}"


def _linux_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
