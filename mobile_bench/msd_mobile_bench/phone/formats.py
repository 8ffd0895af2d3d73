"""What the runtimes' own benchmark tools print, read into one form; times in milliseconds.

onnxruntime_perf_test prints seconds, benchmark_model microseconds (its successor for compiled
models milliseconds), executor_runner milliseconds; names and order changed over the years, and each
is known by its names alone. Output without a mean latency is an error, never a zero. The forms are
those of the tools' published sources and of outputs in public threads; tests/mobile_bench/phone has
a sample of each with its source.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from msd_deploy.errors import ArtifactError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_MS_PER = {"s": 1e3, "sec": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_MIB = 1 << 20
_LOGCAT = re.compile(
    r"(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d\.\d+)\s+(?P<pid>\d+)\s+\d+"
    r" [VDIWEF] .*?\s*: (?P<text>.*)"
)
"""A line of `logcat -v threadtime`."""
_STAMPED = re.compile(
    r"[DIEF] (?:(?P<clock>\d\d:\d\d:\d\d\.\d+) )?executorch:[\w.]+:\d+\] (?P<text>.*)"
)
"""A line of ExecuTorch's own log; a build without a clock has no stamp."""
_PREFIX = re.compile(r"(?:INFO|WARN|WARNING|ERROR): (?:\[[\w./]+:\d+\] )?")
_SAME = 0.02
"""Two figures of one mean may differ by this share: they are printed to few digits."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What one call of a tool reported; None for what it does not print.

    Attributes:
        mean_ms: Mean latency of the predictions that it counts.
        count: How many these are.
        load_ms: Time to open the model.
        first_ms: The first prediction.
        warm_up_ms: Mean of the predictions that it does not count.
        min_ms: The shortest.
        max_ms: The longest.
        std_ms: Standard deviation.
        percentiles_ms: By name, such as p50; by the tool's own rule, which differ.
        memory_bytes: By what it is of: `peak`, the most that the process had; `increase`, from the
            start of the tool to its end; `increase_init`, to the end of opening the model.
        samples_ms: Each prediction, in order, where it lists them: also the first and those of the
            warm-up.
        used_inputs: False where it reported that it ignored the given inputs.
    """

    mean_ms: float
    count: int | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    warm_up_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    percentiles_ms: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    samples_ms: tuple[float, ...] = ()
    used_inputs: bool = True


def format_error(what: str, log: Path, fix: str = "") -> ArtifactError:
    """Return the error of an output that cannot be read; the log is kept."""
    return ArtifactError(what, where=log, fix=fix or "Look into this log for what the tool reports")


def read_onnxruntime_perf_test(text: str, log: Path) -> Timings:
    """Read what onnxruntime_perf_test printed.

    Args:
        text: Its output.
        log: The file that holds it, for errors.

    Raises:
        ArtifactError: It has no average latency, or one without a unit that is known.
    """
    facts: dict[str, tuple[float, str]] = {}
    for line in text.splitlines():
        found = re.fullmatch(rf"([A-Z][\w ]*?)(?::| is) *({_NUMBER}) *([a-z%]*)\s*", line.strip())
        if found:
            facts.setdefault(found[1], (float(found[2]), found[3]))

    def milliseconds(*names: str) -> float | None:
        for name in names:
            if name in facts:
                value, unit = facts[name]
                if unit not in _MS_PER:
                    raise format_error(f"{name} has no unit of time that is known", log)
                return value * _MS_PER[unit]
        return None

    def count(*names: str) -> int | None:
        return next((int(facts[name][0]) for name in names if name in facts), None)

    mean = milliseconds(
        "Average inference time cost total", "Average inference time cost", "Average time cost"
    )
    if mean is None:
        raise format_error("has no average latency of onnxruntime_perf_test", log)
    names = ("p50", "p90", "p95", "p99", "p999")
    percentiles = {name: milliseconds(f"{name.upper()} Latency") for name in names}
    peak = count("Peak working set size")
    return Timings(
        mean_ms=mean,
        count=count("Total inference requests", "Total iterations", "Runs"),
        load_ms=milliseconds("Session creation time cost"),
        first_ms=milliseconds("First inference time cost"),
        min_ms=milliseconds("Min Latency"),
        max_ms=milliseconds("Max Latency"),
        percentiles_ms={name: value for name, value in percentiles.items() if value is not None},
        memory_bytes={"peak": peak} if peak else {},
    )


