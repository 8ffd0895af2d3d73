"""Sentences that a reader of the numbers should know: what disturbed them, what is not theirs."""

from collections.abc import Sequence

from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.schema import Control, Host, Row

NEEDS_A_DEVICE = "latency needs a Mac or an iPhone"
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
            f"The host was unsteady: the control kernel's slowest turn took {drift:.2f} x its"
            f" fastest (more than {MOST_DRIFT:g}). Close other programs and measure again before"
            " you compare forms that lie close together."
        )
    load, cores = host["load_average_1min"], host["logical_cores"]
    if load is not None and load > _BUSY_SHARE * cores:
        notes.append(f"The host was busy when this began: load average {load:g} on {cores} cores.")
    if any(row["note"] == NEEDS_A_DEVICE for row in rows):
        notes.append(
            "Core ML forms were run by the MIL evaluator: their metrics and sizes are real, their"
            f" time and memory are not Core ML's and are left out ({NEEDS_A_DEVICE})."
        )
    if not any(row["model"] == "teacher" and row["target"] == "onnx" for row in rows):
        notes.append("There is no ONNX export of the teacher, so it is compared in PyTorch.")
    examples = min(row["scores"]["multimodal"]["examples"] for row in rows)
    if examples < _FEW_EXAMPLES:
        notes.append(f"Only {examples} test examples: the metrics' intervals are wide.")
    if config.rounds % 2:
        notes.append("An odd number of rounds: one order of the models counts more.")
    return notes
