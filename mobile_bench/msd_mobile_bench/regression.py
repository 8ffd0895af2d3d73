"""Compare a benchmark with an earlier one: what became slower or less accurate, beyond noise.

A row is found again by its key: variant, runtime and number of threads. Latencies are compared as
multiples of the control kernel's, so that a machine that is busier or cooler than before does not
count. Accuracy was measured on the same examples, or is not compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.manifest import read_versioned_json
from msd_deploy.errors import ArtifactError, ConfigError
from msd_mobile_bench.schema import BENCH_SCHEMA_VERSION, Against, Bench, Change, Host, Row

_SAME_HOST = ("cpu", "instructions", "logical_cores", "os", "python", "versions")
_NEW = "Measure it again with this version of msd bench"


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as worse.

    Attributes:
        max_slowdown: Increase of the median latency, as a fraction.
        max_drop: Decrease of the metric of a view, in percentage points.
        any_host: Whether benchmarks of different machines are compared.
    """

    max_slowdown: float = 0.05
    max_drop: float = 0.5
    any_host: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """An earlier benchmark to compare with.

    Attributes:
        path: Its bench.json.
        limits: What counts as worse.
    """

    path: Path
    limits: Limits = Limits()

    def read(self, host: Host) -> Bench:
        """Return the earlier benchmark, if it can be compared with one of this machine.

        Raises:
            ArtifactError: As `read_bench`.
            ConfigError: It was made on another machine, and `any_host` is not set.
        """
        old = read_bench(self.path)
        differing = [name for name in _SAME_HOST if old["host"].get(name) != host.get(name)]
        if differing and not self.limits.any_host:
            raise ConfigError(
                f"{self.path} was measured on another host: {', '.join(differing)} differ",
                where="--against",
                fix="Measure there, or compare anyway with --any-host",
            )
        return old


def read_bench(path: Path) -> Bench:
    """Read an earlier bench.json.

    Raises:
        ArtifactError: It does not exist, is not a benchmark, or another version wrote it.
    """
    bench = read_versioned_json(path, newest=BENCH_SCHEMA_VERSION)
    if bench.get("kind") != "bench":
        raise ArtifactError("is not a benchmark", where=path, fix="Name a bench.json")
    if bench["schema_version"] != BENCH_SCHEMA_VERSION:
        raise ArtifactError("was written by an earlier version", where=path, fix=_NEW)
    rows = bench.get("rows")
    has_facts = {"host", "data", "metric", "created_utc"} <= bench.keys()
    has_rows = isinstance(rows, list) and all(
        isinstance(row, dict) and set(_READ) <= row.keys() for row in rows
    )
    if not (has_facts and has_rows):
        raise ArtifactError("has no complete rows", where=path, fix=_NEW)
    return cast(Bench, bench)


_SUCCEEDED = ("measured", "accuracy_only")
_READ = ("key", "model", "status", "latency_ms", "relative_p50", "scores")


def compare(old: Bench, new: Bench, limits: Limits) -> Against:
    """Return what changed from an earlier benchmark to a new one, row by row."""
    now = {row["key"]: row for row in new["rows"]}
    has_same_data = old["data"] == new["data"] and old["metric"] == new["metric"]
    changes = [
        _change(before, now.get(before["key"]), limits, has_same_data)
        for before in old["rows"]
        if before["status"] in _SUCCEEDED
    ]
    return {
        "created_utc": old["created_utc"],
        "max_slowdown": limits.max_slowdown,
        "max_drop": limits.max_drop,
        "has_same_data": has_same_data,
        "changes": changes,
    }


def _change(before: Row, after: Row | None, limits: Limits, has_same_data: bool) -> Change:
    change: Change = {
        "key": before["key"],
        "slowdown": None,
        "slowdown_interval": None,
        "drops": {},
        "reasons": [],
    }
    if after is None or after["status"] not in _SUCCEEDED:
        what = "is not there any more" if after is None else after["status"].replace("_", " ")
        change["reasons"].append(what)
        return change
    if before["relative_p50"] is not None and after["relative_p50"] is None:
        change["reasons"].append("its latency was not measured")
    elif before["relative_p50"] is not None:
        low, middle, high = _slowdown(before, after)
        change["slowdown"], change["slowdown_interval"] = middle, [low, high]
        if low > limits.max_slowdown:
            change["reasons"].append(
                f"{100 * middle:.1f} % slower (at least {100 * low:.1f} %, limit"
                f" {100 * limits.max_slowdown:g} %)"
            )
    if has_same_data:
        change["drops"] = dict(_drops(before, after))
        change["reasons"] += [
            f"{drop:.2f} points less on the {view} view (limit {limits.max_drop:g})"
            for view, drop in change["drops"].items()
            if drop > limits.max_drop
        ]
    return change


def _slowdown(before: Row, after: Row) -> tuple[float, float, float]:
    """Return the lowest, measured and highest slowdown, as fractions of the earlier latency."""
    old, new = _relative_interval(before), _relative_interval(after)
    return tuple(  # type: ignore[return-value]  # three
        round(numerator / denominator - 1, 6)
        for numerator, denominator in zip(new, reversed(old), strict=True)
    )


def _relative_interval(row: Row) -> tuple[float, float, float]:
    """Return the ends of the interval of the median, and it between them, in control kernels."""
    latency, relative = row["latency_ms"], row["relative_p50"]
    assert latency is not None  # it has a relative one
    assert relative is not None
    low, high = (relative * end / latency["p50"] for end in latency["p50_interval"])
    return low, relative, high


def _drops(before: Row, after: Row) -> Iterator[tuple[str, float]]:
    for view, score in before["scores"].items():
        points = 100 * (score["value"] - after["scores"][view]["value"])
        yield view, round(points, 4)


def worse(against: Against) -> list[str]:
    """Return what became worse, a sentence for each row."""
    return [
        f"{change['key']}: {'; '.join(change['reasons'])}."
        for change in against["changes"]
        if change["reasons"]
    ]


def doubts(against: Against) -> list[str]:
    """Return what was not compared, a sentence each."""
    if against["has_same_data"]:
        return []
    return ["Accuracy was not compared: it was measured on other examples before."]
