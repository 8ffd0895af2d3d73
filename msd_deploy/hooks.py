"""Progress callbacks of runs, trainings, exports and benchmarks. Torch-free."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StageHooks:
    """Callbacks of work that goes in stages; each does nothing by default.

    Attributes:
        on_stage: Called with a sentence when a stage begins.
        on_count: Called with the name of the counted items, the number done and their total.
        on_note: Called with a note for the user.
    """

    on_stage: Callable[[str], None] = lambda sentence: None
    on_count: Callable[[str, int, int], None] = lambda what, done, total: None
    on_note: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress of a training after one step.

    Attributes:
        phase: "teacher", "adaptation", "student" or "int8".
        step: Steps done, from 1.
        steps: Total number of steps.
        epoch: Current epoch, from 1.
        epochs: Total number of epochs.
        terms: Weighted loss terms by name.
        examples_per_second: Training examples per second over this step, not smoothed.
        metric: Last validation metric, 0 to 1; None before the first.
    """

    phase: str
    step: int
    steps: int
    epoch: int
    epochs: int
    terms: Mapping[str, float]
    examples_per_second: float
    metric: float | None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks of a training.

    Attributes:
        on_step: Called after each step.
        should_stop: Called after each step; true saves a checkpoint and raises StoppedError.
    """

    on_step: Callable[[StepReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Callbacks of a run.

    Attributes:
        stages: Callbacks of its stages; on_note receives notes on the data, e.g. skipped rows.
        training: Callbacks of every training in it.
    """

    stages: StageHooks = field(default_factory=StageHooks)
    training: Hooks = field(default_factory=Hooks)
