"""The methods that a study compares, each as a change of the distillation's settings."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from msd_deploy.config.distill import DistillConfig

_Change = Callable[[DistillConfig, float], DistillConfig]


def _none(config: DistillConfig, dropout: float) -> DistillConfig:
    without = replace(config, hint_weight=0.0, relation_weight=0.0)
    return replace(without, method="none", weighting="fixed", modality_dropout=0.0)


def _kd(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="kd", weighting="fixed", modality_dropout=0.0)


def _kd_total(config: DistillConfig, dropout: float) -> DistillConfig:
    total = config.multimodal_weight + config.image_weight + config.text_weight
    return replace(_kd(config, dropout), multimodal_weight=total)


def _kd_dropout(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="kd", weighting="fixed", modality_dropout=dropout)


def _fixed(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="msd", weighting="fixed", modality_dropout=0.0)


def _population(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="msd", weighting="population", modality_dropout=0.0)


def _instance(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="msd", weighting="instance", modality_dropout=0.0)


def _meta(config: DistillConfig, dropout: float) -> DistillConfig:
    return replace(config, method="msd", weighting="meta", modality_dropout=0.0)


METHODS: Mapping[str, _Change] = {
    "none": _none,
    "kd": _kd,
    "kd-total": _kd_total,
    "kd-dropout": _kd_dropout,
    "msd-fixed": _fixed,
    "msd-population": _population,
    "msd-instance": _instance,
    "msd-meta": _meta,
}

DESCRIPTIONS: Mapping[str, str] = {
    "teacher": "the teacher",
    "none": "labels alone",
    "kd": "plain knowledge distillation: the teacher's answer to the pair",
    "kd-total": "kd whose one distance has the weight of msd's three",
    "kd-dropout": "kd, the student shown one modality alone in some steps",
    "msd-fixed": "MSD, constant weights",
    "msd-population": "MSD, weights from each modality's mean saliency",
    "msd-instance": "MSD, weights from each example's saliency",
    "msd-meta": "MSD, weights learned from labels that the student does not train on",
}


def method_name(config: DistillConfig) -> str:
    """Return the name of the method that a run's settings are; the weights' sizes do not count."""
    if config.method == "msd":
        return f"msd-{config.weighting}"
    return "kd-dropout" if config.method == "kd" and config.modality_dropout else config.method


def describe_method(method: str, settings: Mapping[str, object]) -> str:
    """Return a method's description, with what it learns beside the teacher's answers.

    Args:
        method: Its name.
        settings: Those that are not the defaults, by dotted key.
    """
    learned = {
        "hints": "distill.hint_weight",
        "relations between examples": "distill.relation_weight",
    }
    told = " and ".join(name for name, key in learned.items() if key in settings)
    if not told or method in ("teacher", "none"):
        return DESCRIPTIONS[method]
    words = DESCRIPTIONS[method].removeprefix("plain ")
    return f"{words}, and {told} from the teacher's features"
