"""Fuzz tests: the guard around every example, and the two ways in which they run.

In the suite each test runs few examples, always the same ones. With `--fuzz-seconds` it goes on in
rounds of new examples until its process has used so many processor seconds; `--hypothesis-seed`
selects them, and the number of examples is printed.
"""

import functools
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from tempfile import TemporaryFile
from types import FrameType

import hypothesis
import pytest
from hypothesis import HealthCheck, settings

# A guard against hangs: an ordinary example takes milliseconds. What waits uses no processor time.
_LIMITS = {
    signal.SIGPROF: (signal.ITIMER_PROF, 20, "processor seconds"),
    signal.SIGALRM: (signal.ITIMER_REAL, 300, "seconds"),
}

settings.register_profile(
    "suite",
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Rounds are short, since one that has begun is finished.
settings.register_profile(
    "long", settings.get_profile("suite"), max_examples=200, derandomize=False
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds", type=float, help="processor seconds of each fuzz test; see tests/fuzz"
    )


def pytest_configure(config: pytest.Config) -> None:
    is_long = config.getoption("--fuzz-seconds", None) is not None
    settings.load_profile("long" if is_long else "suite")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test, config = pyfuncitem.obj, pyfuncitem.config
    if not hypothesis.is_hypothesis_test(test):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    original, done = test.hypothesis.inner_test, []
    test.hypothesis.inner_test = _guarded(original, done)
    seconds = config.getoption("--fuzz-seconds", None)
    try:
        if seconds is None:
            test(**arguments)
        else:
            seed = config.getoption("--hypothesis-seed") or "0"
            _run_for(seconds, seed, lambda: test(**arguments), test)
    finally:
        test.hypothesis.inner_test = original
        if seconds is not None:
            capture = config.pluginmanager.get_plugin("capturemanager")
            reporter = config.pluginmanager.get_plugin("terminalreporter")
            with capture.global_and_fixture_disabled():
                reporter.write_line(f"\n{pyfuncitem.name}: {len(done):,} examples, seed {seed}")
    return True


def _run_for(seconds: float, seed: str, run: Callable[[], None], test: Callable[..., None]) -> None:
    began, number = time.process_time(), 0
    while time.process_time() - began < seconds:
        hypothesis.seed(f"{seed}.{number}")(test)
        run()
        number += 1


def _guarded(test: Callable[..., None], done: list[None]) -> Callable[..., None]:
    """Return a test that also fails if it hangs, or if a library writes, logs or warns."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        done.append(None)
        with _time_limit(), _nothing_said():
            test(*args, **kwargs)

    return run


@contextmanager
def _time_limit() -> Iterator[None]:
    def fail(number: int, frame: FrameType | None) -> None:
        _, limit, unit = _LIMITS[signal.Signals(number)]
        pytest.fail(f"hangs: more than {limit} {unit}")

    before = {number: signal.signal(number, fail) for number in _LIMITS}
    for timer, limit, _ in _LIMITS.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _, _ in _LIMITS.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _nothing_said() -> Iterator[None]:
    """Fail if anything is written to stderr, by C libraries too, or logged or warned of."""
    logged = _Records(logging.WARNING)
    root, kept = logging.getLogger(), os.dup(2)
    with TemporaryFile() as written, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # not shown to users
        root.addHandler(logged)
        os.dup2(written.fileno(), 2)
        try:
            with os.fdopen(os.dup(2), "w", encoding="utf-8") as stderr, redirect_stderr(stderr):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            root.removeHandler(logged)
        written.seek(0)
        said = [written.read().decode("utf-8", "replace")] if written.tell() else []
        said += [*map(str, warned), *logged.texts]
    assert not said, f"stderr is not for libraries: {said}"


class _Records(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
