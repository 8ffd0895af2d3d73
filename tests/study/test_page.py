"""compare.html of an invented study: no training is needed to see that its figures are told."""

import copy
import re
from collections.abc import Callable
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

from msd_deploy.study.page import paired_tables, render_study, results_table
from msd_deploy.study.tables import study_markdown

Result = dict[str, Any]
VIEWS = ("multimodal", "image", "text")
METHODS = ("none", "kd", "kd-dropout", "msd-population")


def _spread(mean: float) -> dict[str, object]:
    seeds = {"1": mean - 0.01, "2": mean, "3": mean + 0.01}
    return {"mean": mean, "std": 0.01, "per_seed": seeds}


def _difference(mean: float, p_value: float | None) -> dict[str, object]:
    interval = [mean - 0.02, mean + 0.02]
    return {"mean": mean, "std": 0.01, "p_value": p_value, "interval": interval, "seeds": 3}


@pytest.fixture
def result() -> Result:
    means = dict(zip(METHODS, (0.6, 0.71, 0.72, 0.745), strict=True))
    return copy.deepcopy(
        {
            "msd_deploy": "0.1.0",
            "created_utc": "2026-01-02T03:04:05+00:00",
            "data": "memes.jsonl",
            "examples": {"train": 1000, "validation": 500, "test": 2000},
            "labelled": 500,
            "student": "tiny",
            "metric": "accuracy",
            "budget": "steps",
            "changed_settings": {},
            "command": "msd compare --seeds 3",
            "host": "an invented machine",
            "teacher": dict(zip(VIEWS, (0.8, 0.62, 0.65), strict=True)),
            "methods": {name: {view: _spread(means[name]) for view in VIEWS} for name in METHODS},
            "paired": {
                "msd-population - none": dict.fromkeys(VIEWS, _difference(0.145, 0.0004)),
                "msd-population - kd": dict.fromkeys(VIEWS, _difference(0.035, 0.031)),
                "msd-population - kd-dropout": dict.fromkeys(VIEWS, _difference(0.025, 0.2)),
            },
            "gap_closed": {
                "kd": dict.fromkeys(VIEWS, 0.55),
                "kd-dropout": dict.fromkeys(VIEWS, 0.6),
                "msd-population": {"multimodal": 0.725, "image": None, "text": 1.2},
            },
            "cpu_seconds": {"none": 4.0, "kd": 5.0, "msd-population": 1234.5},
            "steps": dict.fromkeys(METHODS, 750),
            "flops_per_step": dict.fromkeys(METHODS, 1_080_000_000),
        }
    )


def test_the_teacher_is_on_top_and_a_method_has_views_gap_and_cost(result: Result) -> None:
    table = results_table(result)
    assert [line.name for line in table.lines] == ["teacher", *METHODS]
    assert table.lines[0].cells == ("80.0", "62.0", "65.0", *("–",) * 6)
    assert table.lines[4].cells == (
        *("74.5 ± 1.0",) * 3,
        *("72 %", "–", "120 %"),
        *("750", "1.08 G", "1,234"),
    )
    assert table.lines[3].cells[-1] == "–"  # a student that was interrupted has no time of its own


def test_without_the_undistilled_student_no_gap_is_shown(result: Result) -> None:
    result["gap_closed"] = {}
    table = results_table(result)
    assert "Gap closed" not in table.groups
    assert {len(line.cells) for line in table.lines} == {6}
    assert "Gap closed" not in render_study(result)


def test_differences_from_the_fair_baselines_come_first(result: Result) -> None:
    tables = paired_tables(result)
    assert [table.title.removeprefix("Difference from ") for table in tables] == [
        "kd",
        "kd-dropout",
        "none",
    ]
    cells = [table.lines[0].cells[0] for table in tables]
    assert cells == [
        "+3.5 [+1.5, +5.5] p = .031 *",
        "+2.5 [+0.5, +4.5] p = .200",
        "+14.5 [+12.5, +16.5] p < .001 *",
    ]