def read_perf_test_samples(text: str, log: Path, mean_ms: float) -> tuple[float, ...]:
    """Read onnxruntime_perf_test's result file: a line a prediction, then perhaps percentiles.

    Its second column is in seconds; in versions of 2019 in nanoseconds.

    Args:
        text: The file's content.
        log: The file, for errors.
        mean_ms: The mean that the tool printed, which decides the unit.

    Raises:
        ArtifactError: It has no predictions, or they have another mean in either unit.
    """
    rows = [line.rsplit(",", 4) for line in text.splitlines() if line.count(",") >= 4]
    values = [float(row[1]) for row in rows if re.fullmatch(_NUMBER, row[1])]
    if not values or len(values) < len(rows):
        raise format_error("is not a result file of onnxruntime_perf_test", log)
    for unit in ("s", "ns"):
        samples = tuple(value * _MS_PER[unit] for value in values)
        if _is_same(math.fsum(samples) / len(samples), mean_ms):
            return samples
    raise format_error("has other latencies than the tool printed", log)


def read_benchmark_model(text: str, log: Path) -> Timings:
    """Read what LiteRT's benchmark_model printed, that for compiled models included.

    Args:
        text: Its output, or the lines of its app in logcat.
        log: The file that holds it, for errors.

    Raises:
        ArtifactError: It has no average latency, or two that contradict each other.
    """
    lines = [_PREFIX.sub("", message) for _, message in _messages(text)]
    timed, ends = _timed_statistics(lines), _end_of_benchmark(lines)
    if "mean" not in ends:
        raise format_error("has no average latency of benchmark_model", log)
    if "avg" in timed and not _is_same(timed["avg"], ends["mean"]):
        raise format_error("has two average latencies that differ", log)
    count = timed.get("count", ends.get("count"))
    percentiles = {"p5": "p5", "p50": "median", "p95": "p95"}
    return Timings(
        mean_ms=timed.get("avg", ends["mean"]),
        count=None if count is None else int(count),
        load_ms=ends.get("load"),
        first_ms=ends.get("first"),
        warm_up_ms=ends.get("warm_up"),
        min_ms=timed.get("min", ends.get("min")),
        max_ms=timed.get("max", ends.get("max")),
        std_ms=timed.get("std", ends.get("std")),
        percentiles_ms={name: timed[key] for name, key in percentiles.items() if key in timed},
        memory_bytes=_memory_of_benchmark(lines),
        used_inputs=not any("Unconsumed" in line and "input_layer" in line for line in lines),
    )


def _timed_statistics(lines: Sequence[str]) -> dict[str, float]:
    """Return the statistics of the timed runs, in milliseconds; none where they cannot be told.

    Both the warm-up and the timed runs end in a line `count=`; a line "Running benchmark" is before
    each. A single run has the value alone, as `curr`.
    """
    starts = [place for place, line in enumerate(lines) if line.startswith("Running benchmark for")]
    if starts and len(starts) < 2:
        return {}
    rows = [line for line in lines[starts[1] if starts else 0 :] if line.startswith("count=")]
    if not rows:
        return {}
    row = rows[0] if starts else rows[-1]
    found = {name: float(value) for name, value in re.findall(rf"(\w+)=({_NUMBER})", row)}
    if found.get("count") == 1 and "curr" in found:
        found |= dict.fromkeys(("avg", "min", "max"), found["curr"])
    return {
        name: value if name == "count" else value * _MS_PER["us"] for name, value in found.items()
    }


_ENDS = (
    # TensorFlow Lite since 2020, and before; microseconds.
    (r"Inference timings in us: .*\bInit: (N)", "load", "us"),
    (r"Inference timings in us: .*\bFirst inference: (N)", "first", "us"),
    (r"Inference timings in us: .*\bWarmup \(avg\): (N)", "warm_up", "us"),
    (r"Inference timings in us: .*\bInference \(avg\): (N)", "mean", "us"),
    (r"Average inference timings in us: .*\bInit: (N)", "load", "us"),
    (r"Average inference timings in us: .*\bWarmup: (N)", "warm_up", "us"),
    (r"Average inference timings in us: .*\bno stats: (N)", "mean", "us"),
    # LiteRT's tool for compiled models; milliseconds, of which it prints two decimals.
    (r"Model initialization: +(N) ms", "load", "ms"),
    (r"Warmup \(first\): +(N) ms", "first", "ms"),
    (r"Warmup \(avg\): +(N) ms", "warm_up", "ms"),
    (r"Inference \(avg\): +(N) ms", "mean", "ms"),
    (r"Inference \(min\): +(N) ms", "min", "ms"),
    (r"Inference \(max\): +(N) ms", "max", "ms"),
    (r"Inference \(std\): +(N)", "std", "ms"),
)
_MEMORY = (
    (r"Memory footprint delta from the start of the tool \(MB\): init=(N)", "increase_init"),
    (r"Memory footprint delta from .* overall=(N)", "increase"),
    # Its name until 2020, although it is the same difference.
    (r"Peak memory footprint \(MB\): init=(N)", "increase_init"),
    (r"Peak memory footprint \(MB\): .* overall=(N)", "increase"),
    (r"Overall peak memory footprint \(MB\) via periodic monitoring: (N)", "peak"),
    (r"Init footprint: +(N) MB", "increase_init"),
    (r"Overall footprint: +(N) MB", "increase"),
    (r"Peak memory: +(N) MB", "peak"),
)


