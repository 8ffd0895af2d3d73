"""The tables of a benchmark report: the text of each cell, the same in Markdown and HTML."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msd_deploy.pages.formatting import (
    DECISION_GROUPS,
    NOTHING,
    VIEW_NAMES,
    bytes_text,
    count_text,
    decision_cells,
    fraction_text,
    metric_title,
    percent,
    score_text,
)
from msd_deploy.pages.page import Line, Table, Tile
from msd_export.formats import FORMATS
from msd_export.predictors import UNTIMED_RUNTIMES, TorchPredictor
from msd_mobile_bench.make_rows import compared_pair
from msd_mobile_bench.schema import Against, AppRow, Bench, Change, Distribution, Row

_TARGET_NAMES: Mapping[str, str] = {
    "torch": "PyTorch",
    **{target: entry.title for target, entry in FORMATS.items()},
}

Cell = Callable[[Row], str]
USUAL_RUNTIMES = frozenset(
    {TorchPredictor.runtime, *(entry.runtime for entry in FORMATS.values()), *UNTIMED_RUNTIMES}
)
"""Those that a row's title leaves out."""
_Percentile = Literal["p50", "p90", "p99"]
_LONGEST_SYSTEM = 40
_SHOWN_PERCENTILES: tuple[_Percentile, ...] = ("p50", "p90")


def variant_title(row: Row | AppRow) -> str:
    """Return a variant without its model, for example ONNX int8."""
    return f"{_TARGET_NAMES.get(row['target'], row['target'])} {row['precision']}"


def short_title(row: Row) -> str:
    """Return a row without its model, for example ONNX int8, or ONNX int8, 2 threads.

    The runtime is left out where the format has one of its own and it is that.
    """
    title = variant_title(row)
    if row["runtime"] not in USUAL_RUNTIMES:
        title += f", {row['runtime']}"
    return title if row["threads"] == 1 else f"{title}, {row['threads']} threads"


def row_title(row: Row) -> str:
    """Return a row with its model, for example Student, ONNX int8."""
    if row["model"] == "baseline":
        return f"{baseline_name(row)}, {short_title(row)}"
    return f"{row['model'].capitalize()}, {short_title(row)}"


def baseline_name(row: Row) -> str:
    """Return the name of a baseline's architecture."""
    return row["name"].removesuffix(f"-{row['target']}-{row['precision']}")


def speed_table(bench: Bench) -> Table:
    """Return size, latency, load time, throughput and memory of every variant."""
    columns: dict[str, dict[str, Cell]] = {
        "Latency": {
            "p50 (95 % interval)": _median_text,
            "p90": lambda row: _latency_text(row["latency_ms"], "p90"),
            "p99": lambda row: _latency_text(row["latency_ms"], "p99"),
        },
        "Model": {
            "parameters": lambda row: count_text(row["parameters"]),
            "size": lambda row: bytes_text(row["size_bytes"]),
            "compressed": lambda row: bytes_text(row["size_compressed_bytes"]),
        },
        "Start": {
            "load": lambda row: milliseconds_text(row["load_time_ms"]),
            "first inference": lambda row: milliseconds_text(row["first_ms"]),
        },
        "Throughput": {"per second (batch)": _throughput_text},
        "Peak memory": {"process (increase)": _memory_text},
    }
    notes = {row_title(row): row["note"] for row in bench["rows"] if row["note"]}
    return _table("Size, speed and memory", bench["rows"], columns, notes)


def latency_table(bench: Bench) -> Table:
    """Return what image and text together cost, and one of them alone."""
    columns = {
        f"Latency, {key}": {name: _latency_of(view, key) for view, name in VIEW_NAMES.items()}
        for key in _SHOWN_PERCENTILES
    }
    timed = [row for row in bench["rows"] if row["latency_ms"] is not None]
    return _table("Latency of each view", timed, columns, {})


def app_table(bench: Bench) -> Table:
    """Return what bundles measured in apps, on their devices."""
    groups = {
        "Inference, p50 (p90)": tuple(VIEW_NAMES.values()),
        "Start": ("load", "first inference"),
        "One photo and text, p50": ("in all", "decode", "resize"),
        "Photo": ("pixels",),
    }
    lines = tuple(Line(app_title(app), "student", _app_cells(app)) for app in bench["apps"])
    return Table("In apps", "Variant, device and runtime", {}, groups, lines)


