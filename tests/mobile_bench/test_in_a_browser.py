"""The report as a browser shows it: in Chromium, where there is one."""

import json
import shutil
import subprocess
from html import unescape
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from msd_mobile_bench.report import render_html
from msd_mobile_bench.schema import Bench

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), "")
PHONE, DESKTOP = 390, 1280

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
]

# The page itself runs no script, so another one, that holds it in a frame, looks at it.
PROBE = """<!doctype html><meta charset="utf-8">
<iframe src="bench.html" style="width: WIDTHpx; height: 3000px; border: 0"></iframe>
<pre></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const boxes = (names) => [...page.querySelectorAll(names)]
    .map((item) => item.getBoundingClientRect())
    .filter((box) => box.width > 0)
    .map((box) => [box.left, box.top, box.right, box.bottom]);
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    labels: boxes(".chart text.label"),
    marks: boxes(".chart .mark"),
  });
};
</script>
"""


def chromium(page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-background-networking", f"--user-data-dir={page.parent / 'profile'}"),
        *("--dump-dom", *options, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def seen(bench: Bench, folder: Path, width: int) -> dict[str, Any]:
    """Show the report in a frame of a width in CSS pixels; return what PROBE saw."""
    (folder / "bench.html").write_text(render_html(bench), encoding="utf-8")
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    shown = chromium(folder / "probe.html", "--allow-file-access-from-files").stdout
    answer = json.loads(unescape(shown.partition("<pre>")[2].partition("</pre>")[0]))
    assert isinstance(answer, dict)
    return answer


def test_the_page_has_no_error_in_the_console(example_bench: Bench, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    page.write_text(render_html(example_bench), encoding="utf-8")
    assert "CONSOLE" not in chromium(page, "--enable-logging=stderr").stderr


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_no_wider_than_the_window(
    example_bench: Bench, tmp_path: Path, width: int
) -> None:
    example_bench["run"] = "a-name-without-a-single-space-that-is-longer-than-any-phone-is-wide"
    answer = seen(example_bench, tmp_path, width)
    assert answer["width"] == width
    assert answer["needed"] == width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_label_touches_a_mark_or_another_label(
    example_bench: Bench, tmp_path: Path, width: int
) -> None:
    """With the fonts that are really there: the layout only guesses how wide they are."""
    answer = seen(example_bench, tmp_path, width)
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
