"""Training schedule: number of epochs and steps, and the learning rate of each step."""

import math
from dataclasses import dataclass
from typing import Literal

from msd_deploy.artifacts.manifest import sha256_of_json
from msd_deploy.config.run import Precision

_STEPS = 750
# A student needs fewer epochs than a teacher, since soft targets carry more than labels.
_MIN_EPOCHS = {"teacher": 8, "student": 5}
# An epoch of few examples is few steps: validation after each would cost more than training.
_MAX_VALIDATIONS = 20


Phase = Literal["teacher", "student", "int8"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Schedule and optimizer settings of one training.

    Attributes:
        phase: Phase of the training, in checkpoints and in the history.
        epochs: Number of epochs.
        batch_size: Minimum batch size.
        learning_rate: Peak learning rate of randomly initialized weights.
        pretrained_rate: Learning rate of pretrained weights, as a share of `learning_rate`.
        weight_decay: Weight decay of weight matrices; biases, norms and embeddings have none.
        warmup_share: Share of the steps with linear warm-up.
        seed: Random seed of the order of batches.
        log_every: Steps between two lines of the history.
        checkpoint_seconds: Minimum time between two checkpoints.
        key: Digest of everything the result depends on; checkpoints of other keys are rejected.
        steps: Number of steps instead of whole epochs.
        keep_best: Whether to restore the weights of the best validation epoch at the end.
        patience: Epochs without a better validation metric before training stops.
        parts: Number of sequential parts of a batch (gradient accumulation).
        precision: bf16 multiplies matrices in bfloat16; weights and losses stay float32.
    """

    phase: Phase
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    seed: int
    log_every: int
    checkpoint_seconds: float
    key: str
    steps: int | None = None
    keep_best: bool = False
    patience: int | None = None
    parts: int = 1
    pretrained_rate: float = 1.0
    precision: Precision = "fp32"


def default_epochs(phase: Phase, rows: int, batch_size: int, steps_per_epoch: int) -> int:
    """Return the default number of epochs: about 750 steps, or more.

    At least the steps of 5 epochs (teacher: 8) in batches of batch_size rows. Where rows share
    images, batches are larger and an epoch has fewer steps, so there are more epochs.

    Args:
        phase: Phase of the training.
        rows: Number of rows of the training split.
        batch_size: Minimum batch size.
        steps_per_epoch: Number of actual batches per epoch.
    """
    epochs = _MIN_EPOCHS[phase]
    steps = max(_STEPS, epochs * rows / batch_size)
    return max(epochs, round(steps / max(1, steps_per_epoch)))


def epochs_per_validation(epochs: int) -> int:
    """Return the number of epochs between two validations, of which there are about 20 at most."""
    return max(1, epochs // _MAX_VALIDATIONS)


def learning_rate_at(step: int, steps: int, plan: TrainingPlan) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine to 0."""
    warmup = max(1, round(plan.warmup_share * steps))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def plan_key(*parts: object) -> str:
    """Return the digest that identifies a training."""
    return sha256_of_json(parts)
