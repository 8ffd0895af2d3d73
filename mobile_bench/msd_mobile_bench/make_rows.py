"""The rows of bench.json, the ratios of student to teacher, and the notes on the measurement."""

from collections.abc import Sequence

import numpy as np

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import MsdError, RuntimeUnavailableError
from msd_deploy.views import View
from msd_export.predictors import UNTIMED_RUNTIMES
from msd_mobile_bench.baselines.architectures import NOTE
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.latency import describe
from msd_mobile_bench.quality import Quality
from msd_mobile_bench.runtimes.process import WorkerError
from msd_mobile_bench.runtimes.setup import NEEDS_A_DEVICE, Setup
from msd_mobile_bench.schema import FAILED, Control, Host, Ratios, Row, Status
from msd_mobile_bench.timing import CONTROL_BAND, Timing
from msd_mobile_bench.variants import TORCH

MOST_DRIFT = 1.25
_FEW_EXAMPLES = 200
_BUSY_SHARE = 0.75  # an export that has just ended keeps one core's load for a minute


def write_notes(
    rows: Sequence[Row], control: Control, host: Host, config: BenchConfig
) -> list[str]:
    """Return the notes that apply."""
    notes = []
    drift = control["host_drift"]
    if drift > MOST_DRIFT:
        notes.append(
            f"Timings are unsteady: the slowest turn of the control kernel took {drift:.2f} times"
            f" as long as the fastest (limit: {MOST_DRIFT:g}). Close other programs and measure"
            " again before comparing variants of similar latency."
        )
    load, cores = host["load_average_1min"], host["logical_cores"]
    if load is not None and load > _BUSY_SHARE * cores:
        notes.append(f"The host was busy at the start: load average {load:g} on {cores} cores.")
    if control["repeated_turns"]:
        notes.append(
            f"{control['repeated_turns']} turns were measured again, since the control kernel took"
            f" more than {CONTROL_BAND:g} times its fastest."
        )
    for row in rows:
        if row["status"] in FAILED:
            notes.append(f"{row['key']} failed ({row['status']}): {row['note']}")
        notes += [f"{row['key']}: {flag}." for flag in row["flags"]]
    for runtime, sentence in UNTIMED_RUNTIMES.items():
        if any(row["runtime"] == runtime for row in rows):
            notes.append(
                f"{sentence}: metrics and sizes are valid, latency and memory are omitted"
                f" ({NEEDS_A_DEVICE})."
            )
    if compared_pair(rows)[0]["target"] == TORCH:
        notes.append("The teacher is compared in PyTorch: it was not measured in ONNX.")
    examples = min(row["scores"]["multimodal"]["examples"] for row in rows if row["scores"])
    if examples < _FEW_EXAMPLES:
        notes.append(f"Only {examples} test examples: the intervals of the metrics are wide.")
    if config.rounds % 2:
        notes.append("The number of rounds is odd: one order of the models counts more.")
    return notes


_MS_PER_SECOND = 1000.0
_MOST_KEPT = 1000
_COMPARED = (("onnx", "fp32"), (TORCH, "fp32"))
_NATIVE = ("onnxruntime", TORCH)


def make_row(
    run: RunDirectory,
    setup: Setup,
    timing: Timing | None,
    quality: Quality | MsdError | None,
    config: BenchConfig,
    *,
    size_compressed_bytes: int,
) -> Row:
    """Return the row of one setup.

    Args:
        run: The run.
        setup: What was measured.
        timing: None: it has no latency that counts.
        quality: Of its predictions, or why there are none; None: they are not evaluated.
        config: How it was measured.
        size_compressed_bytes: Of the model's file in a zip file.
    """
    variant = setup.variant
    row: Row = {
        "key": setup.key,
        "name": variant.name,
        "model": variant.model,
        "target": variant.target,
        "precision": variant.precision,
        "runtime": setup.runtime.title,
        "runtime_key": setup.runtime.key,
        "threads": setup.threads,
        "status": _status(timing, quality),
        "path": "" if variant.baseline else variant.folder.relative_to(run.root).as_posix(),
        "digest": variant.digest,
        "size_bytes": variant.size_bytes,
        "size_compressed_bytes": size_compressed_bytes,
        "parameters": variant.parameters,
        "load_time_ms": None,
        "first_ms": None,
        "latency_ms": None,
        "single_view_latency_ms": {},
        "relative_p50": None,
        "repeated_turns": 0,
        "flags": [],
        "throughput_per_second": None,
        "throughput_batch_size": None,
        "throughput_batch_ms": [],
        "rss_before_load_bytes": None,
        "peak_rss_bytes": None,
        "peak_rss_increase_bytes": None,
        "scores": {},
        "agreement": {},
        "confidence": {},
        "decisions": {},
        "note": _note(setup, timing, quality),
    }
    if isinstance(quality, MsdError):
        return row
    if quality is not None:
        row["scores"], row["agreement"] = quality.scores, quality.agreement
        row["confidence"], row["decisions"] = quality.confidence, quality.decisions
    if timing is not None:
        _add_timing(row, timing, config)
    return row


