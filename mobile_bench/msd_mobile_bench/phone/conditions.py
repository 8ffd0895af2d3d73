"""What a phone says of its heat and battery: `dumpsys thermalservice` and `dumpsys battery`.

The forms are those of Android's source and of outputs in public threads; makers add lines of their
own, which are passed over. Android 9 and older have no thermal service.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from msd_deploy.errors import ArtifactError
from msd_mobile_bench.phone.formats import format_error

THERMAL_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""By Android's number of a thermal status."""
HOT = THERMAL_STATES.index("moderate")
_TEMPERATURE_TYPES = {0, 1, 2, 3, 4, 5, 9}
"""CPU, GPU, battery, skin, USB port, power amplifier, NPU: in degrees. The others (6 to 8) are
limits of the battery's current, in other units."""
_TENTHS = 10.0
_CHARGING = (2, 5)
"""Charging, and full: BatteryManager's numbers."""


class PhoneConditions(TypedDict):
    """What a phone said of its state at one moment; None for what it did not say.

    thermal is one of THERMAL_STATES; battery is 0..1.
    """

    thermal: str | None
    temperatures_c: dict[str, float]
    battery: float | None
    battery_temperature_c: float | None
    charging: bool | None
    low_power: bool | None


@dataclass(frozen=True, slots=True)
class Thermal:
    """The state of the thermal service.

    Attributes:
        status: Index into THERMAL_STATES; None where the phone's sensors are not ready.
        temperatures_c: Of the sensors at this moment, by name, in degrees Celsius.
        is_overridden: Whether the status was set by hand.
    """

    status: int | None
    temperatures_c: Mapping[str, float]
    is_overridden: bool


@dataclass(frozen=True, slots=True)
class Battery:
    """The state of the battery.

    Attributes:
        level: 0..1.
        temperature_c: Degrees Celsius; None where it is not known.
        is_charging: Whether it is charged, or full and plugged in; None where it is not known.
        is_overridden: Whether values were set by hand.
    """

    level: float
    temperature_c: float | None
    is_charging: bool | None
    is_overridden: bool


def read_thermal(text: str, log: Path) -> Thermal | None:
    """Read `dumpsys thermalservice`; None of an Android that has no such service.

    Temperatures are those that the sensors give at this moment. The block before them is of the
    last event, and may be hours old.

    Args:
        text: Its output.
        log: The file that holds it, for errors.

    Raises:
        ArtifactError: It has no thermal status, or one that is unknown.
    """
    if re.search(r"Can't find service|does not exist", text):
        return None
    status = re.search(r"^\s*Thermal Status: *(\d+)\s*$", text, re.MULTILINE)
    if status is None or int(status[1]) >= len(THERMAL_STATES):
        raise format_error("has no thermal status that is known", log)
    is_ready = re.search(r"^\s*HAL Ready: *false", text, re.MULTILINE) is None
    _, _, after = text.partition("Current temperatures from HAL:")
    current = after.partition("Current cooling devices")[0]
    sensors = re.findall(r"Temperature\{mValue=([-\d.]+), mType=(\d+), mName=([^,}]*)", current)
    is_overridden = re.search(r"^\s*IsStatusOverride: *true", text, re.MULTILINE) is not None
    return Thermal(
        int(status[1]) if is_ready or is_overridden else None,
        {
            name: round(float(value), 2)
            for value, kind, name in sensors
            if int(kind) in _TEMPERATURE_TYPES
        },
        is_overridden,
    )


def read_battery(text: str, log: Path) -> Battery:
    """Read `dumpsys battery`.

    Args:
        text: Its output.
        log: The file that holds it, for errors.

    Raises:
        ArtifactError: It has no level, or one outside its scale.
    """
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.strip().partition(":")
        if colon:
            facts.setdefault(name, value.strip())

    def number(name: str) -> int | None:
        value = facts.get(name, "")
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    level, scale = number("level"), number("scale")
    if level is None or not scale or not 0 <= level <= scale:
        raise format_error("has no level of the battery", log)
    temperature, status = number("temperature"), number("status")
    # Emulators and some old phones state 0 for a voltage and a temperature that they do not know.
    is_known = temperature is not None and (temperature != 0 or bool(number("voltage")))
    return Battery(
        level / scale,
        temperature / _TENTHS if temperature is not None and is_known else None,
        None if status is None else status in _CHARGING,
        "UPDATES STOPPED" in text,
    )


def conditions_of(
    thermal_text: str, battery_text: str, low_power_text: str, logs: tuple[Path, Path]
) -> tuple[PhoneConditions, list[str]]:
    """Return the conditions of a phone, and a note for each thing that makes them doubtful.

    Args:
        thermal_text: `dumpsys thermalservice`.
        battery_text: `dumpsys battery`.
        low_power_text: `settings get global low_power`.
        logs: The files that hold the first two.
    """
    thermal, battery, notes = None, None, []
    try:
        thermal = read_thermal(thermal_text, logs[0])
    except ArtifactError as error:
        notes.append(f"The phone's thermal state is not known ({logs[0].name} {error.what}).")
    try:
        battery = read_battery(battery_text, logs[1])
    except ArtifactError as error:
        notes.append(f"The phone's battery is not known ({logs[1].name} {error.what}).")
    if thermal is not None and thermal.is_overridden:
        notes.append("The thermal status was set by hand (cmd thermalservice reset undoes it).")
    if battery is not None and battery.is_overridden:
        notes.append("The battery's state was set by hand (dumpsys battery reset undoes it).")
    return {
        "thermal": _name_of(thermal),
        "temperatures_c": dict(thermal.temperatures_c) if thermal else {},
        "battery": battery.level if battery else None,
        "battery_temperature_c": battery.temperature_c if battery else None,
        "charging": battery.is_charging if battery else None,
        "low_power": {"0": False, "1": True}.get(low_power_text.strip()),
    }, notes


def _name_of(thermal: Thermal | None) -> str | None:
    if thermal is None or thermal.status is None:
        return None
    return THERMAL_STATES[thermal.status]


def is_hot(conditions: PhoneConditions) -> bool:
    """Return whether a phone is so hot that its times are doubtful; not where it does not say."""
    thermal = conditions["thermal"]
    return thermal is not None and THERMAL_STATES.index(thermal) >= HOT
