"""compare.html: the page of a study, made from compare.json alone."""

from collections.abc import Mapping
from typing import Any

from msd_deploy.pages.formatting import NOTHING, VIEW_NAMES, metric_title
from msd_deploy.pages.page import Line, Table, render_page
from msd_deploy.pages.svg import Panel
from msd_deploy.study.chart import MethodDots, draw_dots
from msd_deploy.study.tables import (
    budget_words,
    changed_words,
    descriptions,
    difference_text,
    is_significant,
    seeds_of,
    spread_text,
    teacher_notes,
    teacher_rows,
)

_FAIR = ("kd", "kd-dropout")
_FEW_SEEDS = 3

Result = Mapping[str, Any]


def render_study(result: Result) -> str:
    """Return compare.html as one self-contained page.

    Args:
        result: The content of compare.json.
    """
    return render_page(
        "msd_deploy.study",
        "compare.html.j2",
        result=result,
        subtitle=_subtitle(result),
        metric=metric_title(result["metric"]),
        results=results_table(result),
        panels=_panels(result),
        paired=paired_tables(result),
        methods=descriptions(result),
        notes=_notes(result),
        sentences=_sentences(result),
    )


def _subtitle(result: Result) -> str:
    rows = result["examples"]
    return (
        f"{result['data']}, {rows['test']:,} test examples, {rows['train']:,} training rows of"
        f" which {result['labelled']:,} are labelled, student {result['student']},"
        f" {result['created_utc'][:10]}"
    )


def results_table(result: Result) -> Table:
    """Return methods by views in the shape of the paper's table, with gap and cost.

    The teachers are on top.
    """
    views, has_gap = tuple(VIEW_NAMES), bool(result["gap_closed"])
    names = tuple(VIEW_NAMES.values())
    groups = {f"{metric_title(result['metric'])} in %, mean ± deviation": names}
    if has_gap:
        groups["Gap closed"] = names
    groups["Cost"] = ("steps", "operations a step", "CPU seconds")
    nothing = (NOTHING,) * ((len(views) if has_gap else 0) + len(groups["Cost"]))
    lines = [
        Line(name, "teacher", (*scores, *nothing))
        for name, scores in teacher_rows(result, nothing=NOTHING).items()
    ]
    for method, spreads in result["methods"].items():
        cells = (
            *(spread_text(spreads[view]) for view in views),
            *(_gap_text(result, method, view) for view in views if has_gap),
            *_cost(result, method),
        )
        lines.append(Line(method, "student", cells))
    return Table("Methods by views", "Method", {}, groups, tuple(lines))


def _gap_text(result: Result, method: str, view: str) -> str:
    gap = result["gap_closed"].get(method, {}).get(view)
    return NOTHING if gap is None else f"{100 * gap:.0f} %"


def _cost(result: Result, method: str) -> tuple[str, str, str]:
    seconds = result["cpu_seconds"].get(method)
    return (
        f"{result['steps'][method]:,}",
        f"{result['flops_per_step'][method] / 1e9:.2f} G",
        NOTHING if seconds is None else f"{seconds:,.0f}",
    )


def paired_tables(result: Result) -> list[Table]:
    """Return a table of paired differences for each baseline, the fair ones first."""
    by_baseline: dict[str, list[Line]] = {name: [] for name in _FAIR}
    for name, views in result["paired"].items():
        method, _, baseline = name.partition(" - ")
        cells = tuple(_difference_cell(views[view]) for view in VIEW_NAMES)
        by_baseline.setdefault(baseline, []).append(Line(method, "student", cells))
    groups = {"Points: mean [95 % interval], p": tuple(VIEW_NAMES.values())}
    return [
        Table(f"Difference from {baseline}", "Method", {}, groups, tuple(lines))
        for baseline, lines in by_baseline.items()
        if lines
    ]


def _difference_cell(difference: Mapping[str, Any]) -> str:
    mark = " *" if is_significant(difference) else ""
    return difference_text(difference) + mark


def _panels(result: Result) -> list[Panel]:
    metric = metric_title(result["metric"])
    panels = []
    for view, name in VIEW_NAMES.items():
        dots = [
            MethodDots(method, tuple(spreads[view]["per_seed"].values()), spreads[view]["mean"])
            for method, spreads in result["methods"].items()
        ]
        chart = draw_dots(
            f"dots-{view}", dots, teacher=result["teacher"][view], metric=f"{metric}, {name}"
        )
        panels.append(Panel(name.capitalize(), chart, ""))
    return panels


def _notes(result: Result) -> list[str]:
    notes = [
        "All of it rests on one teacher and one test split; p-values are not corrected for the"
        " number of comparisons.",
        *teacher_notes(result),
    ]
    if result["changed_settings"]:
        notes.append(f"{changed_words(result)}.")
    if len(seeds_of(result)) < _FEW_SEEDS:
        notes.append("Fewer than three seeds: a difference of means may be due to chance.")
    return notes


def _sentences(result: Result) -> list[str]:
    sentences = [
        f"Seeds {', '.join(seeds_of(result))}; a seed gives every method the same initial weights."
        f" Budget: {budget_words(result)}.",
        "Differences are paired by seed: mean, 95 % bootstrap interval over seeds and test"
        " images, p of the two-sided paired t-test; * marks p below .05.",
        "Operations a step: floating-point operations of one training step, forward and backward,"
        " counted on real batches. CPU seconds: of one student's training, the mean over seeds.",
    ]
    if result["gap_closed"]:
        sentences.append(
            "Gap closed: the share of the way from the undistilled student (none) to the teacher."
        )
    return sentences