def app_title(app: AppRow) -> str:
    """Return what was measured where, for example ONNX fp32, Google Pixel 8, ONNX Runtime 1.29."""
    system = app["system"]
    if len(system) > _LONGEST_SYSTEM:  # a browser's
        system = f"{system[: _LONGEST_SYSTEM - 1]}…"
    when = app["measured_utc"][:16].replace("T", " ")
    return f"{variant_title(app)}, {app['device']} ({system}), {app['runtime']}, {when}"


def app_sentence(app: AppRow) -> str:
    """Return the main figures of an app, for a terminal, which is too narrow for the table."""
    views = ", ".join(
        f"{name} {milliseconds_text(app['latency_ms'][view]['p50'])}"
        for view, name in VIEW_NAMES.items()
    )
    whole = milliseconds_text(app["stages_ms"]["total"]["p50"])
    return f"{app_title(app)}: inference of {views}; a whole classification {whole} (p50)."


def _app_cells(app: AppRow) -> tuple[str, ...]:
    def both(latency: Distribution) -> str:
        return f"{milliseconds_text(latency['p50'])} ({milliseconds_text(latency['p90'])})"

    stages, photo = app["stages_ms"], app["photo"]
    return (
        *(both(app["latency_ms"][view]) for view in VIEW_NAMES),
        milliseconds_text(app["load_time_ms"]),
        milliseconds_text(app["first_ms"]),
        *(milliseconds_text(stages[stage]["p50"]) for stage in ("total", "decode", "resize")),
        f"{photo['width']:,} x {photo['height']:,}",
    )


def against_table(against: Against) -> Table:
    """Return what changed of each row since an earlier benchmark."""
    views = tuple(VIEW_NAMES.values())
    groups = {"Latency": ("slower by (at least, at most)",), "Points less": views}
    lines, notes = [], {}
    for change in against["changes"]:
        name = change["key"] + (": worse" if change["reasons"] else "")
        series = "student" if change["key"].startswith("student") else "teacher"
        lines.append(Line(name, series, _change_cells(change)))
        if change["reasons"]:
            notes[name] = "; ".join(change["reasons"])
    title = f"Against the benchmark of {against['created_utc']}"
    return Table(title, "Row", notes, groups, tuple(lines))


def _change_cells(change: Change) -> tuple[str, ...]:
    slower, interval = change["slowdown"], change["slowdown_interval"]
    latency = NOTHING
    if slower is not None and interval is not None:
        low, high = interval
        latency = f"{100 * slower:+.1f} % ({100 * low:+.1f}, {100 * high:+.1f})"
    drops = (change["drops"].get(view) for view in VIEW_NAMES)
    return (latency, *(NOTHING if drop is None else f"{drop:+.2f}" for drop in drops))


def summary_table(bench: Bench) -> Table:
    """Return the main figures of every variant, narrow enough for a terminal."""
    columns: dict[str, dict[str, Cell]] = {
        "Model": {
            "parameters": lambda row: count_text(row["parameters"]),
            "size": lambda row: bytes_text(row["size_bytes"]),
        },
        "Speed": {"p50": lambda row: _latency_text(row["latency_ms"], "p50")},
        "Quality": {
            bench["metric"]: _metric_text,
            "agreement": _agreement_of("multimodal"),
        },
    }
    return _table("Teacher and student, all variants", bench["rows"], columns, {})


def quality_table(bench: Bench) -> Table:
    """Return the metric of every view with its interval, and the agreement with the teacher."""
    metric = metric_title(bench["metric"])
    columns = {
        f"{metric} (95 % interval)": {name: _score_of(view) for view, name in VIEW_NAMES.items()},
        "Agreement with the teacher": {
            name: _agreement_of(view) for view, name in VIEW_NAMES.items()
        },
    }
    title = f"{metric} and agreement, {bench['data']['examples']:,} test examples"
    rows = [row for row in bench["rows"] if row["model"] != "baseline"]
    return _table(title, rows, columns, {})


def calibration_table(bench: Bench) -> Table:
    """Return the calibration error and the mean confidence of every view."""
    columns = {
        "Expected calibration error (95 % interval)": {
            name: _calibration_error_of(view) for view, name in VIEW_NAMES.items()
        },
        "Mean confidence": {name: _confidence_of(view) for view, name in VIEW_NAMES.items()},
    }
    title = f"Calibration, {bench['data']['examples']:,} test examples"
    return _table(title, [row for row in bench["rows"] if row["scores"]], columns, {})


