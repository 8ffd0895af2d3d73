"""How a caller watches work that goes in stages: a run, an export, a benchmark. Torch-free.

What only a training reports, steps and the wish to stop, is in `msd_deploy.distill.trainer.Hooks`.
"""

from collections.abc import Callable
from dataclasses import dataclass


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
