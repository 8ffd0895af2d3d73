"""What a phone states of itself: model, Android, ABIs, CPUs. Its serial number is left out."""

import re
from dataclasses import dataclass

from msd_mobile_bench.phone.adb import Adb

_MOST_CHARACTERS = 100
_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.build.version.release",
    "ro.build.version.sdk",
    "ro.product.cpu.abilist",
    "ro.product.cpu.abi",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.kernel.qemu",
    "ro.boot.qemu",
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU of the phone; None for what it does not state."""

    number: int
    most_mhz: int | None
    part: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """What a phone states of itself.

    Attributes:
        model: Maker and model.
        android: Version of Android, such as 16.
        api_level: Its number for programs, such as 36.
        abis: What it runs, the fastest first.
        processor: Maker and model of the system on a chip; None before Android 12.
        cpus: In the order of their numbers.
        is_emulator: Whether it is an emulator, whose times are this machine's.
    """

    model: str
    android: str
    api_level: str
    abis: tuple[str, ...]
    processor: str | None
    cpus: tuple[Cpu, ...]
    is_emulator: bool


def describe_device(adb: Adb) -> Device:
    """Return what the phone states of itself.

    Raises:
        PhoneError: It cannot be asked.
    """
    properties = dict(
        line.split("=", 1)
        for line in adb.checked(
            f'for k in {" ".join(_PROPERTIES)}; do echo "$k=$(getprop $k)"; done'
        ).splitlines()
        if "=" in line
    )
    frequencies = adb.checked(
        "for c in /sys/devices/system/cpu/cpu[0-9]*;"
        ' do echo "${c##*/cpu} $(cat $c/cpufreq/cpuinfo_max_freq 2>/dev/null)"; done'
    )
    parts = adb.shell("cat /proc/cpuinfo").text
    return _device({key: _plain(value) for key, value in properties.items()}, frequencies, parts)


def _device(properties: dict[str, str], frequencies: str, cpuinfo: str) -> Device:
    def first(*keys: str) -> str:
        return next((properties[key] for key in keys if properties.get(key)), "")

    maker, model = first("ro.product.manufacturer"), first("ro.product.model")
    if model.lower().startswith(maker.lower()):
        maker = ""
    chip = f"{first('ro.soc.manufacturer')} {first('ro.soc.model')}".strip()
    abis = first("ro.product.cpu.abilist", "ro.product.cpu.abi").split(",")
    return Device(
        model=f"{maker} {model}".strip() or "unknown",
        android=first("ro.build.version.release") or "unknown",
        api_level=first("ro.build.version.sdk") or "unknown",
        abis=tuple(abi.strip() for abi in abis if abi.strip()) or ("unknown",),
        processor=chip or None,
        cpus=_cpus(frequencies, cpuinfo),
        is_emulator="1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")),
    )


def _cpus(frequencies: str, cpuinfo: str) -> tuple[Cpu, ...]:
    """Return the CPUs: kHz from their folders in /sys, their kind from /proc/cpuinfo."""
    parts: dict[int, str] = {}
    number = -1
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor" and value.isdigit():
            number = int(value)
        elif key == "CPU part" and re.fullmatch("0x[0-9a-f]+", value):
            parts[number] = value
    cpus = []
    for match in re.finditer(r"^(\d+) (\d*)\s*$", frequencies, re.MULTILINE):
        number = int(match[1])
        most = int(match[2]) // 1000 if match[2] else None
        cpus.append(Cpu(number, most, parts.get(number)))
    return tuple(sorted(cpus, key=lambda cpu: cpu.number))


def _plain(value: str) -> str:
    """Return a text of the phone's without what a terminal or a page could act on."""
    letters = (c if c.isalnum() or c in " .,:;()/+-_" else " " for c in value)
    return " ".join("".join(letters).split())[:_MOST_CHARACTERS]
