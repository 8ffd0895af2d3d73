"""Output of all commands: progress and notes on stderr, results on stdout."""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from msd_cli.launcher import is_launched
from msd_deploy.artifacts.manifest import json_text
from msd_deploy.errors import CONTROLS, StoppedError, printable
from msd_deploy.hooks import StageHooks

if TYPE_CHECKING:
    from msd_deploy.hooks import StepReport


_PLAIN_SECONDS = 10.0
_SMOOTHING = 0.95


class _Console(Console):
    """A console that prints names of classes and files as they are: no markup, no controls."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(
            # Bound now: converters replace sys.stderr while they run.
            file=sys.stderr if stderr else sys.stdout,
            soft_wrap=soft_wrap,
            highlight=False,
            markup=False,
            emoji=False,
        )

    # Rich calls it for every string, also in tables, before it measures the text.
    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        return super().render_str(printable(text), *args, **options)


def result_console() -> Console:
    """Return the console of results, stdout."""
    return _Console()


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on stdout, and nothing else."""
    text = json_text(value, indent=2)
    text = CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()


def print_note(message: str) -> None:
    """Print a line on stderr."""
    _Console(stderr=True, soft_wrap=True).print(message)


class NoteHandler(logging.Handler):
    """Prints what the libraries log as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print_note(self.format(record))


class ProgressDisplay:
    """Shows stages, counts and training steps: a live bar on a terminal, else a line now and then.

    Args:
        stopped_fix: What the error after Ctrl-C recommends.
        clock: The time in seconds.
    """

    def __init__(
        self,
        *,
        stopped_fix: str = "No partial output was kept; run the command again",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stopped_fix, self._clock = stopped_fix, clock
        self._console = _Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._task_name = ""
        self._speed: float | None = None
        self._printed_at = self._begun_at = clock()
        self._done_before = 0
        self._stop_requested = False

    def on_stage(self, sentence: str) -> None:
        """Show that a stage begins."""
        self._end_task()
        self._console.print(Text.assemble((">", "bold"), f" {printable(sentence)}"), soft_wrap=True)
        self._raise_if_stopped()

    def on_note(self, sentence: str) -> None:
        """Show a note."""
        self._console.print(f"  {sentence}", soft_wrap=True)

    def on_count(self, what: str, done: int, total: int) -> None:
        """Show the progress of countable work."""
        self._update(what, done, total, "")
        self._raise_if_stopped()

    def on_step(self, report: "StepReport") -> None:
        """Show a training step: epoch, loss terms, speed, last validation metric."""
        speed = report.examples_per_second
        self._speed = (
            speed if self._speed is None else _SMOOTHING * self._speed + (1 - _SMOOTHING) * speed
        )
        terms = " ".join(f"{name} {value:.3f}" for name, value in report.terms.items())
        metric = "" if report.metric is None else f"  validation {report.metric:.1%}"
        facts = (
            f"epoch {report.epoch}/{report.epochs}  loss {sum(report.terms.values()):.3f} ({terms})"
            f"  {self._speed:.0f} examples/s{metric}"
        )
        self._update(f"{report.phase} steps", report.step, report.steps, facts)

    def stages(self) -> StageHooks:
        """Return hooks that show stages, counts and notes here."""
        return StageHooks(self.on_stage, self.on_count, self.on_note)

    def should_stop(self) -> bool:
        """Return whether the user pressed Ctrl-C."""
        return self._stop_requested

    @contextmanager
    def running(self) -> Iterator["ProgressDisplay"]:
        """Show progress within the block; the first Ctrl-C requests a stop, a second one forces it.

        SIGTERM forces it too, except under a launcher, which expects its processes to end at once.
        """
        handlers = {signal.SIGINT: self._interrupt}
        if not is_launched():
            handlers[signal.SIGTERM] = _terminate
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            with self._progress:
                yield self
        finally:
            self._end_task()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            if is_launched():  # the launcher repeats a signal, and after 30 s ends all by force
                return
            raise KeyboardInterrupt
        self._stop_requested = True
        print_note("Stopping after this step. Press Ctrl-C again to stop immediately.")

    def _raise_if_stopped(self) -> None:
        if self._stop_requested:
            raise StoppedError("stopped", fix=self._stopped_fix)

    def _update(self, what: str, done: int, total: int, facts: str) -> None:
        now, what, facts = self._clock(), printable(what), printable(facts)
        if self._task is None or self._task_name != what:
            self._end_task()
            self._task = self._progress.add_task(what, total=total, facts="", left="")
            self._task_name, self._begun_at, self._done_before = what, now, done
        left = time_left(now - self._begun_at, done - self._done_before, total - done)
        self._progress.update(self._task, completed=done, total=total, facts=facts, left=left)
        is_due = now - self._printed_at >= _PLAIN_SECONDS
        if self._progress.disable and (is_due or done == total):
            self._printed_at = now
            line = "  ".join(part for part in (f"  {what} {done}/{total}", left, facts) if part)
            self._console.print(line, soft_wrap=True)

    def _end_task(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task, self._task_name, self._speed = None, "", None


def _terminate(number: int, frame: FrameType | None) -> None:
    """Exit with the shell's code for a signal; partial output is removed on the way."""
    sys.exit(128 + number)


