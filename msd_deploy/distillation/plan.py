"""Training schedule: number of epochs and steps, learning rate of each step, early stopping."""

import math
from dataclasses import dataclass
from typing import Literal

from msd_deploy.artifacts.manifest import sha256_of_json
from msd_deploy.config.distill import Keep
from msd_deploy.config.run import Precision
from msd_deploy.views import View

# With fewer, a student of three views is behind one of the multimodal view on much data.
_STEPS = {"teacher": 750, "student": 1000}
# Students of 50 k parameters still improve after 7 epochs, also with 10,000 examples.
_MIN_EPOCHS = {"teacher": 8, "student": 10}
# A training set of one or two batches is known by heart long before 750 steps.
_MAX_EPOCHS = 100
# An epoch of few examples is few steps: validation after each would cost more than training.
_MAX_VALIDATIONS = 20
_COOLDOWN = 0.2


Phase = Literal["teacher", "adaptation", "student", "int8"]


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
        keep: Weights at the end: those of the last step, of the epoch with the best validation
            metric (best), or of the last epoch that is no worse by its standard error (one-se).
        patience: Validations without a better metric before training stops early; 0: it does not.
        watched: Views of whose metrics keep and patience use the mean; see `watched_views`.
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
    keep: Keep = "last"
    patience: int = 0
    watched: tuple[View, ...] = (View.MULTIMODAL,)
    parts: int = 1
    pretrained_rate: float = 1.0
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a training ended, also in the model's manifest.json and in metrics.json.

    Attributes:
        epochs: Number of epochs, the last one perhaps not a whole one.
        planned_epochs: Number of epochs without early stopping.
        kept_epoch: Epoch whose weights the model has, from 1.
    """

    epochs: int
    planned_epochs: int
    kept_epoch: int


def default_epochs(phase: Phase, rows: int, batch_size: int, steps_per_epoch: int) -> int:
    """Return the default number of epochs: about 1,000 steps (teacher: 750), or more.

    At least the steps of 10 epochs (teacher: 8), at most 100 epochs, in batches of batch_size rows.
    Where rows share images, batches are larger and an epoch has fewer steps, so there are more
    epochs.

    Args:
        phase: Phase of the training.
        rows: Number of rows of the training split.
        batch_size: Minimum batch size.
        steps_per_epoch: Number of actual batches per epoch.
    """
    epochs = _MIN_EPOCHS[phase]
    steps = max(_STEPS[phase], epochs * rows / batch_size)
    return max(epochs, min(_MAX_EPOCHS, round(steps / max(1, steps_per_epoch))))


def epochs_per_validation(epochs: int) -> int:
    """Return the number of epochs between two validations, of which there are about 20 at most."""
    return max(1, epochs // _MAX_VALIDATIONS)


def learning_rate_at(
    step: int, steps: int, plan: TrainingPlan, *, cooldown_from: int | None = None
) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine to 0.

    Args:
        step: The step.
        steps: Number of steps of the whole training.
        plan: The plan.
        cooldown_from: Where training stops early, the first step of a linear decay to 0 instead.
    """
    if cooldown_from is not None and step >= cooldown_from:
        left = last_step(steps, cooldown_from) - step
        whole = last_step(steps, cooldown_from) - cooldown_from
        return learning_rate_at(cooldown_from, steps, plan) * left / whole
    warmup = max(1, round(plan.warmup_share * steps))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def watched_views(keep: Keep, phase: Phase, *, trains_single_views: bool) -> tuple[View, ...]:
    """Return the views whose mean validation metric decides on early stopping and the kept epoch.

    All that are trained: a single view is often learned later than the multimodal one, and a
    teacher that is stopped before has nothing to teach of it. With keep = best, the multimodal one,
    but for adaptation, which is about the others.
    """
    has_all = phase == "adaptation" or (trains_single_views and keep != "best")
    return tuple(View) if has_all else (View.MULTIMODAL,)


def last_step(steps: int, cooldown_from: int | None) -> int:
    """Return the number of steps of a training that stops early, or of the whole one.

    The learning rate is still high when the metric stops rising, so the weights are too noisy to
    keep. It decays to 0 within a fifth of the steps so far, which reaches the metric of a schedule
    that was planned to end there (Hägele et al. 2024, arXiv 2405.18392, section 3).
    """
    if cooldown_from is None:
        return steps
    return min(steps, cooldown_from + max(1, round(_COOLDOWN * cooldown_from)))


def is_no_worse(metric: float, best: float, examples: int) -> bool:
    """Return whether a metric is within one standard error of the best one.

    That of the difference of two shares of as many independent examples, from the best one's share
    with one success and one failure added (Laplace), since 4 of 4 is no certainty. Two epochs are
    evaluated on the same examples, so it is an upper bound. One-standard-error rule: Breiman et al.
    1984, Classification and Regression Trees, section 3.4.3, there for the simplest tree.

    Args:
        metric: A validation metric, 0 to 1.
        best: The best one so far.
        examples: Number of validation examples.
    """
    share = (best * examples + 1) / (examples + 2)
    return metric >= best - math.sqrt(2 * share * (1 - share) / examples)


def note_of_result(result: TrainingResult) -> str | None:
    """Return a sentence if a training ended early or keeps another epoch than its last."""
    early = f"training ended after {result.epochs} of {result.planned_epochs} epochs"
    early += ", as the validation metric no longer rose"
    kept = f"epoch {result.kept_epoch} of {result.epochs} is kept"
    kept += " by the validation metric"
    parts = [early] * (result.epochs < result.planned_epochs)
    parts += [kept] * (result.kept_epoch < result.epochs)
    return "; ".join(parts) or None


def plan_key(*parts: object) -> str:
    """Return the digest that identifies a training."""
    return sha256_of_json(parts)
