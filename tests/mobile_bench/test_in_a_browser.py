"""The report as a browser shows it: in Chromium, where there is one."""

import subprocess
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from msd_mobile_bench.report import render_html
from msd_mobile_bench.schema import Bench

PHONE, DESKTOP = 390, 1280

pytestmark = pytest.mark.browser

LookAt = Callable[..., dict[str, Any]]
BOXES = '{ labels: boxes(".chart text.label"), marks: boxes(".chart .mark") }'


def test_the_page_has_no_error_in_the_console(
    example_bench: Bench,
    tmp_path: Path,
    chromium: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    page = tmp_path / "bench.html"
    page.write_text(render_html(example_bench), encoding="utf-8")
    assert "CONSOLE" not in chromium(page, "--enable-logging=stderr").stderr


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_no_wider_than_the_window(
    example_bench: Bench, look_at: LookAt, width: int
) -> None:
    example_bench["run"] = "a-name-without-a-single-space-that-is-longer-than-any-phone-is-wide"
    answer = look_at(render_html(example_bench), width)
    assert answer["width"] == width
    assert answer["needed"] == width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_label_touches_a_mark_or_another_label(
    example_bench: Bench, look_at: LookAt, width: int
) -> None:
    """With the fonts that are really there: the layout only guesses how wide they are."""
    answer = look_at(render_html(example_bench), width, BOXES)
    labels, marks = answer["labels"], answer["marks"]
    assert (len(labels), len(marks)) == (5, 5)  # three forms that have a latency, and the legend
    pairs = [*product(labels, marks), *combinations(labels, 2)]
    assert [pair for pair in pairs if are_touching(*pair)] == []


def are_touching(first: list[float], second: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) have no gap."""
    return (
        first[0] <= second[2]
        and second[0] <= first[2]
        and first[1] <= second[3]
        and second[1] <= first[3]
    )
