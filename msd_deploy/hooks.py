"""How a caller watches work that goes in stages: a run, an export, a benchmark. Torch-free.

What only a training reports, steps and the wish to stop, is in `msd_deploy.distill.trainer.Hooks`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StageHooks:
    """What is called while stages go by; each does nothing by default.

    Attributes:
        on_stage: Called with a sentence when a stage begins.
        on_count: Called with what is counted, how many are done, and their total.
        on_note: Called with what the user should know.
    """

    on_stage: Callable[[str], None] = lambda sentence: None
    on_count: Callable[[str, int, int], None] = lambda what, done, total: None
    on_note: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress display shows of a step.

    Attributes:
        phase: "teacher", "student" or "int8".
        step: Steps done, from 1.
        steps: Steps in all.
        epoch: Current pass, from 1.
        epochs: Passes in all.
        terms: Loss terms by name, already weighted.
        examples_per_second: Rows trained on per second of this process, smoothed by the caller.
        metric: The last validation value, 0 to 1; None before the first.
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
    """How a caller watches and stops a training.

    Attributes:
        on_step: Called after each step.
        should_stop: Asked after each step; true saves a checkpoint and raises StoppedError.
    """

    on_step: Callable[[StepReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class RunHooks:
    """How a caller watches and stops a run.

    Attributes:
        stages: Hooks of its stages; on_note tells of the data, skipped rows included.
        training: Hooks of both trainings.
    """

    stages: StageHooks = field(default_factory=StageHooks)
    training: Hooks = field(default_factory=Hooks)
