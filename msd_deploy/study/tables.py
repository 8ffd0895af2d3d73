"""The tables of a study: rows are methods, columns views, as in the paper."""

from collections.abc import Mapping
from typing import Any

from msd_deploy.config.describe import settings_words
from msd_deploy.distillation.methods import describe_method
from msd_deploy.run.single_views import unsound_views
from msd_deploy.views import View

_VIEWS = tuple(view.value for view in View)
_SIGNIFICANT = 0.05


def study_markdown(result: Mapping[str, Any]) -> str:
    """Return compare.md.

    Args:
        result: The content of compare.json.
    """
    return "\n".join(
        [
            f"# {result['data']}: methods of distillation compared",
            "",
            *_facts(result),
            "",
            *_table(result),
            "",
            *_paired_table(result),
        ]
    )


def _facts(result: Mapping[str, Any]) -> list[str]:
    rows = result["examples"]
    lines = [
        f"- {result['metric']} in % on {rows['test']:,} test examples; mean ± standard deviation"
        f" over seeds {', '.join(seeds_of(result))}",
        f"- {rows['train']:,} training rows, {result['labelled']:,} of them labelled;"
        f" student {result['student']}; {budget_words(result)}",
    ]
    if result["changed_settings"]:
        lines.append(f"- {changed_words(result)}")
    lines += [f"- {note}" for note in teacher_notes(result)]
    for key in ("command", "host", "created_utc"):
        if result.get(key):
            lines.append(f"- {key.removesuffix('_utc')}: {_quoted(key, result[key])}")
    return lines


def _quoted(key: str, value: object) -> str:
    return f"`{value}`" if key == "command" else str(value)


def budget_words(result: Mapping[str, Any]) -> str:
    """Describe the training budget that all methods share."""
    return {
        "steps": "equal steps",
        "compute": "equal compute (floating-point operations of msd-fixed's ordinary run)",
        "converged": "four times the ordinary steps, best epoch on validation",
    }[result["budget"]]


def teacher_rows(result: Mapping[str, Any], *, nothing: str) -> dict[str, tuple[str, ...]]:
    """Return the metric by view, in %, of the teacher and of each teacher of a single view.

    Args:
        result: Content of compare.json.
        nothing: Text of a view that a model does not have.
    """
    models = {"teacher": result["teacher"]}
    for view, one in result.get("specialists", {}).items():
        models[f"{view} teacher"] = {view: one["test"]}
    return {
        name: tuple(percent_text(scores[v]) if v in scores else nothing for v in _VIEWS)
        for name, scores in models.items()
    }


def teacher_notes(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each unsound view of the teacher."""
    specialists = result.get("specialists", {})
    views = result.get("single_views", {})
    notes = unsound_views(views, result["metric"], specialists=specialists)
    return [f"The {note}." for note in notes]


def changed_words(result: Mapping[str, Any]) -> str:
    """Describe the settings of all methods that differ from the defaults; there must be some."""
    return f"Changed settings: {settings_words(result['changed_settings'])}"


def descriptions(result: Mapping[str, Any]) -> dict[str, str]:
    """Return a description of each method of a study, by name."""
    changed = result["changed_settings"]
    return {name: describe_method(name, changed) for name in result["methods"]}


def seeds_of(result: Mapping[str, Any]) -> list[str]:
    """Return the seeds of a study, as its first method has them."""
    first = next(iter(result["methods"].values()))
    return list(first["multimodal"]["per_seed"])


def _table(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"| method | {' | '.join(_VIEWS)} | gap closed | steps | operations a step | CPU s |",
        f"|---|{'---:|' * (len(_VIEWS) + 4)}",
        *(
            f"| {name} | {' | '.join(scores)} | | | | |"
            for name, scores in teacher_rows(result, nothing="").items()
        ),
    ]
    for method, spreads in result["methods"].items():
        gap = result["gap_closed"].get(method, {}).get("multimodal")
        seconds = result["cpu_seconds"].get(method)
        cells = [
            method,
            *(spread_text(spreads[view]) for view in _VIEWS),
            "" if gap is None else f"{gap:.0%}",
            f"{result['steps'][method]:,}",
            f"{result['flops_per_step'][method] / 1e9:.2f} G",
            "" if seconds is None else f"{seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    legend = [f"{name}: {words}" for name, words in descriptions(result).items()]
    return [*lines, "", "; ".join(legend) + "."]


def _paired_table(result: Mapping[str, Any]) -> list[str]:
    if not result["paired"]:
        return []
    lines = [
        "Differences in points, paired by seed: mean, 95 % bootstrap interval over seeds and test"
        " images, p of the paired t-test (**bold** below .05; not corrected for the number of"
        " comparisons). All rest on one teacher and one test split.",
        "",
        f"| difference | {' | '.join(_VIEWS)} |",
        f"|---|{'---:|' * len(_VIEWS)}",
    ]
    for name, views in result["paired"].items():
        lines.append(f"| {name} | {' | '.join(_difference(views[view]) for view in _VIEWS)} |")
    return [*lines, ""]


def percent_text(value: float) -> str:
    """Return a fraction in %, without the sign."""
    return f"{100 * value:.1f}"


def spread_text(spread: Mapping[str, Any]) -> str:
    """Return a spread of compare.json in %: 93.1 ± 0.4."""
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
    return f"{percent_text(spread['mean'])}{deviation}"


def difference_text(difference: Mapping[str, Any]) -> str:
    """Return a paired difference of compare.json in points: +2.9 [+1.0, +4.5] p = .003."""
    low, high = difference["interval"]
    p_value = difference["p_value"]
    text = f"{100 * difference['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    if p_value is None:
        return text
    p_text = "p < .001" if p_value < 0.001 else f"p = {p_value:.3f}".replace("0.", ".")
    return f"{text} {p_text}"


def is_significant(difference: Mapping[str, Any]) -> bool:
    """Return whether a paired difference's p is below .05."""
    return difference["p_value"] is not None and difference["p_value"] < _SIGNIFICANT


def _difference(difference: Mapping[str, Any]) -> str:
    text = difference_text(difference)
    return f"**{text}**" if is_significant(difference) else text
