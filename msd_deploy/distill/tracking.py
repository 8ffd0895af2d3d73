"""Trackers of experiments, such as TensorBoard, by way of Accelerate: history.jsonl as curves.

history.jsonl stays the record; a tracker is shown its lines. A training that is continued shows it
the lines from before again, so that whatever a tracker opens, it holds every step once.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from msd_deploy.config import TrackerName
from msd_deploy.distill.history import History
from msd_deploy.errors import RuntimeUnavailableError

_log = logging.getLogger(__name__)
# What places a line, and is no value of it.
_PLACES = frozenset({"phase", "step", "epoch", "split"})
_PACKAGES: Mapping[str, str] = {
    "tensorboard": '"msd-deploy[tensorboard]"',
    "comet_ml": "comet-ml",
}


@dataclass(frozen=True, slots=True)
class Tracker:
    """Where the curves of one training go.

    Attributes:
        name: The tracker.
        folder: For those that write files; TensorBoard's events lie in folder/project.
        project: What the tracker calls this training.
    """

    name: TrackerName
    folder: Path
    project: str


def check_tracker(name: TrackerName | None) -> None:
    """Check, before any work, that a tracker is here; None is.

    Raises:
        RuntimeUnavailableError: It is not installed; says how to install it.
    """
    if name is not None and LoggerType(name) not in get_available_trackers():
        raise RuntimeUnavailableError(
            f"{name} is not installed",
            where="tracker",
            fix=f"Install it with `pip install {_PACKAGES.get(name, name)}`, or use another",
        )


def start_tracker(
    accelerator: Accelerator, tracker: Tracker | None, history: History, phase: str
) -> None:
    """Open an accelerator's tracker, and show it the training's lines that are there already.

    Args:
        accelerator: Made with `log_with` the tracker's name and `project_dir` its folder.
        tracker: The tracker; None: nothing happens.
        history: The run's.
        phase: Whose lines.

    Raises:
        RuntimeUnavailableError: The tracker does not start.
    """
    if tracker is None:
        return
    # Readers of TensorBoard's files then drop the events before: all of them are written again.
    settings = {"tensorboard": {"purge_step": 0}} if tracker.name == "tensorboard" else {}
    try:
        accelerator.init_trackers(tracker.project, init_kwargs=settings)
    except Exception as error:  # every tracker has errors of its own
        raise RuntimeUnavailableError(
            f"{tracker.name} does not start ({error})", where="tracker"
        ) from error
    for line in history.lines_of(phase):
        track(accelerator, line)


def track(accelerator: Accelerator, line: Mapping[str, object]) -> None:
    """Show a line of the history to the accelerator's trackers, of which there may be none.

    What fails there costs no training: history.jsonl has the line, and a resume shows it again.
    """
    try:
        accelerator.log(scalars_of(line), step=line["step"])
    except Exception as error:  # every tracker has errors of its own
        _log.warning("the tracker did not take step %s (%s)", line["step"], error)


def close_trackers(accelerator: Accelerator) -> None:
    """Let the accelerator's trackers write what they hold; see `track` for what fails."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:  # every tracker has errors of its own
            _log.warning("the tracker did not close (%s)", error)


def scalars_of(line: Mapping[str, object]) -> dict[str, float]:
    """Return a line's numbers by path: loss, terms/labels, validation/accuracy/image."""
    prefix = f"{line['split']}/" if "split" in line else ""
    values = {key: value for key, value in line.items() if key not in _PLACES}
    return _flat(values, prefix)


def _flat(values: Mapping[str, object], prefix: str) -> dict[str, float]:
    scalars: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            scalars |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            scalars[f"{prefix}{key}"] = float(value)
    return scalars
