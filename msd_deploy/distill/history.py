"""history.jsonl, and experiment trackers that are shown its lines.

Trackers of experiments, such as TensorBoard, by way of Accelerate: history.jsonl as curves.

history.jsonl stays the record; a tracker is shown its lines. A training that is continued shows it
the lines from before again, so that whatever a tracker opens, it holds every step once.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from msd_deploy.config.run import TrackerName
from msd_deploy.errors import RuntimeUnavailableError


@dataclass(frozen=True, slots=True)
class History:
    """The log of a run.

    Attributes:
        path: The file.
    """

    path: Path

    def append(self, line: Mapping[str, object]) -> None:
        """Append one object."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def size_bytes(self) -> int:
        """Return the file's length."""
        return self.path.stat().st_size if self.path.exists() else 0

    def lines_of(self, phase: str) -> list[Mapping[str, object]]:
        """Return the lines of a training; one that a kill cut short must be cut off before."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["phase"] == phase]

    def cut_to(self, size_bytes: int) -> None:
        """Drop what was written after the file had this length."""
        if self.size_bytes() > size_bytes:
            with self.path.open("r+b") as file:
                file.truncate(size_bytes)

    def cut_before(self, phase: str) -> None:
        """Drop what a training wrote that begins anew: all from its first line on.

        A line that a kill cut short was its last one, so it goes too.
        """
        kept = 0
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if _phase_of(line) in (phase, None):
                    break
                kept += len(line)
        self.cut_to(kept)


def _phase_of(line: bytes) -> str | None:
    """Return whose line it is; None for one that is not whole."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return str(value["phase"]) if isinstance(value, dict) and "phase" in value else None


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
