import os
import threading
from collections.abc import Iterator

import pytest

from msd_deploy.data.threads import map_in_threads, usable_cpus


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_arguments(threads: int) -> None:
    first_may_end = threading.Event()

    def square(number: int) -> int:
        if number == 0 and threads > 1:
            first_may_end.wait()  # until a later one has ended
        first_may_end.set()
        return number**2

    assert list(map_in_threads(square, range(50), threads=threads)) == [n**2 for n in range(50)]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_in_order_ends_the_work(threads: int) -> None:
    def refuse_odd(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number

    results = map_in_threads(refuse_odd, range(100), threads=threads)
    assert next(results) == 0
    with pytest.raises(ValueError, match="1 is odd"):
        next(results)


def test_few_arguments_are_taken_ahead_of_the_results() -> None:
    taken = 0

    def arguments() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    for done, _ in enumerate(map_in_threads(abs, arguments(), threads=2), start=1):
        assert taken <= done + 4


def test_calls_that_have_not_begun_never_begin_once_the_iterator_is_closed() -> None:
    begun: list[int] = []
    results = map_in_threads(begun.append, range(1000), threads=2)
    next(results)
    results.close()
    assert len(begun) < 10


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be restricted")
def test_the_cpus_of_the_process_count_and_not_those_of_the_machine() -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, usable)
