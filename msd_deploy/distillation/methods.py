"""The methods of a study, each as a change of the distillation settings."""

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
    "none": "labels only, no distillation",
    "kd": "plain knowledge distillation from the teacher's multimodal prediction",
    "kd-total": "kd with the total weight of MSD's three distances",
    "kd-dropout": "kd with modality dropout: some steps use one modality only",
    "msd-fixed": "MSD with constant weights",
    "msd-population": "MSD with weights from each modality's mean saliency",
    "msd-instance": "MSD with weights from each example's saliency",
    "msd-meta": "MSD with weights learned from held-out labels",
}


def method_name(config: DistillConfig) -> str:
    """Return the method that a run's settings correspond to, whatever the values of weights."""
    if config.method == "msd":
        return f"msd-{config.weighting}"
    return "kd-dropout" if config.method == "kd" and config.modality_dropout else config.method


def describe_method(method: str, settings: Mapping[str, object]) -> str:
    """Return a method's description, including its feature losses.

    Args:
        method: Name of the method.
        settings: Settings that are not the defaults, by dotted key.
    """
    losses = {
        "hints": "distill.hint_weight",
        "relations between examples": "distill.relation_weight",
    }
    used = " and ".join(name for name, key in losses.items() if key in settings)
    if not used or method in ("teacher", "none"):
        return DESCRIPTIONS[method]
    description = DESCRIPTIONS[method].removeprefix("plain ")
    return f"{description}, plus {used} from the teacher's features"