def test_a_note_states_that_a_single_seed_proves_nothing(result: Result) -> None:
    assert "may be due to chance" not in render_study(result)
    for views in result["methods"].values():
        for view in VIEWS:
            views[view] = {"mean": 0.5, "std": None, "per_seed": {"1": 0.5}}
    result["paired"] = {}
    page = render_study(result)
    assert "may be due to chance" in page
    assert "Difference from" not in page


def test_every_student_is_a_dot_where_its_value_stands(result: Result) -> None:
    charts = re.findall(r"<svg.*?</svg>", render_study(result), flags=re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        dots = [one for one in svg.iter("circle") if float(one.attrib["cy"]) > 30]  # no legend
        assert len(dots) == len(METHODS) * 3
        places = [float(one.attrib["cx"]) for one in dots]
        steps = [places[i + 1] - places[i] for i in (0, 1, 3, 4)]
        assert steps == pytest.approx([steps[0]] * 4, abs=0.11)  # seeds a point apart; a decimal
        assert steps[0] > 0


@pytest.mark.parametrize("is_sound", [True, False])
def test_a_note_states_which_view_of_the_teacher_is_unsound(result: Result, is_sound: bool) -> None:
    view = {
        "examples": 500,
        **{"score": 0.56, "constant_score": 0.56, "nll": 2.1, "constant_nll": 0.69},
        "gain": {"value": 0.0, "interval": [-0.01, 0.01]},
        "is_sound": is_sound,
    }
    result["single_views"] = {"text": view}
    note = "The teacher&#39;s text view is unsound as a target of distillation: Accuracy 56.0 %"
    assert (note in render_study(result)) is not is_sound
    assert (note.replace("&#39;", "'") in study_markdown(result)) is not is_sound


def test_settings_that_are_not_the_defaults_are_shown(result: Result) -> None:
    for told in (render_study(result), study_markdown(result)):
        assert "Changed settings" not in told
        assert "plain knowledge distillation" in told
    result["changed_settings"] = {"data.labelled_share": 0.05, "distill.hint_weight": 5.0}
    for told in (render_study(result), study_markdown(result)):
        assert "Changed settings: data.labelled_share = 0.05, distill.hint_weight = 5.0" in told
        assert "plain knowledge distillation" not in told
        assert told.count("plus hints from the teacher") == len(METHODS) - 1  # none has no teacher


def test_the_page_requests_nothing_and_escapes_what_is_not_its_own(result: Result) -> None:
    result["data"], result["command"] = "<img src=x>.jsonl", "msd compare --data '<script>'"
    page = render_study(result)
    assert not re.search(r"https?://|url\(|@import|<script|<img|<link|<iframe", page)
    assert "&lt;img src=x&gt;.jsonl" in page
    assert "default-src 'none'" in page


def test_a_study_that_a_program_ran_has_neither_command_nor_host(result: Result) -> None:
    del result["command"], result["host"]
    page = render_study(result)
    assert "Command" not in page
    assert "Host" not in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_the_window_and_no_text_of_a_chart_touches_another(
    result: Result, look_at: Callable[..., dict[str, Any]], width: int
) -> None:
    seen = """{ charts: [...page.querySelectorAll(".chart")].map((chart) =>
      ({ own: box(chart), texts: boxes("text", chart) })) }"""
    answer = look_at(render_study(result), width, seen)
    assert answer["needed"] == answer["width"] == width
    assert len(answer["charts"]) == 3
    for chart in answer["charts"]:
        for left, _, right, _ in chart["texts"]:
            assert chart["own"][0] <= left < right <= chart["own"][2]
        for first, second in combinations(chart["texts"], 2):
            across = min(first[2], second[2]) - max(first[0], second[0])
            down = min(first[3], second[3]) - max(first[1], second[1])
            assert min(across, down) <= 0.5
