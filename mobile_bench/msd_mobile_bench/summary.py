"""The main findings of a benchmark, a sentence each, in plain words.

A difference is stated only beyond its interval; within it, two latencies are "about" the same.
"""

from collections.abc import Iterator

from msd_deploy.pages.formatting import VIEW_NAMES
from msd_mobile_bench.make_rows import compared_pair
from msd_mobile_bench.schema import FAILED, Bench, Row
from msd_mobile_bench.tables import baseline_name, row_title, short_title

_FLOAT = ("fp32", "fp16")
_FEW_POINTS = 0.05
"""Smaller differences of a metric are none: tables show a tenth of a point."""


def summarize(bench: Bench) -> list[str]:
    """Return the findings: student and teacher, each precision and its float variant, failures."""
    return [
        *_of_the_student(bench),
        *_of_baselines(bench),
        *_of_precisions(bench),
        *_of_failures(bench),
    ]


def _of_the_student(bench: Bench) -> Iterator[str]:
    teacher, student = compared_pair(bench["rows"])
    compared = _compared(student, teacher, "the teacher", bench)
    yield f"In {short_title(student)} the student {compared}."


def _of_baselines(bench: Bench) -> Iterator[str]:
    students = [row for row in bench["rows"] if row["model"] == "student" and row["scores"]]
    for base in bench["rows"]:
        if base["model"] != "baseline" or base["latency_ms"] is None:
            continue
        for row in students:
            same = ("target", "runtime_key", "threads")
            is_same = all(row[key] == base[key] for key in same)  # type: ignore[literal-required]
            if is_same and row["latency_ms"] is not None:
                size = f"{100 * row['size_bytes'] / base['size_bytes']:.3g} %"
                yield (
                    f"The student in {short_title(row)} {_speed(row, base)} {baseline_name(base)}"
                    f" in {short_title(base)}, and has {size} of its size."
                )


def _of_precisions(bench: Bench) -> Iterator[str]:
    rows = [row for row in bench["rows"] if row["model"] == "student" and row["scores"]]
    timed = {row["name"] for row in rows if row["latency_ms"] is not None}
    for row in rows:
        if row["latency_ms"] is None and row["name"] in timed:
            continue  # an emulated runtime repeats what the native one has
        base = next((other for other in rows if _is_base(other, row)), None)
        if row["precision"] not in _FLOAT and base is not None:
            yield f"{short_title(row)} {_compared(row, base, base['precision'], bench)}."


def _compared(row: Row, base: Row, name: str, bench: Bench) -> str:
    """Return speed, size and metric of a row in comparison with another, of that name."""
    size = f"{100 * row['size_bytes'] / base['size_bytes']:.3g} %"
    points = _points(row, base, bench)
    speed = _speed(row, base)
    if speed is None:
        return f"has {size} of the size of {name} and {points}"
    return f"{speed} {name}, has {size} of its size and {points}"


def _is_base(other: Row, row: Row) -> bool:
    """Return whether a row is the float variant of another, in the same runtime."""
    same = ("target", "runtime_key", "threads")
    return other["precision"] in _FLOAT and all(
        other[key] == row[key]  # type: ignore[literal-required]
        for key in same
    )


def _of_failures(bench: Bench) -> Iterator[str]:
    failed = [row_title(row) for row in bench["rows"] if row["status"] in FAILED]
    if failed:
        yield f"Failed: {'; '.join(failed)}."


def _speed(row: Row, base: Row) -> str | None:
    """Return how fast a row is in comparison, for example "is 2.1 times as fast as"."""
    latency, other = row["latency_ms"], base["latency_ms"]
    if latency is None or other is None:
        return None
    low, high = latency["p50_interval"]
    other_low, other_high = other["p50_interval"]
    if low <= other_high and other_low <= high:
        return "is about as fast as"
    if latency["p50"] < other["p50"]:
        return f"is {_times(other['p50'] / latency['p50'])} times as fast as"
    return f"takes {_times(latency['p50'] / other['p50'])} times as long as"


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"


def _points(row: Row, base: Row, bench: Bench) -> str:
    """Return the difference of the metric, and of the single view that loses most."""
    differences = {
        view: 100 * (row["scores"][view]["value"] - base["scores"][view]["value"])
        for view in VIEW_NAMES
    }
    whole = differences.pop("multimodal")
    text = f"{_difference(whole)} {bench['metric']}"
    view = min(differences, key=lambda each: differences[each])
    if differences[view] < min(whole, 0) - _FEW_POINTS:
        text += f" ({VIEW_NAMES[view]}: {_difference(differences[view])})"
    return text


def _difference(points: float) -> str:
    if abs(points) < _FEW_POINTS:
        return "the same"
    return f"{abs(points):.1f} points {'more' if points > 0 else 'less'}"
