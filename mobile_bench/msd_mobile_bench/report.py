"""Write a benchmark for machines (bench.json), for people (bench.md) and to show (bench.html).

bench.html is one file that asks nothing of any server: styles and charts are inline.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from msd_deploy.artifacts.manifest import write_json, write_text
from msd_deploy.pages.formatting import bytes_text, metric_title
from msd_deploy.pages.page import Table, render_page
from msd_deploy.pages.svg import Canvas
from msd_mobile_bench.chart import Point, draw_chart
from msd_mobile_bench.schema import Bench, Row
from msd_mobile_bench.tables import headline, quality_table, short_form, speed_table

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "bench.json", "bench.md", "bench.html"


def write_reports(folder: Path, bench: Bench) -> None:
    """Write the three reports, each atomically; earlier ones are replaced, bench.json last."""
    write_text(folder / MARKDOWN_NAME, render_markdown(bench))
    write_text(folder / HTML_NAME, render_html(bench))
    write_json(folder / JSON_NAME, bench)


def render_markdown(bench: Bench) -> str:
    """Return the report as Markdown."""
    parts = [f"# Benchmark of {_in_markdown(bench['run'])}", _subtitle(bench)]
    shares = ", ".join(f"{tile.name} {tile.share} ({tile.detail})" for tile in headline(bench))
    parts.append(f"Student / teacher, both {_compared_form(bench)}: {shares}.")
    for table in (speed_table(bench), quality_table(bench)):
        parts += [f"## {table.title}", _markdown_table(table)]
    if bench["notes"]:
        parts += ["## Notes", _bullets(bench["notes"])]
    parts += ["## How it was measured", _bullets(method_sentences(bench))]
    parts += ["## Host", _bullets([f"{name}: {value}" for name, value in host_facts(bench)])]
    parts += ["Repeat it with:", f"    {bench['command']}"]
    return "\n\n".join(parts) + "\n"


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
        subtitle=_subtitle(bench),
        metric=metric,
        compared=_compared_form(bench),
        tiles=headline(bench),
        charts=charts,
        untimed=[short_form(row) for row in bench["rows"] if row["latency_ms"] is None],
        tables=[speed_table(bench), quality_table(bench)],
        method=method_sentences(bench),
        host=host_facts(bench),
    )


def _point(row: Row) -> Point | None:
    score, latency = row["scores"]["multimodal"], row["latency_ms"]
    if latency is None:
        return None
    low, high = score["interval"]
    return Point(short_form(row), row["model"], latency["p50"], score["value"], low, high)


def _subtitle(bench: Bench) -> str:
    data, host = bench["data"], bench["host"]
    threads = bench["config"]["threads"]
    plural = "" if threads == 1 else "s"
    return (
        f"{data['name']}, {data['examples']:,} test examples, on {host['cpu']},"
        f" {threads} thread{plural}, {bench['created_utc'][:10]}"
    )


def _compared_form(bench: Bench) -> str:
    form = bench["ratios"]["form"]
    return next(short_form(row) for row in bench["rows"] if row["name"] == f"student-{form}")


def method_sentences(bench: Bench) -> list[str]:
    """Return how the numbers came about, a sentence each."""
    config, control = bench["config"], bench["control"]
    medians = ", ".join(f"{value:.3f}" for value in control["p50_ms_per_round"])
    return [
        f"Every form runs in a fresh process of its own: {_processes(bench)}.",
        f"Latency: {config['rounds']} rounds in turns over all forms, the order reversed every"
        f" other round; in each, at least {config['warm_up']} predictions and"
        f" {config['warm_up_seconds']} s to warm up, then up to"
        f" {config['samples']} samples (at most {config['round_seconds']} s) of one test example"
        " each, another one every time. Percentiles are over the samples of all rounds; every"
        " sample is in bench.json.",
        f"Before each turn a control kernel is timed ({control['kernel']}): median per round"
        f" {medians} ms, slowest turn / fastest turn {control['host_drift']:.2f}.",
        "Load: opening the model in its process, once, its files already in the system's cache and"
        " its runtime already imported. PyTorch's includes checking the files' digests.",
        "Peak memory: of the whole process while it answers single examples; in parentheses what"
        " was added since just before the model was opened.",
        f"Throughput: median of {config['batches']} batches, the batch in parentheses.",
        "Metrics: of the whole test split or as many rows as stated, each view; intervals are 95 %"
        " bootstrap intervals over rows. As the teacher: share of decisions that equal the cached"
        " ones of the teacher in PyTorch.",
    ]


_PROCESSES: Mapping[str, str] = {
    "torch": "PyTorch forms in eager mode",
    "onnx": "ONNX forms in ONNX Runtime (its process holds no PyTorch)",
    "ort": "ORT forms in ONNX Runtime too",
    "coreml": "Core ML forms in Core ML on a Mac only",
    "executorch": "ExecuTorch forms in ExecuTorch (its Python binding needs PyTorch, which its"
    " process holds too)",
    "litert": "LiteRT forms in LiteRT (no PyTorch)",
}
"""What runs the forms of each target."""


def _processes(bench: Bench) -> str:
    """Tell what runs the forms that there are."""
    targets = {row["target"] for row in bench["rows"]}
    return ", ".join(told for target, told in _PROCESSES.items() if target in targets)


def host_facts(bench: Bench) -> list[tuple[str, str]]:
    """Return the machine's facts, name and value."""
    host = bench["host"]
    cores = f"{host['logical_cores']} logical"
    if host["physical_cores"] is not None:
        cores += f", {host['physical_cores']} physical"
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    load = host["load_average_1min"]
    return [
        ("Processor", host["cpu"]),
        ("Cores", cores),
        ("Instruction sets", ", ".join(host["instructions"]) or "none that matter here"),
        ("Memory", bytes_text(host["memory_bytes"])),
        ("System", host["os"]),
        ("Python", host["python"]),
        ("Packages", f"msd-deploy {bench['msd_deploy']}, {versions}"),
        ("Load average at the start", "unknown" if load is None else f"{load:g}"),
        ("Measured", f"{bench['created_utc']} (UTC)"),
    ]