def _end_of_benchmark(lines: Iterable[str]) -> dict[str, float]:
    """Return the figures of the tool's last block: milliseconds, and their count where it is."""
    found: dict[str, float] = {}
    for line in lines:
        for pattern, name, unit in _ENDS:
            if match := re.match(pattern.replace("N", _NUMBER), line):
                found[name] = float(match[1]) * _MS_PER[unit]
        if match := re.match(r"Inference \(avg\): .*\((\d+) runs\)", line):
            found["count"] = float(match[1])
    return found


def _memory_of_benchmark(lines: Iterable[str]) -> dict[str, int]:
    found = {}
    for line in lines:
        for pattern, name in _MEMORY:
            if match := re.match(pattern.replace("N", _NUMBER), line):
                found[name] = round(float(match[1]) * _MIB)
    return found


def read_executor_runner(text: str, log: Path, pid: int | None = None) -> Timings:
    """Read what ExecuTorch's executor_runner logged.

    On a phone that is in logcat (tag ExecuTorch), elsewhere in its output.

    Args:
        text: Lines of `logcat -v threadtime`, or its output.
        log: The file that holds them, for errors.
        pid: The tool's process; None: all lines of logcat are of one call.

    Raises:
        ArtifactError: It logged no time, or its iterations contradict their total.
    """
    messages = list(_messages(text, pid))
    samples: list[float] = []
    load: float | None = None
    for _, line in messages:
        if match := re.match(rf"Model loaded in ({_NUMBER}) ms", line):
            load, samples = float(match[1]), []  # a process number that was used before
        elif match := re.match(rf"Iteration \d+ of \d+: ({_NUMBER}) ms", line):
            samples.append(float(match[1]))
    count, total = _total_of_runner(messages, log)
    if samples and (len(samples) != count or not _is_same(math.fsum(samples), total)):
        samples = []  # logcat drops lines of a process that logs much
    return Timings(
        mean_ms=total / count,
        count=count,
        load_ms=load,
        first_ms=samples[0] if samples else None,
        min_ms=min(samples, default=None),
        max_ms=max(samples, default=None),
        samples_ms=tuple(samples),
    )


_TOTAL = re.compile(
    r"(?:Model executed successfully )?(?P<count>\d+) (?:time\(s\) in|inference took)"
    rf" (?P<total>{_NUMBER}) ms"
)
"""Of executor_runner since 2025, and of Qualcomm's."""


def _total_of_runner(messages: Sequence[tuple[float | None, str]], log: Path) -> tuple[int, float]:
    """Return how often the model was run, and the milliseconds that took in all."""
    found: tuple[int, float] | None = None
    began: float | None = None
    for stamp, line in messages:
        if match := _TOTAL.match(line):
            found = int(match["count"]), float(match["total"])
        elif line.startswith("Inputs prepared"):
            began = stamp
        elif line.startswith("Model executed successfully") and None not in (stamp, began):
            # Before 2025 it logged no time: there are the stamps alone.
            found = 1, (cast(float, stamp) - cast(float, began)) % 86_400 * _MS_PER["s"]
    if found is None or found[0] < 1 or found[1] <= 0:
        raise format_error(
            "has no time of executor_runner",
            log,
            "Build it with -DEXECUTORCH_ENABLE_LOGGING=ON, from ExecuTorch 1.0 or later",
        )
    return found


def _messages(text: str, pid: int | None = None) -> Iterator[tuple[float | None, str]]:
    """Yield each line without what its log puts before it, and its time of the day in seconds.

    Args:
        text: Lines of logcat, of ExecuTorch's own log, or of neither.
        pid: The process whose lines of logcat count; None: all.
    """
    for line in text.splitlines():
        if match := _LOGCAT.fullmatch(line.rstrip()):
            if pid is None or int(match["pid"]) == pid:
                inner = _STAMPED.fullmatch(match["text"])
                yield _seconds(match["clock"]), inner["text"] if inner else match["text"]
        elif match := _STAMPED.fullmatch(line.rstrip()):
            yield _seconds(match["clock"]) if match["clock"] else None, match["text"]
        else:
            yield None, line.strip()


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _is_same(one: float, other: float) -> bool:
    """Return whether two figures are one, up to the digits that are printed."""
    return math.isclose(one, other, rel_tol=_SAME, abs_tol=0.01)
