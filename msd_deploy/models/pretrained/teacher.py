"""PretrainedTeacher, the interface of checkpoints that `msd teacher` fine-tunes, and freezing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from msd_deploy.config.fine_tuning import Freeze
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.problem import Problem


def refuse_inputs(inputs: Mapping[str, object], what: str) -> None:
    """Refuse requested inputs that a start has fixed or does not have.

    Args:
        inputs: By key of `[data]`; None where nothing is requested.
        what: What is wrong, for the error.

    Raises:
        ConfigError: One is requested.
    """
    for name, value in inputs.items():
        if value is not None:
            raise ConfigError(what, where=f"data.{name}", fix="Remove it")


class PretrainedTeacher(Protocol):
    """One or more checkpoints, opened and checked."""

    @property
    def family(self) -> str:
        """Name of the family."""
        ...

    @property
    def has_vision_encoder(self) -> bool:
        """Whether it has a separate vision encoder."""
        ...

    def digest(self) -> str:
        """Compute the SHA-256 of the checkpoints."""
        ...

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Build its preprocessor.

        Args:
            texts: The training texts.
            tokenizer: A tokenizer.json, or a folder with one, instead of the checkpoint's own.
            max_length: Maximum number of text tokens; None for that of the longest text, within the
                model's limit.
            image_size: Side in pixels; None for that of the checkpoint.

        Raises:
            MsdError: The checkpoint does not support one of them.
        """
        ...

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float,
    ) -> ViewClassifier:
        """Build a model with the checkpoint's weights and a new head for a task."""
        ...


def check_freeze(start: PretrainedTeacher, what: Freeze) -> None:
    """Check that the parts to freeze exist.

    Raises:
        ConfigError: There is no separate vision encoder.
    """
    if what == "vision" and not start.has_vision_encoder:
        raise ConfigError(
            f"{start.family} has no separate vision encoder to freeze: its single stream takes"
            " patches of pixels",
            where="finetune.freeze",
            fix="Use --freeze all, or --freeze none",
        )


def freeze(model: ViewClassifier, what: Freeze) -> None:
    """Freeze pretrained weights: no gradients, and eval mode in training.

    Args:
        model: The model; `pretrained` names its pretrained weights.
        what: "vision" for the vision encoder, "all" for every pretrained weight.
    """
    if what == "none":
        return
    vision = {id(parameter) for module in model.vision_modules for parameter in module.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in vision}
    model.freeze(names if what == "vision" else names | model.pretrained)
