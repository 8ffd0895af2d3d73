"""PretrainedTeacher: what `msd teacher` asks of the checkpoints that a teacher starts from.

What of a teacher stays as its checkpoint has it: nothing, its vision encoder, or all of it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from msd_deploy.config.fine_tuning import Freeze
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.problem import Problem


class PretrainedTeacher(Protocol):
    """Checkpoints, opened and checked."""

    @property
    def family(self) -> str:
        """What the teacher is called."""
        ...

    @property
    def has_vision_encoder(self) -> bool:
        """Whether a part of it sees a picture before it meets the text."""
        ...

    def digest(self) -> str:
        """Return the SHA-256 of what it starts from."""
        ...

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Return what makes its inputs.

        Args:
            texts: The training texts.
            tokenizer: A tokenizer.json, or a folder with one, instead of the checkpoint's own.
            max_length: Tokens of text; None: the longest training text's, as far as it reads.
            image_size: Side in pixels; None: what it was trained with.

        Raises:
            MsdError: One of them does not suit the checkpoint.
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
        """Return a model with the checkpoint's weights and a fresh head, for a task."""
        ...


def check_freeze(start: PretrainedTeacher, what: Freeze) -> None:
    """Check that a checkpoint has what is to be frozen.

    Raises:
        ConfigError: It has no vision encoder.
    """
    if what == "vision" and not start.has_vision_encoder:
        raise ConfigError(
            f"{start.family} has no vision encoder that could be frozen by itself: patches of"
            " pixels go straight into its one stream",
            where="finetune.freeze",
            fix="Use --freeze all, or --freeze none",
        )


def freeze(model: ViewClassifier, what: Freeze) -> None:
    """Keep weights as their checkpoints have them: no gradient, and eval mode in training.

    Args:
        model: Its `pretrained` says which weights came from a checkpoint.
        what: vision: the vision encoder; all: every weight from a checkpoint.
    """
    if what == "none":
        return
    seeing = {id(parameter) for module in model.vision_modules for parameter in module.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in seeing}
    model.freeze(names if what == "vision" else names | model.pretrained)
