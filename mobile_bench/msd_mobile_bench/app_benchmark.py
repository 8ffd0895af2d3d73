"""What `benchmark()` of an app's bundle measured: read, checked, and summarized as in bench.json.

docs/embedding.md has the keys. The file comes from a phone or a browser: nothing of it is trusted.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from msd_deploy.artifacts.manifest import (
    RESTORE,
    Json,
    is_number,
    read_versioned_json,
    sha256_of_json,
)
from msd_deploy.errors import ArtifactError
from msd_deploy.views import View
from msd_mobile_bench.latency import describe
from msd_mobile_bench.schema import AppRow, Conditions, Distribution
from msd_mobile_bench.variants import TORCH, Variant

KIND = "app_benchmark"
STAGES = ("decode", "resize", "tokenize", "inference", "total")
PLATFORMS = ("android", "ios", "web")
THERMAL_STATES = ("none", "light", "moderate", "severe", "critical")
_REWRITE = "Use the unmodified output of the bundle's benchmark()"
_Read = TypeVar("_Read")
_MOST_SAMPLES = 1_000_000
_LONGEST_TEXT = 500
_MOST_BYTES = 20_000_000
_MOST_MS = 1e7
_MARKS = " .,:;()/+-_'"
_COARSE = 0.05
"""A clock whose step is a larger share of the median makes percentiles doubtful."""


def read_app_benchmark(path: Path, variants: list[Variant]) -> AppRow:
    """Read a file that `benchmark()` of a bundle wrote.

    Args:
        path: The file.
        variants: Of the run: the bundle was made of one of them.

    Raises:
        ArtifactError: The file does not exist, is not an app benchmark, has an invalid value, or
            was made from another model.
    """
    check = _Check(path)
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise check.error("it", f"a file of up to {_MOST_BYTES:,} bytes")
    try:
        content = read_versioned_json(path)
    except ArtifactError as error:
        fix = _REWRITE if error.fix == RESTORE else error.fix
        raise ArtifactError(error.what, where=error.where, fix=fix) from error
    if content.get("kind") != KIND:
        raise check.error("kind", f"{KIND!r}: benchmark() of a bundle did not write the file")
    variant = _variant_of(content, variants, check)
    return {
        "name": variant.name,
        "target": variant.target,
        "precision": variant.precision,
        "file_digest": sha256_of_json(content),
        "bundle_digest": check.text(content, "bundle_digest"),
        "export_digest": check.text(content, "export_digest"),
        "platform": check.one_of(content, "platform", PLATFORMS),
        "device": check.text(content, "device.model"),
        "system": check.text(content, "device.system"),
        "cores": check.count(content, "device.cores"),
        "runtime": check.text(content, "runtime"),
        "threads": check.optional(check.count, content, "threads"),
        "measured_utc": check.time(content, "measured_utc"),
        "load_time_ms": check.optional(check.number, content, "load_ms"),
        "first_ms": check.optional(check.number, content, "first_ms"),
        "clock_step_ms": check.number(content, "clock_step_ms"),
        "latency_ms": {
            view.value: check.rounds(content, f"latency_ms.{view.value}") for view in View
        },
        "stages_ms": {stage: check.samples(content, f"stages_ms.{stage}") for stage in STAGES},
        "photo": {
            key: check.count(content, f"photo.{key}", least=0)
            for key in ("bytes", "width", "height", "characters")
        },
        "conditions": {
            "before": check.conditions(content, "conditions.before"),
            "after": check.conditions(content, "conditions.after"),
        },
    }


def app_notes(row: AppRow) -> list[str]:
    """Return what makes the numbers of an app doubtful, a sentence each."""
    notes = []
    shortest = min(latency["p50"] for latency in row["latency_ms"].values())
    if row["clock_step_ms"] > _COARSE * shortest:
        notes.append(f"its clock steps by {row['clock_step_ms']:g} ms")
    hottest = max(
        (state.get("thermal", "none") for state in row["conditions"].values()),
        key=THERMAL_STATES.index,
    )
    if THERMAL_STATES.index(hottest) >= THERMAL_STATES.index("moderate"):
        notes.append(f"the device was hot (thermal state {hottest})")
    if any(state.get("low_power") for state in row["conditions"].values()):
        notes.append("the device saved power")
    if any(state.get("hidden") for state in row["conditions"].values()):
        notes.append("its page was hidden for a while")
    return notes


def is_of(row: AppRow, variants: list[Variant]) -> bool:
    """Return whether an app's model is still one of a run's exports."""
    return row["export_digest"] in map(_export_digest, exports_of(variants))


def exports_of(variants: list[Variant]) -> list[Variant]:
    """Return the variants that a bundle is made of: the student's exports."""
    return [each for each in variants if each.model == "student" and each.target != TORCH]


