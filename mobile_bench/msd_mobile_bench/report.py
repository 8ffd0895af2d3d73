"""Write the reports of a benchmark: bench.json, bench.md and bench.html.

bench.html is self-contained: styles and charts are inline, nothing is loaded from a server. The
texts of the tables' cells are in `tables`, the chart is in `chart`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from msd_deploy.artifacts.manifest import json_text, write_texts
from msd_deploy.pages.formatting import bytes_text, metric_title
from msd_deploy.pages.page import Table, render_page
from msd_deploy.pages.svg import Canvas
from msd_mobile_bench.app_benchmark import app_notes
from msd_mobile_bench.chart import Point, draw_chart
from msd_mobile_bench.regression import doubts
from msd_mobile_bench.schema import Bench, Row
from msd_mobile_bench.summary import summarize
from msd_mobile_bench.tables import (
    USUAL_RUNTIMES,
    against_table,
    app_table,
    app_title,
    calibration_table,
    decisions_table,
    headline,
    latency_table,
    quality_table,
    row_title,
    short_title,
    speed_table,
    variant_title,
)

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "bench.json", "bench.md", "bench.html"


def write_reports(folder: Path, bench: Bench) -> None:
    """Write the three reports, together; earlier ones are replaced."""
    write_texts(
        {
            folder / JSON_NAME: json_text(bench, indent=2),
            folder / MARKDOWN_NAME: render_markdown(bench),
            folder / HTML_NAME: render_html(bench),
        }
    )


def render_markdown(bench: Bench) -> str:
    """Return the report as Markdown."""
    parts = [f"# Benchmark of {_in_markdown(bench['run'])}", _subtitle(bench)]
    shares = ", ".join(f"{tile.name} {tile.share} ({tile.detail})" for tile in headline(bench))
    parts.append(f"Student / teacher, both {_compared_variant(bench)}: {shares}.")
    parts += ["## Summary", _bullets(summarize(bench))]
    for table in _tables(bench):
        parts += [f"## {table.title}", _markdown_table(table)]
    if notes := _notes(bench):
        parts += ["## Notes", _bullets(notes)]
    parts += ["## Measurement", _bullets(method_sentences(bench))]
    parts += ["## Host", _bullets([f"{name}: {value}" for name, value in host_facts(bench)])]
    parts += ["Command to repeat it:", f"    {bench['command']}"]
    return "\n\n".join(parts) + "\n"


def _tables(bench: Bench) -> list[Table]:
    tables = [speed_table(bench), latency_table(bench)]
    if bench["against"] is not None:
        tables.insert(0, against_table(bench["against"]))
    if bench["apps"]:
        tables.append(app_table(bench))
    tables.append(quality_table(bench))
    is_labelled = all(row["confidence"] for row in bench["rows"] if row["scores"])
    if not is_labelled:
        return tables
    tables.append(calibration_table(bench))
    return [*tables, decisions_table(bench)] if bench["operating_points"] else tables


def _notes(bench: Bench) -> list[str]:
    """Return the notes on the measurement, and on those of apps."""
    doubted = [(app_title(app), app_notes(app)) for app in bench["apps"]]
    notes = bench["notes"] + [f"{app}: {'; '.join(found)}." for app, found in doubted if found]
    return notes if bench["against"] is None else notes + doubts(bench["against"])


def _markdown_table(table: Table) -> str:
    headings = [f"{group}, {name}" for group, names in table.groups.items() for name in names]
    lines = [[table.names, *headings], ["---"] + ["---:"] * len(headings)]
    lines += [[line.name, *line.cells] for line in table.lines]
    return "\n".join(f"| {' | '.join(map(_in_markdown, line))} |" for line in lines)


def _in_markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_in_markdown(sentence)}" for sentence in sentences)


def render_html(bench: Bench) -> str:
    """Return the report as one self-contained page."""
    metric = metric_title(bench["metric"])
    points = [point for row in bench["rows"] if (point := _point(row)) is not None]
    charts = [
        draw_chart(points, Canvas(name, width, height), metric=metric)
        for name, width, height in (("wide", 860, 430), ("narrow", 356, 420))
    ]
    return render_page(
        "msd_mobile_bench",
        "bench.html.j2",
        bench=bench,
        notes=_notes(bench),
        summary=summarize(bench),
        subtitle=_subtitle(bench),
        metric=metric,
        compared=_compared_variant(bench),
        tiles=headline(bench),
        charts=charts,
        untimed=[row_title(row) for row in bench["rows"] if row["latency_ms"] is None],
        tables=_tables(bench),
        method=method_sentences(bench),
        host=host_facts(bench),
    )


def _point(row: Row) -> Point | None:
    latency = row["latency_ms"]
    if latency is None or row["model"] == "baseline":
        return None
    score = row["scores"]["multimodal"]
    low, high = score["interval"]
    return Point(short_title(row), row["model"], latency["p50"], score["value"], low, high)


def _subtitle(bench: Bench) -> str:
    data, host = bench["data"], bench["host"]
    threads = bench["config"]["threads"]
    plural = "" if threads == 1 else "s"
    return (
        f"{data['name']}, {data['examples']:,} test examples, on {host['cpu']},"
        f" {threads} thread{plural}, {bench['created_utc'][:10]}"
    )


def _compared_variant(bench: Bench) -> str:
    variant = bench["ratios"]["form"]
    name = f"student-{variant}"
    return next(variant_title(row) for row in bench["rows"] if row["name"] == name)


def method_sentences(bench: Bench) -> list[str]:
    """Return how the numbers were measured, a sentence each."""
    config, control = bench["config"], bench["control"]
    medians = ", ".join(f"{value:.3f}" for value in control["p50_ms_per_round"])
    return [
        f"Every variant runs in a new process of its own: {_processes(bench)}.",
        f"Latency: {config['rounds']} interleaved rounds over all variants, every other one in"
        f" reverse order. Each round warms up with at least {config['warm_up']} predictions and"
        f" {config['warm_up_seconds']} s, until the median of 10 predictions is steady within 2 %"
        f" (at most {config['settle_seconds']} s). Over all rounds there are at least"
        f" {config['runs']} samples and {config['seconds']} s (at most {config['most_seconds']} s),"
        " of different test examples. In the same turn each modality alone is measured, for a third"
        " of the time, through the entry point that an app would call. Percentiles are over the"
        " samples of all rounds, of which bench.json has up to 1,000, evenly spaced. The interval"
        " of p50 is a 95 % bootstrap interval over rounds and samples.",
        f"A control kernel ({control['kernel']}) is timed before and after each turn, in a process"
        f" of its own: median per round {medians} ms, slowest / fastest turn"
        f" {control['host_drift']:.2f}. Turns in which it is more than 10 % slower than at its"
        f" fastest are measured again, twice at most: {control['repeated_turns']} turns.",
        "Expected calibration error: mean difference of confidence and share of correct decisions"
        " in 15 bins of equally many decisions, of probabilities over the model's temperatures.",
        "Start: opening the model once, with its files in the system's cache, its runtime imported"
        " and its digests verified before; then the first inference of image and text.",
        "Compressed size: of the model in a zip file, as app packages are.",
        "Peak memory: of the whole process during single predictions of all views; in parentheses"
        " the increase since just before the model was opened.",
        f"Throughput: median of {config['batches']} batches; batch size in parentheses.",
        "Metrics: of each view on the test examples; intervals are 95 % bootstrap intervals over"
        " examples. Agreement: share of examples with the same decision as the teacher in PyTorch.",
    ]


_PROCESSES: Mapping[str, str] = {
    "torch": "PyTorch variants in eager mode",
    "onnx": "ONNX variants in ONNX Runtime (without PyTorch)",
    "ort": "ORT variants in ONNX Runtime too",
    "coreml": "Core ML variants in Core ML, on a Mac only",
    "executorch": "ExecuTorch variants in ExecuTorch (with PyTorch, which its Python binding"
    " requires)",
    "litert": "LiteRT variants in LiteRT (without PyTorch)",
    "coreai": "Core AI variants in Core AI, on macOS 27 only",
}
"""The runtime of each target's variants, for the method section."""


