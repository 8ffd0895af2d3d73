"""The rows of bench.json, the ratios of student to teacher, and the notes on the measurement."""

from collections.abc import Sequence

import numpy as np

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import MsdError, RuntimeUnavailableError
from msd_deploy.views import View
from msd_export.predictors import UNTIMED_RUNTIMES
from msd_mobile_bench.baselines.architectures import NOTE
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.footprint import compressed_bytes
from msd_mobile_bench.latency import describe
from msd_mobile_bench.quality import Quality
from msd_mobile_bench.runtimes.process import WorkerError
from msd_mobile_bench.runtimes.setup import NEEDS_A_DEVICE, Setup
from msd_mobile_bench.schema import FAILED, Control, Host, ModelRole, Ratios, Row, Status
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
    if not any(row["model"] == "teacher" and row["target"] == "onnx" for row in rows):
        notes.append("The teacher has no ONNX export: it is compared in PyTorch.")
    examples = min(row["scores"]["multimodal"]["examples"] for row in rows if row["scores"])
    if examples < _FEW_EXAMPLES:
        notes.append(f"Only {examples} test examples: the intervals of the metrics are wide.")
    if config.rounds % 2:
        notes.append("The number of rounds is odd: one order of the models counts more.")
    return notes


_MS_PER_SECOND = 1000.0
_COMPARED = (("onnx", "fp32"), (TORCH, "fp32"))


def make_row(
    run: RunDirectory,
    setup: Setup,
    timing: Timing | None,
    quality: Quality | MsdError | None,
    config: BenchConfig,
) -> Row:
    """Return the row of one setup.

    Args:
        run: The run.
        setup: What was measured.
        timing: None: it has no latency that counts.
        quality: Of its predictions, or why there are none; None: they are not evaluated.
        config: How it was measured.
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
        "size_compressed_bytes": compressed_bytes(variant.weights_path),
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
    latency = describe(timing.latency[View.MULTIMODAL])
    row["load_time_ms"] = timing.load_time_ms
    row["first_ms"] = round(timing.first_ms, 4)
    row["latency_ms"] = latency
    row["relative_p50"] = round(latency["p50"] / timing.control_p50(), 6)
    row["repeated_turns"] = timing.repeats
    row["flags"] = _flags(timing, config)
    row["single_view_latency_ms"] = {
        view.value: describe(timing.latency[view]) for view in (View.IMAGE, View.TEXT)
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
    """Divide the student by the teacher in the same variant: ONNX float32, else PyTorch."""
    by_variant: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row["scores"]:  # the first of several runtimes is that of this machine
            by_variant.setdefault((row["model"], row["target"], row["precision"]), row)
    for variant in _COMPARED:
        teacher, student = (by_variant.get((who, *variant)) for who in _MODEL_ROLES)
        if teacher is not None and student is not None:
            return _ratios(teacher, student)
    raise AssertionError("a benchmark without both PyTorch rows is not written")


_MODEL_ROLES: tuple[ModelRole, ModelRole] = ("teacher", "student")


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