def _variant_of(content: Json, variants: list[Variant], check: "_Check") -> Variant:
    digest = check.text(content, "export_digest")
    form = check.text(content, "form")
    for variant in exports_of(variants):
        if _export_digest(variant) == digest and variant.name == f"student-{form}":
            return variant
    raise ArtifactError(
        f"measures an export {form} that is none of this run's",
        where=check.path,
        fix="Name the run that the bundle was made of; a new export needs a new bundle",
    )


def _export_digest(variant: Variant) -> str:
    return sha256_of_json(variant.manifest)


class _Check:
    """Reads values by their path, such as "device.model", and refuses what cannot be.

    Args:
        path: The file, for errors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, key: str, wanted: str) -> ArtifactError:
        return ArtifactError(
            f"{key} is not {wanted}",
            where=self.path,
            fix=_REWRITE,
        )

    def text(self, content: Json, key: str) -> str:
        """Return a text; what a terminal, Markdown or HTML could take for its own is a blank."""
        value = self._value(content, key)
        plain = "".join(
            letter if letter.isalnum() or letter in _MARKS else " "
            for letter in (value if isinstance(value, str) else "")
        )
        if not plain.strip() or len(plain) > _LONGEST_TEXT:
            raise self.error(key, f"a text of up to {_LONGEST_TEXT} characters")
        return " ".join(plain.split())

    def one_of(self, content: Json, key: str, values: tuple[str, ...]) -> str:
        value = self._value(content, key)
        if value not in values:
            raise self.error(key, f"one of {', '.join(values)}")
        return value

    def number(self, content: Json, key: str) -> float:
        value = self._value(content, key)
        if not is_number(value) or value < 0:
            raise self.error(key, "a number from 0")
        return float(value)

    def count(self, content: Json, key: str, least: int = 1) -> int:
        value = self.number(content, key)
        if value < least or value != int(value):
            raise self.error(key, f"a whole number from {least}")
        return int(value)

    def optional(self, read: Callable[[Json, str], _Read], content: Json, key: str) -> _Read | None:
        return None if self._value(content, key) is None else read(content, key)

    def time(self, content: Json, key: str) -> str:
        value = self.text(content, key)
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise self.error(key, "a time of ISO 8601") from None
        return value

    def rounds(self, content: Json, key: str) -> Distribution:
        rounds = self._value(content, key)
        if not isinstance(rounds, list) or not rounds:
            raise self.error(key, "a list of rounds")
        return describe([self._milliseconds(samples, key) for samples in rounds])

    def samples(self, content: Json, key: str) -> Distribution:
        return describe([self._milliseconds(self._value(content, key), key)])

    def conditions(self, content: Json, key: str) -> Conditions:
        state = self._value(content, key)
        if not isinstance(state, dict):
            raise self.error(key, "an object")
        found: Conditions = {}
        if "thermal" in state:
            found["thermal"] = self.one_of(content, f"{key}.thermal", THERMAL_STATES)
        if "battery" in state:
            found["battery"] = self.number(content, f"{key}.battery")
            if found["battery"] > 1:
                raise self.error(f"{key}.battery", "a number from 0 to 1")
        if "charging" in state:
            found["charging"] = self._yes_or_no(content, f"{key}.charging")
        if "low_power" in state:
            found["low_power"] = self._yes_or_no(content, f"{key}.low_power")
        if "hidden" in state:
            found["hidden"] = self._yes_or_no(content, f"{key}.hidden")
        return found

    def _yes_or_no(self, content: Json, key: str) -> bool:
        value = self._value(content, key)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def _milliseconds(self, samples: object, key: str) -> list[float]:
        if not isinstance(samples, list) or not 0 < len(samples) <= _MOST_SAMPLES:
            raise self.error(key, "a list of samples")
        if not all(is_number(sample) and 0 <= sample <= _MOST_MS for sample in samples):
            raise self.error(key, f"milliseconds from 0 to {_MOST_MS:,.0f}")
        return [float(sample) for sample in samples]

    def _value(self, content: Json, key: str) -> object:
        value: object = content
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ArtifactError(
                    f"has no {key}",
                    where=self.path,
                    fix=_REWRITE,
                )
            value = value[part]
        return value