def time_left(seconds: float, done: int, remaining: int) -> str:
    """Return the remaining time at the speed so far, as "0:12:34 left"; empty if unknown.

    Unlike rich's own column, also where one unit takes minutes, as in a study.
    """
    if done <= 0 or remaining <= 0:
        return ""
    return f"{timedelta(seconds=round(seconds / done * remaining))} left"


def new_table(title: str, *columns: str) -> Table:
    """Return an empty table: its first column aligned left, the others right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        # A name that is too long for a narrow terminal goes on in the next line, whole.
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def add_score_rows(table: Table, columns: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """Add a row per view, then one per further metric and view.

    Args:
        table: Its first column is the view's.
        columns: Of each other column, the scores of a model, as in metrics.json, and a split.
    """
    from msd_deploy.pages.formatting import score_text

    first, split = columns[0]
    for view in first[split]:
        scores = (model[name].get(view) for model, name in columns)
        table.add_row(view, *map(score_text, scores))
    for metric, by_view in first.get("further", {}).get(split, {}).items():
        for view in by_view:
            scores = (model["further"][name][metric].get(view) for model, name in columns)
            table.add_row(f"{view}, {metric}", *map(score_text, scores))


def print_decisions(
    measured: Mapping[str, Any], point: Mapping[str, Any], *, split: str, chosen_on: str
) -> None:
    """Print precision, recall and abstentions by view, beside those on which it was chosen.

    Args:
        measured: By view, see `msd_deploy.operating_point.Expected`; empty: not measured.
        point: The operating point as in labels.json.
        split: Where it was measured.
        chosen_on: Where it was chosen.
    """
    title = f"Decisions on {split if measured else chosen_on}, {point['rule']} (95 % interval)"
    table = new_table(title, "in %", "precision", "recall", "abstains")
    for view, expected in point["expected"].items():
        if view in measured:
            table.add_row(view, *_cells(measured[view]))
        table.add_row(f"  {chosen_on}" if view in measured else view, *_cells(expected))
    result_console().print(table)


def _cells(values: Mapping[str, Any]) -> list[str]:
    from msd_deploy.pages.formatting import NOTHING

    cells = []
    for key in ("precision", "recall", "abstained"):
        measured = values[key]
        if measured is None:
            cells.append(NOTHING)
            continue
        shares = (measured["value"], *measured["interval"])
        value, low, high = (f"{100 * share:.1f}" for share in shares)
        cells.append(f"{value} [{low}, {high}]")
    return cells
