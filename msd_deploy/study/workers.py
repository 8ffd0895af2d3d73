"""Training of several students at once, one process and processor core each.

A worker reads the data once and takes cells from a queue. A failure in one stops the study;
finished cells are kept, and an interrupted cell continues from its checkpoint the next time.
"""

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from msd_deploy.errors import MsdError, StoppedError
from msd_deploy.quiet import quiet_imports
from msd_deploy.study.config import StudyConfig

Cell = tuple[str, int]
_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 60.0


def train_cells(
    study: StudyConfig,
    out: Path,
    cells: list[Cell],
    steps: Mapping[str, int],
    *,
    on_done: Callable[[Cell, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train cells in processes; returns when all are done.

    Args:
        study: The study.
        out: Its folder, which holds the teacher's predictions.
        cells: Methods and seeds.
        steps: Of each method.
        on_done: Called with each finished cell and how many are finished.
        should_stop: Asked twice a second; true lets every worker save a checkpoint and leave.

    Raises:
        MsdError: A worker failed, or was killed.
        StoppedError: should_stop returned true.
    """
    context = multiprocessing.get_context("spawn")
    todo: Queue[Cell | None] = context.Queue()
    done: Queue[Cell | MsdError] = context.Queue()
    count = min(study.jobs or _cores(), len(cells))
    for cell in [*cells, *[None] * count]:
        todo.put(cell)
    stop = context.Event()
    workers = [
        context.Process(target=_work, args=(study, out, dict(steps), todo, done, stop), daemon=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        _collect(workers, done, len(cells), on_done, should_stop)
    finally:
        stop.set()
        for worker in workers:
            worker.join(_LEAVE_SECONDS)
            if worker.is_alive():
                worker.terminate()


def _cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _collect(
    workers: Sequence[BaseProcess],
    done: "Queue[Cell | MsdError]",
    total: int,
    on_done: Callable[[Cell, int], None],
    should_stop: Callable[[], bool],
) -> None:
    finished = 0
    while finished < total:
        try:
            result = done.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if should_stop():
                raise StoppedError(
                    "stopped; finished students are kept, the others have saved checkpoints",
                    fix="Run the same command again to continue",
                ) from None
            _check_alive(workers)
            continue
        if isinstance(result, MsdError):
            raise result
        finished += 1
        on_done(result, finished)


def _check_alive(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise MsdError(
                f"a process that trained a student ended with code {worker.exitcode}",
                fix="Run the same command again; with fewer --jobs if memory ran out",
            )


def _work(
    study: StudyConfig,
    out: Path,
    steps: Mapping[str, int],
    todo: "Queue[Cell | None]",
    done: "Queue[Cell | MsdError]",
    stop: Event,
) -> None:
    """Run one worker: a process of its own, which alone imports torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks to stop through the event
    quiet_imports()
    import torch

    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.distillation.teacher_cache import read_predictions
    from msd_deploy.hooks import Hooks, StageHooks
    from msd_deploy.run.task import read_task
    from msd_deploy.study.cells import train_cell

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def should_stop() -> bool:
        return stop.is_set() or (parent is not None and not parent.is_alive())

    try:
        run = RunDirectory(out)
        task, _ = read_task(study.base, run, StageHooks(), Hooks(should_stop=should_stop))
        predictions = read_predictions(run.teacher_predictions)
        while (cell := todo.get()) is not None and not should_stop():
            train_cell(study, task, predictions, cell=cell, steps=steps[cell[0]])
            done.put(cell)
    except StoppedError:
        pass
    except MsdError as error:
        done.put(error)
    except Exception as error:  # it must reach the parent, whatever it is
        traceback.print_exc()
        done.put(MsdError(f"a student's training failed: {type(error).__name__}: {error}"))