def decisions_table(bench: Bench) -> Table:
    """Return what the operating points give in every variant, and gave on validation."""
    lines = []
    for row in bench["rows"]:
        if row["decisions"]:
            point = bench["operating_points"]["teacher" if row["model"] == "teacher" else "student"]
            lines += [
                Line(f"{row_title(row)}, {point['rule']}: {view}", row["model"], cells)
                for view, cells in decision_cells(row["decisions"], point["expected"])
            ]
    title = f"Operating points, {bench['data']['examples']:,} test examples"
    return Table(title, "Variant", {}, DECISION_GROUPS, tuple(lines))


def _calibration_error_of(view: str) -> Cell:
    return lambda row: fraction_text(row["confidence"][view]["ece"])


def _confidence_of(view: str) -> Cell:
    return lambda row: percent(row["confidence"][view]["confidence"])


def _score_of(view: str) -> Cell:
    return lambda row: score_text(row["scores"][view]) if row["scores"] else NOTHING


def _agreement_of(view: str) -> Cell:
    return lambda row: percent(row["agreement"].get(view))


def _metric_text(row: Row) -> str:
    """Return the metric of image and text, or what became of the row."""
    if row["model"] == "baseline" and row["status"] == "measured":
        return NOTHING
    if not row["scores"]:
        return row["status"].replace("_", " ")
    return percent(row["scores"]["multimodal"]["value"])


def _table(
    title: str,
    rows: Sequence[Row],
    columns: Mapping[str, Mapping[str, Cell]],
    notes: Mapping[str, str],
) -> Table:
    cells = [cell for group in columns.values() for cell in group.values()]
    lines = (Line(row_title(row), row["model"], tuple(cell(row) for cell in cells)) for row in rows)
    groups = {name: tuple(group) for name, group in columns.items()}
    return Table(title, "Variant", notes, groups, tuple(lines))


def headline(bench: Bench) -> list[Tile]:
    """Return the student's share of the teacher's metric, latency, size and parameters."""
    teacher, student = compared_pair(bench["rows"])
    ratios = bench["ratios"]

    def tile(name: str, share: float | None, text: Callable[[Row], str]) -> Tile:
        return Tile(name, percent(share), f"{text(student)} of {text(teacher)}")

    return [
        tile(
            metric_title(bench["metric"]),
            ratios["metric"],
            lambda row: percent(row["scores"]["multimodal"]["value"]),
        ),
        tile("Latency", ratios["latency"], lambda row: _latency_text(row["latency_ms"], "p50")),
        tile("Size", ratios["size"], lambda row: bytes_text(row["size_bytes"])),
        tile("Parameters", ratios["parameters"], lambda row: count_text(row["parameters"])),
    ]


def milliseconds_text(milliseconds: float | None) -> str:
    """Return milliseconds with three significant digits or more."""
    if milliseconds is None:
        return NOTHING
    return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"


def _median_text(row: Row) -> str:
    latency = row["latency_ms"]
    if latency is None:
        return NOTHING
    low, high = (milliseconds_text(end).removesuffix(" ms") for end in latency["p50_interval"])
    return f"{milliseconds_text(latency['p50'])} ({low} to {high})"


def _latency_text(latency: Distribution | None, key: _Percentile) -> str:
    return milliseconds_text(None if latency is None else latency[key])


def _latency_of(view: str, key: _Percentile) -> Cell:
    def text(row: Row) -> str:
        whole, alone = row["latency_ms"], row["single_view_latency_ms"]
        return _latency_text(whole if view == "multimodal" else alone.get(view), key)

    return text


def _throughput_text(row: Row) -> str:
    if row["throughput_per_second"] is None:
        return NOTHING
    return f"{row['throughput_per_second']:,.0f} /s ({row['throughput_batch_size']})"


def _memory_text(row: Row) -> str:
    if row["peak_rss_bytes"] is None:
        return NOTHING
    peak, increase = bytes_text(row["peak_rss_bytes"]), row["peak_rss_increase_bytes"]
    return peak if increase is None else f"{peak} (+{bytes_text(increase)})"
