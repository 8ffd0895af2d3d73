"""Work on all cores in threads, for calls that release the interpreter lock, as decoding does."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")
# Enough that no thread waits for the caller, few enough that large arguments fit in memory.
_WAITING_PER_THREAD = 2


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: containers and taskset limit it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(
    work: Callable[..., _Result], *arguments: Iterable[object], threads: int | None = None
) -> Generator[_Result, None, None]:
    """Yield what `map` yields, in its order, computed in threads.

    Arguments are taken from their iterables by the caller's thread, few ahead of the results. The
    first call in order that raises ends the iteration with its error; calls that have not begun
    then never begin, as when the iterator is closed or the caller is interrupted.

    Args:
        work: Called in threads.
        arguments: One iterable per parameter, as for `map`.
        threads: How many; None: one per CPU that this process may use.
    """
    count = threads or usable_cpus()
    if count == 1:
        yield from map(work, *arguments)
        return
    pool = ThreadPoolExecutor(count, "msd")
    waiting: deque[Future[_Result]] = deque()
    try:
        for values in zip(*arguments, strict=False):
            waiting.append(pool.submit(work, *values))
            if len(waiting) > count * _WAITING_PER_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
