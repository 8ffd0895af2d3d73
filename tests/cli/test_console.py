"""What is shown of the time a command still takes."""

import pytest

from msd_cli.console import ProgressDisplay, new_table, result_console, time_left


@pytest.mark.parametrize(
    ("seconds", "done", "remaining", "text"),
    [
        (0.0, 0, 5, ""),
        (60.0, 0, 5, ""),
        (60.0, 5, 0, ""),
        (60.0, 1, 20, "0:20:00 left"),
        (600.0, 4, 6, "0:15:00 left"),
        (3600.0, 1, 30, "1 day, 6:00:00 left"),
    ],
)
def test_time_left_is_that_of_the_speed_so_far(
    seconds: float, done: int, remaining: int, text: str
) -> None:
    assert time_left(seconds, done, remaining) == text


def test_students_that_were_there_already_do_not_count_as_fast(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A study goes on: 4 of 10 students are there, the next one takes five minutes."""
    times = iter([0.0, 100.0, 400.0, 1000.0])
    display = ProgressDisplay(clock=lambda: next(times))
    for done in (4, 5, 10):
        display.on_count("students", done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "  students 4/10",
        "  students 5/10  0:25:00 left",
        "  students 10/10",
    ]


def test_every_count_has_a_speed_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 100.0, 101.0, 200.0, 260.0])
    display = ProgressDisplay(clock=lambda: next(times))
    display.on_count("examples", 0, 1000)
    display.on_count("examples", 1000, 1000)
    display.on_count("students", 0, 3)
    display.on_count("students", 1, 3)
    assert capsys.readouterr().err.splitlines()[-1] == "  students 1/3  0:02:00 left"


def test_names_in_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take them for markup: lose them, or fail over a closing tag."""
    display = ProgressDisplay()
    display.on_stage("Reading a[/b].jsonl")
    display.on_note("[red].jsonl:1: unknown label")
    table = new_table("set [v2] in PyTorch", "class", "[bold]share")
    table.add_row("[/x]", "1 %")
    result_console().print(table)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["> Reading a[/b].jsonl", "  [red].jsonl:1: unknown label"]
    for name in ("set [v2] in PyTorch", "[bold]share", "[/x]"):
        assert name in shown.out
