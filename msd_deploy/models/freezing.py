"""What of a teacher stays as its checkpoint has it: nothing, its vision encoder, or all of it."""

from msd_deploy.errors import ConfigError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.teacher_start import TeacherStart
from msd_deploy.teaching_config import Freeze


def check_freeze(start: TeacherStart, what: Freeze) -> None:
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
    seeing = {id(parameter) for module in model.eyes for parameter in module.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in seeing}
    model.freeze(names if what == "vision" else names | model.pretrained)
