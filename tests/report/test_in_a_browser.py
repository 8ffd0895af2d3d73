"""The page as a browser shows it: in Chromium, where there is one."""

import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.report.distillation import ReportConfig, write_distillation_report

PHONE, DESKTOP = 400, 1280
LookAt = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.browser

# Per chart: its own box, and those of its texts.
CHARTS = """{
  charts: [...page.querySelectorAll(".chart")].map((chart) => ({
    own: box(chart),
    texts: boxes("text", chart),
  })),
  pictures: [...page.querySelectorAll("img")].map((img) => [img.naturalWidth, ...box(img)]),
  cards: boxes(".card"),
}"""


@pytest.fixture(scope="module")
def html(
    kd_run: RunDirectory, msd_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> str:
    page = tmp_path_factory.mktemp("page") / "report.html"
    write_distillation_report([kd_run, msd_run], ReportConfig(out=page))
    return page.read_text(encoding="utf-8")


def test_the_page_has_no_error_in_the_console(
    html: str, tmp_path: Path, chromium: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    page = tmp_path / "distillation.html"
    page.write_text(html, encoding="utf-8")
    assert "CONSOLE" not in chromium(page, "--enable-logging=stderr").stderr


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_no_wider_than_the_window(html: str, look_at: LookAt, width: int) -> None:
    answer = look_at(html, width, CHARTS)
    assert answer["width"] == width
    assert answer["needed"] == width
    assert all(left >= 0 and right <= width for left, _, right, _ in answer["cards"])


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_text_of_a_chart_is_cut_or_touches_another(
    html: str, look_at: LookAt, width: int
) -> None:
    """With the fonts that are really there: the layout only guesses how wide they are."""
    charts = look_at(html, width, CHARTS)["charts"]
    assert len(charts) == 13
    for chart in charts:
        left, top, right, bottom = chart["own"]
        for text in chart["texts"]:
            assert left <= text[0]
            assert text[2] <= right
            assert top <= text[1]
            assert text[3] <= bottom
        assert [pair for pair in combinations(chart["texts"], 2) if are_overlapping(*pair)] == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_image_is_decoded_and_visible_in_the_window(
    html: str, look_at: LookAt, width: int
) -> None:
    pictures = look_at(html, width, CHARTS)["pictures"]
    assert pictures
    for natural, left, _, right, _ in pictures:
        assert natural == 48
        assert 0 <= left < right <= width


def are_overlapping(first: list[float], second: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than a rounded edge."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    return across > 0.5 and down > 0.5
