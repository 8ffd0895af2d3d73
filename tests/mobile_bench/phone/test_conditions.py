"""What a phone says of its heat and battery."""

from pathlib import Path

import pytest

from msd_deploy.errors import ArtifactError
from msd_mobile_bench.phone.conditions import (
    conditions_of,
    is_hot,
    read_battery,
    read_thermal,
)
from tests.mobile_bench.phone import samples

LOG = Path("logs/dumpsys.log")
LOGS = (LOG, LOG)


def test_temperatures_are_those_of_the_sensors_and_not_the_cached_ones() -> None:
    found = read_thermal(samples.THERMAL, LOG)
    assert found is not None
    assert found.status == 0
    assert found.temperatures_c == {"CPU0": 66.5, "skin": 31.2}


def test_a_phone_whose_sensors_are_not_ready_says_nothing_of_its_heat() -> None:
    found = read_thermal(samples.THERMAL_NOT_READY, LOG)
    assert found is not None
    assert (found.status, found.temperatures_c) == (None, {})


def test_an_old_android_has_no_thermal_service() -> None:
    assert read_thermal(samples.THERMAL_MISSING, LOG) is None


@pytest.mark.parametrize("text", ["", "Thermal Status: warm\n", "Thermal Status: 9\n"])
def test_an_unknown_thermal_status_is_an_error_that_names_the_log(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"dumpsys\.log: has no thermal status"):
        read_thermal(text, LOG)


def test_the_battery_has_a_level_and_tenths_of_a_degree() -> None:
    found = read_battery(samples.BATTERY, LOG)
    assert (found.level, found.temperature_c, found.is_charging) == (0.19, 27.5, True)


def test_zero_volts_and_degrees_are_not_known() -> None:
    found = read_battery(samples.BATTERY_OLD, LOG)
    assert (found.level, found.temperature_c) == (0.5, None)


def test_zero_degrees_may_be_true() -> None:
    cold = samples.BATTERY.replace("temperature: 275", "temperature: 0")
    assert read_battery(cold, LOG).temperature_c == 0.0


def test_further_lines_of_makers_change_nothing() -> None:
    found = read_battery(samples.BATTERY_SAMSUNG, LOG)
    assert (found.level, found.temperature_c, found.is_charging) == (1.0, 31.2, True)


def test_an_unplugged_phone_is_not_charging() -> None:
    assert read_battery(samples.BATTERY_DISCHARGING, LOG).is_charging is False


@pytest.mark.parametrize(
    "text",
    ["", "  level: 19\n", "  level: 190\n  scale: 100\n", "  level: 19\n  scale: 0\n"],
    ids=["empty", "no-scale", "beyond-its-scale", "scale-of-zero"],
)
def test_an_unknown_battery_is_an_error_that_names_the_log(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"dumpsys\.log: has no level"):
        read_battery(text, LOG)


def test_conditions_have_names_and_shares() -> None:
    hot = samples.THERMAL.replace("Thermal Status: 0", "Thermal Status: 3")
    found, notes = conditions_of(hot, samples.BATTERY, "1\n", LOGS)
    assert found["thermal"] == "severe"
    assert is_hot(found)
    assert (found["battery"], found["charging"], found["low_power"]) == (0.19, True, True)
    assert notes == []


@pytest.mark.parametrize(("status", "hot"), [(0, False), (1, False), (2, True), (6, True)])
def test_a_phone_is_hot_from_moderate_on(status: int, hot: bool) -> None:
    text = samples.THERMAL.replace("Thermal Status: 0", f"Thermal Status: {status}")
    found, _ = conditions_of(text, samples.BATTERY, "0", LOGS)
    assert is_hot(found) is hot


def test_what_is_not_known_is_noted_and_not_zero() -> None:
    found, notes = conditions_of("gibberish", "gibberish", "null", LOGS)
    assert found == {
        "thermal": None,
        "temperatures_c": {},
        "battery": None,
        "battery_temperature_c": None,
        "charging": None,
        "low_power": None,
    }
    assert not is_hot(found)
    assert len(notes) == 2
    assert all("dumpsys.log" in note for note in notes)


def test_values_that_were_set_by_hand_are_noted() -> None:
    """`dumpsys battery set` stops updates: BatteryService.java of Android."""
    thermal = samples.THERMAL.replace("IsStatusOverride: false", "IsStatusOverride: true")
    battery = samples.BATTERY.replace("state:\n", "state:\n  (UPDATES STOPPED -- use 'reset')\n")
    _, notes = conditions_of(thermal, battery, "0", LOGS)
    assert [note.split(" was")[0] for note in notes] == [
        "The thermal status",
        "The battery's state",
    ]
