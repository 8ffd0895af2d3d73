"""MODEL_CARD.md beside an export: what it is, how it does, and what is left for its owner to say.

In the layout that the Hugging Face hub reads (Mitchell et al. 2019, "Model Cards for Model
Reporting"). Intended use and limits are the owner's: their headings are there, to be filled in.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_deploy import __version__
from msd_deploy.artifacts.manifest import CARD_NAME, Json, write_text
from msd_deploy.errors import ArtifactError
from msd_deploy.problem import Problem
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View
from msd_export.formats import FORMATS, Variant, made_with, variant_name
from msd_export.source import ExportSource

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
PROBLEMS: Mapping[Problem, str] = {
    "single_label": "one per example",
    "multi_label": "any number per example",
    "soft_label": "one answer per example, as people gave it",
}
"""What a task decides, in words."""
# Identifiers of the Hugging Face hub, without versions and variants that names leave open.
_LICENSES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense"),
        *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "openrail", "cc0-1.0", "cc-by-4.0"),
        *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    }
)
_MOST_LABELS = 30
_FIRST_OF_OWNER = re.compile(r"^## Intended use\s*$", re.MULTILINE | re.IGNORECASE)
_FIRST_OF_OURS = re.compile(r"^## Results\s*$", re.MULTILINE | re.IGNORECASE)
TO_FILL_IN = """\
## Intended use

To fill in: who uses it, for what, and what a wrong answer costs.

## Limits

To fill in: on which images and texts it was not tried, and what is not to be left to it.

It answers for the data of its task alone, and has no class for anything else."""
_NOT_PLAIN = str.maketrans(dict.fromkeys("\n\r|`<>[]{}#", " "))


def write_model_card(
    folder: Path,
    source: ExportSource,
    variant: Variant,
    report: Json,
    *,
    words: str | None = None,
) -> None:
    """Write the card of an export.

    Args:
        folder: The export.
        source: The exported model.
        variant: Target and precision.
        report: parity.json.
        words: Intended use and limits, with their headings; None: they are left to be filled in.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    target, precision = variant
    form, loaded = FORMATS[target], source.loaded
    views: dict[str, Any] = report["views"]  # type: ignore[assignment]  # written by parity_as_json
    name = f"{plain(source.name)} {variant_name(variant)}"
    metric = metric_of(report)
    stated = source.stated.get("license")
    data = ModelCardData(
        model_name=name,
        **license_of_card(None if stated is None else str(stated)),
        metrics=[metric],
        tags=["image-text-classification", "msd-deploy", target],
        eval_results=None
        if not has_labels(report)
        else [
            EvalResult(
                task_type="image-text-classification",
                dataset_type="custom",
                dataset_name=f"data set {source.data.digest[:12]}",
                dataset_config=view,
                dataset_split="test",
                dataset_revision=source.data.digest,
                metric_type=metric,
                metric_name=f"{metric} ({view})",
                metric_value=result["export"]["value"],
            )
            for view, result in views.items()
        ],
    )
    point = loaded.operating_point
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=name,
        owners_words=words or TO_FILL_IN,
        classes=len(loaded.labels),
        problem=PROBLEMS[loaded.problem],
        labels=label_list(loaded.labels),
        parameters=f"{sum(p.numel() for p in loaded.model.parameters()):,}",
        title=form.title,
        precision=precision,
        made_with=made_with(target),
        version=__version__,
        examples=f"{max(result['export']['examples'] for result in views.values()):,}",
        dataset_digest=source.data.digest,
        source_digest=loaded.digest,
        metric=metric,
        results=[_result(view, result) for view, result in views.items()],
        notes=report["notes"],
        temperatures=_temperatures(loaded.temperatures),
        confidence=[confidence_row(view, result["confidence"]) for view, result in views.items()],
        rule="" if point is None else point.rule,
    )
    write_text(folder / CARD_NAME, str(card.content).rstrip() + "\n")


def owners_words(card: Path) -> str | None:
    """Return intended use and limits of a card, with their headings; None without a card.

    Raises:
        ArtifactError: The card does not have our headings, so that nobody knows what to keep.
    """
    if not card.is_file():
        return None
    content = card.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    start, ends = _FIRST_OF_OWNER.search(text), list(_FIRST_OF_OURS.finditer(text))
    if start is None or not ends or ends[-1].start() < start.end():
        raise ArtifactError(
            "has no headings '## Intended use' and, after it, '## Results': what is between them is"
            " kept",
            where=card,
            fix="Restore the headings, or remove the file",
        )
    return text[start.start() : ends[-1].start()].strip()


def has_labels(report: Json) -> bool:
    """Return whether the scores of parity.json are of labels, not of the source's own decisions."""
    views: dict[str, Any] = report["views"]  # type: ignore[assignment]  # written by parity_as_json
    return all("export_ece" in result["confidence"] for result in views.values())


def metric_of(report: Json) -> str:
    """Return what the scores of parity.json are."""
    return str(report["metric"]) if has_labels(report) else "agreement with the model exported"


def license_of_card(name: str | None) -> dict[str, Any]:
    """Return how a card states a license: by the hub's identifier, or as another with its name."""
    if not name:
        return {}
    known = name.strip().lower()
    if known in _LICENSES:
        return {"license": known}
    return {"license": "other", "license_name": plain(name)}


def label_list(labels: Sequence[str]) -> str:
    """Return the names of classes as code, or the first of many."""
    shown = [f"`{plain(label)}`" for label in labels[:_MOST_LABELS]]
    further = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {further} more" if further else "")


def plain(text: str) -> str:
    """Return a name of the data's without what Markdown and YAML would read as theirs."""
    return " ".join(text.translate(_NOT_PLAIN).split())


def percent(score: Mapping[str, Any]) -> str:
    """Return a score of parity.json with its interval."""
    low, high = score["interval"]
    return f"{score['value']:.1%} [{low:.1%}, {high:.1%}]"


def _temperatures(temperatures: Temperatures) -> str:
    """Return which views are calibrated."""
    fitted = [view.value for view in View if temperatures.examples[view]]
    if not fitted:
        return "They are not calibrated."
    if len(fitted) == len(View):
        return "They are calibrated, by a temperature of each view."
    return f"They are calibrated for {' and '.join(fitted)} alone, by a temperature of each."


def _result(view: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    scores = (percent(result["export"]), percent(result["source"]))
    return (view, *scores, f"{result['agreement']:.2%}", f"{result['max_abs_error']:.1e}")


def confidence_row(view: str, shift: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a view, its mean confidence, and its expected calibration error with its interval."""
    error = shift.get("export_ece")
    if error is None:  # without labels nobody knows what is right
        return (view, f"{shift['export']:.1%}", "unknown")
    low, high = error["interval"]
    return (view, f"{shift['export']:.1%}", f"{error['value']:.3f} [{low:.3f}, {high:.3f}]")
