"""history.jsonl, the log of a run, and its copy in experiment trackers such as TensorBoard.

history.jsonl is the record; Accelerate's trackers log the same lines. A resumed training logs the
earlier lines again, so that a newly opened tracker has every step exactly once.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from msd_deploy.artifacts.manifest import json_text
from msd_deploy.config.run import TrackerName
from msd_deploy.errors import RuntimeUnavailableError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class History:
    """The log of a run, one JSON object per line.

    Attributes:
        path: Path of history.jsonl.
    """

    path: Path

    def append(self, line: Mapping[str, object]) -> None:
        """Append a line."""
        text = json_text(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def size_bytes(self) -> int:
        """Return the size of the file, 0 where it does not exist."""
        return self.path.stat().st_size if self.path.exists() else 0

    def lines_of(self, phase: str) -> list[Mapping[str, object]]:
        """Return the lines of a phase; the file must not end in an incomplete line."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["phase"] == phase]

    def cut_to(self, size_bytes: int) -> None:
        """Truncate the file to whole lines of at most a size; log how much of it is missing."""
        found = self.path.read_bytes() if self.path.exists() else b""
        kept = found[:size_bytes].rfind(b"\n") + 1
        if kept < size_bytes:
            lost = size_bytes - kept
            _log.warning("%s lacks %d bytes: steps are missing in the log", self.path, lost)
        if kept < len(found):
            with self.path.open("r+b") as file:
                file.truncate(kept)

    def cut_before(self, phase: str) -> None:
        """Truncate the file before a phase's first line, since that training starts again.

        An incomplete line, left by an interrupted write, is removed too.
        """
        kept = 0
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if _phase_of(line) in (phase, None):
                    break
                kept += len(line)
        self.cut_to(kept)


def _phase_of(line: bytes) -> str | None:
    """Return the phase of a line; None if the line is incomplete."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return str(value["phase"]) if isinstance(value, dict) and "phase" in value else None


# Keys that locate a line instead of holding one of its values.
_LOCATORS = frozenset({"phase", "step", "epoch", "split"})
_PACKAGES: Mapping[str, str] = {
    "tensorboard": '"msd-deploy[tensorboard]"',
    "comet_ml": "comet-ml",
}


@dataclass(frozen=True, slots=True)
class Tracker:
    """An experiment tracker of one training.

    Attributes:
        name: Name of the tracker.
        folder: Folder of trackers that write files; TensorBoard's events are in folder/project.
        project: Name of this training in the tracker.
    """

    name: TrackerName
    folder: Path
    project: str


def check_tracker(name: TrackerName | None) -> None:
    """Check that a tracker is installed, before any work; None passes.

    Raises:
        RuntimeUnavailableError: It is not installed; names the package.
    """
    if name is not None and LoggerType(name) not in get_available_trackers():
        raise RuntimeUnavailableError(
            f"{name} is not installed",
            where="tracker",
            fix=f"Install it with `pip install {_PACKAGES.get(name, name)}`, or choose another",
        )


def start_tracker(
    accelerator: Accelerator, tracker: Tracker | None, history: History, phase: str
) -> None:
    """Start an accelerator's tracker and log the existing lines of a phase.

    Args:
        accelerator: Created with the tracker's name as `log_with` and its folder as `project_dir`.
        tracker: The tracker; None does nothing.
        history: Log of the run.
        phase: Phase whose lines are logged.

    Raises:
        RuntimeUnavailableError: The tracker cannot be started.
    """
    if tracker is None:
        return
    # Makes TensorBoard discard earlier events: all of them are written again.
    settings = {"tensorboard": {"purge_step": 0}} if tracker.name == "tensorboard" else {}
    try:
        accelerator.init_trackers(tracker.project, init_kwargs=settings)
    except Exception as error:  # each tracker has its own exceptions
        raise RuntimeUnavailableError(
            f"{tracker.name} cannot be started ({error})",
            where="tracker",
            fix="Fix its configuration, or run without --tracker",
        ) from error
    for line in history.lines_of(phase):
        track(accelerator, line)


def track(accelerator: Accelerator, line: Mapping[str, object]) -> None:
    """Log a line of the history to the accelerator's trackers, if there are any.

    A failure is only logged: history.jsonl has the line, and resuming logs it again.
    """
    try:
        accelerator.log(scalars_of(line), step=line["step"])
    except Exception as error:  # each tracker has its own exceptions
        _log.warning("step %s could not be logged to the tracker (%s)", line["step"], error)


def close_trackers(accelerator: Accelerator) -> None:
    """Flush and close the accelerator's trackers; failures are only logged."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:  # each tracker has its own exceptions
            _log.warning("the tracker could not be closed (%s)", error)


def scalars_of(line: Mapping[str, object]) -> dict[str, float]:
    """Return a line's numbers by path, e.g. loss, terms/labels, validation/accuracy/image."""
    prefix = f"{line['split']}/" if "split" in line else ""
    values = {key: value for key, value in line.items() if key not in _LOCATORS}
    return _flat(values, prefix)


def _flat(values: Mapping[str, object], prefix: str) -> dict[str, float]:
    scalars: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            scalars |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            scalars[f"{prefix}{key}"] = float(value)
    return scalars