def _processes(bench: Bench) -> str:
    """Return the runtimes of the measured variants."""
    native = {row["target"] for row in bench["rows"] if row["runtime"] in USUAL_RUNTIMES}
    processes = [process for target, process in _PROCESSES.items() if target in native]
    others = {row["runtime"] for row in bench["rows"]} - USUAL_RUNTIMES
    return ", ".join([*processes, *(f"others in {runtime}" for runtime in sorted(others))])


def host_facts(bench: Bench) -> list[tuple[str, str]]:
    """Return the properties of the machine, name and value."""
    host = bench["host"]
    cores = f"{host['logical_cores']} logical"
    if host["physical_cores"] is not None:
        cores += f", {host['physical_cores']} physical"
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    load = host["load_average_1min"]
    return [
        ("Processor", host["cpu"]),
        ("Cores", cores),
        ("Instruction sets", ", ".join(host["instructions"]) or "none of the relevant ones"),
        ("Memory", bytes_text(host["memory_bytes"])),
        ("System", host["os"]),
        ("Python", host["python"]),
        ("Packages", f"msd-deploy {bench['msd_deploy']}, {versions}"),
        ("Load average at the start", "unknown" if load is None else f"{load:g}"),
        ("Measured", f"{bench['created_utc']} (UTC)"),
    ]
