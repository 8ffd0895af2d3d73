"""How long and how fast a training goes: its plan, and the learning rate at each step."""

import math
from dataclasses import dataclass
from typing import Literal

from msd_deploy.artifacts.manifest import sha256_of_json
from msd_deploy.config.run import Precision

_STEPS = 750
# A teacher learns from labels alone; a student, told what the teacher thinks of each example,
# needs fewer passes.
_LEAST_PASSES = {"teacher": 8, "student": 5}


Phase = Literal["teacher", "student", "int8"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how fast.

    Attributes:
        phase: Names checkpoints and lines of the history.
        epochs: Passes over the training split.
        batch_size: Rows a step, at least.
        learning_rate: Peak, of weights that start from nothing.
        pretrained_rate: That of weights that start from a checkpoint, as a share of it.
        weight_decay: Of weight matrices; biases, norms and embeddings have none.
        warmup_share: Share of the steps over which the learning rate rises linearly.
        seed: Of the order.
        log_every: Steps between two lines of the history.
        checkpoint_seconds: Least time between two checkpoints.
        key: Digest of all that decides the result; a checkpoint of another key is refused.
        steps: Steps in all instead of whole epochs.
        keep_best: Whether the model ends with the weights of its best epoch on validation.
        patience: Epochs without a better validation metric after which it stops.
        parts: How many parts a step's rows are computed in, one after the other.
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
    """Return the passes of a training whose length is not given: about 750 steps, or more.

    No fewer than the steps of 5 passes (of a teacher, 8) in batches of batch_size rows. Where rows
    share pictures, batches are larger and passes have fewer steps, so there are more of them.

    Args:
        phase: Whose training.
        rows: Of the training split.
        batch_size: Least rows a step.
        steps_per_epoch: Of its real batches.
    """
    passes = _LEAST_PASSES[phase]
    steps = max(_STEPS, passes * rows / batch_size)
    return max(passes, round(steps / max(1, steps_per_epoch)))


def learning_rate_at(step: int, steps: int, plan: TrainingPlan) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine to 0."""
    warmup = max(1, round(plan.warmup_share * steps))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def plan_key(*parts: object) -> str:
    """Return the digest that tells one training from another."""
    return sha256_of_json(parts)
