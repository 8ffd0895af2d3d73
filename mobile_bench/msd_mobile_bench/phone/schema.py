"""The result of a measurement on a phone, typed: names and units of what is measured."""

from typing import Literal, TypedDict

from msd_mobile_bench.phone.conditions import PhoneConditions
from msd_mobile_bench.schema import Distribution


class PhoneCpu(TypedDict):
    """A CPU: its number in masks, highest clock in MHz, and ARM's number of its kind, or None."""

    number: int
    most_mhz: int | None
    part: str | None


class PhoneDevice(TypedDict):
    """The phone, as it states itself; its serial number is left out."""

    model: str
    android: str
    api_level: str
    abis: list[str]
    processor: str | None
    cpus: list[PhoneCpu]
    is_emulator: bool


class RoundFigures(TypedDict):
    """What a tool printed of one call, in milliseconds; None for what it does not print.

    Of onnxruntime_perf_test and executor_runner count, mean, min, max and percentiles include the
    warm-up. percentiles_ms follow the tool's rule. memory_bytes: see `formats.Timings`.
    """

    load_ms: float | None
    first_ms: float | None
    warm_up_ms: float | None
    count: int | None
    mean_ms: float
    min_ms: float | None
    max_ms: float | None
    std_ms: float | None
    percentiles_ms: dict[str, float]
    memory_bytes: dict[str, int]


class ViewLatency(TypedDict):
    """The latency under one view.

    entry is the entry point that was run, None that for image and text. inputs is "random" where
    the tool ignored the examples. distribution is of all samples without warm-up, None where the
    tool lists none; mean_ms is its mean, or that of what the tool printed.
    """

    entry: str | None
    inputs: Literal["examples", "random"]
    mean_ms: float
    distribution: Distribution | None
    rounds: list[RoundFigures]


class PhoneRow(TypedDict):
    """One export on one phone.

    load_ms is the median over all calls; first_ms that of image and text together, or of the first
    view that the data has; None where the tool does not print it. memory_bytes has the largest of
    each kind. conditions are of the whole measurement, thermal_per_round after each round. logs are
    paths in the run; pushed has the SHA-256 of what was copied to the phone, by name.
    """

    name: str
    target: str
    precision: str
    export_digest: str
    device: PhoneDevice
    system: str
    tool: str
    threads: int
    cpu_mask: str | None
    warm_up: int
    samples: int
    measured_utc: str
    load_ms: float | None
    first_ms: float | None
    memory_bytes: dict[str, int]
    latency: dict[str, ViewLatency]
    conditions: dict[str, PhoneConditions]
    thermal_per_round: list[str | None]
    logs: list[str]
    pushed: dict[str, str]
    notes: list[str]


class PhoneBench(TypedDict):
    """reports/phone.json."""

    schema_version: int
    kind: str
    msd_deploy: str
    run: str
    rows: list[PhoneRow]