def _status(timing: Timing | None, quality: Quality | MsdError | None) -> Status:
    match quality:
        case RuntimeUnavailableError():
            return "runtime_missing"
        case WorkerError():
            return "timed_out" if quality.has_timed_out else "crashed"
        case MsdError():
            return "invalid"
        case _:
            return "accuracy_only" if timing is None else "measured"


def _note(setup: Setup, timing: Timing | None, quality: Quality | MsdError | None) -> str | None:
    if isinstance(quality, MsdError):
        return f"{quality.what}. {quality.fix}." if quality.fix else f"{quality.what}."
    if setup.variant.baseline:
        return NOTE
    return setup.runtime.untimed_note if timing is None else None


def _add_timing(row: Row, timing: Timing, config: BenchConfig) -> None:
    seconds = float(np.median(timing.batches)) / _MS_PER_SECOND
    latency = describe(timing.latency[View.MULTIMODAL], kept=_MOST_KEPT)
    row["load_time_ms"] = timing.load_time_ms
    row["first_ms"] = round(timing.first_ms, 4)
    row["latency_ms"] = latency
    row["relative_p50"] = round(latency["p50"] / timing.control_p50(), 6)
    row["repeated_turns"] = timing.repeats
    row["flags"] = _flags(timing, config)
    row["single_view_latency_ms"] = {
        view.value: describe(timing.latency[view], kept=_MOST_KEPT)
        for view in (View.IMAGE, View.TEXT)
    }
    row["throughput_per_second"] = round(timing.batch_size / seconds, 2)
    row["throughput_batch_size"] = timing.batch_size
    row["throughput_batch_ms"] = [round(sample, 4) for sample in timing.batches]
    row["rss_before_load_bytes"] = timing.rss_before_load_bytes
    row["peak_rss_bytes"] = timing.peak_rss_bytes
    if timing.peak_rss_bytes is not None and timing.rss_before_load_bytes is not None:
        increase = timing.peak_rss_bytes - timing.rss_before_load_bytes
        # A browser's process may give back more than a small model takes.
        row["peak_rss_increase_bytes"] = increase if increase >= 0 else None


def _flags(timing: Timing, config: BenchConfig) -> list[str]:
    """Return what makes a latency doubtful."""
    flags = []
    samples = min(sum(map(len, rounds)) for rounds in timing.latency.values())
    if samples < config.runs:
        flags.append(
            f"{samples} samples instead of {config.runs}, within {config.most_seconds:g} s"
        )
    if timing.unsteady_turns:
        flags.append(f"the control kernel was slow in {timing.unsteady_turns} of its turns")
    return flags


def ratios_of(rows: Sequence[Row]) -> Ratios:
    """Divide the student by the teacher in the same variant; see `compared_pair`."""
    return _ratios(*compared_pair(rows))


def compared_pair(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Return teacher and student in the same variant, runtime and number of threads.

    ONNX float32 where both have a latency, else PyTorch; of several runtimes the native one.
    """
    scored = [row for row in rows if row["scores"]]
    for target, precision in _COMPARED:
        of_variant = [r for r in scored if (r["target"], r["precision"]) == (target, precision)]
        of_variant.sort(key=lambda row: row["runtime_key"] not in _NATIVE)
        for teacher in (row for row in of_variant if row["model"] == "teacher"):
            for student in (row for row in of_variant if row["model"] == "student"):
                same = ("runtime_key", "threads")
                is_same = all(teacher[key] == student[key] for key in same)  # type: ignore[literal-required]
                if is_same and teacher["latency_ms"] and student["latency_ms"]:
                    return teacher, student
    raise AssertionError("a benchmark without both PyTorch rows is not written")


def _ratios(teacher: Row, student: Row) -> Ratios:
    teacher_latency, student_latency = teacher["latency_ms"], student["latency_ms"]
    latency = None
    if teacher_latency is not None and student_latency is not None:
        latency = _divide(student_latency["p50"], teacher_latency["p50"])
    scores = (row["scores"]["multimodal"]["value"] for row in (student, teacher))
    return {
        "form": f"{teacher['target']}-{teacher['precision']}",
        "parameters": _divide(student["parameters"], teacher["parameters"]),
        "size": student["size_bytes"] / teacher["size_bytes"],
        "latency": latency,
        "metric": _divide(*scores),
    }


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return round(numerator / denominator, 6)
