import copy
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import probabilities
from msd_deploy.operating_point import OperatingPoint
from msd_deploy.pages.formatting import VIEW_NAMES
from msd_deploy.report.charts import training_panels
from msd_deploy.report.examples import thumbnails_of
from msd_deploy.report.figures import figures_of
from msd_deploy.report.page import render_distillation
from msd_deploy.report.predictions import Decisions, RunOutputs, read_outputs
from msd_deploy.report.schema import DistillationJson
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View

Report = tuple[DistillationJson, dict[int, str]]


class _Seen(HTMLParser):
    """Collects tags, whatever the page would request, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "srcset", "action", "background", "poster")
        self.loads += [str(value) for name, value in attrs if name in loading]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def made(kd_run: RunDirectory, msd_run: RunDirectory) -> Report:
    answers = read_outputs([kd_run, msd_run], split="test", hooks=StageHooks())
    report = figures_of(answers, command="msd report <b>runs/kd</b>")
    return report, thumbnails_of(answers, report["examples"])


@pytest.fixture(scope="module")
def page(made: Report) -> str:
    return render_distillation(*made)


@pytest.fixture(scope="module")
def seen(page: str) -> _Seen:
    parser = _Seen()
    parser.feed(page)
    return parser


def test_the_page_requests_nothing_from_anywhere(page: str, seen: _Seen) -> None:
    assert seen.loads
    assert all(one.startswith("data:image/jpeg;base64,") for one in seen.loads)
    assert not re.search(r"https?://|url\(|@import|@font-face", page)
    assert "default-src 'none'" in page
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(seen.tags)


def test_words_of_the_data_are_text_and_not_markup(page: str, seen: _Seen, made: Report) -> None:
    shown = made[0]["examples"]["shown"]
    assert seen.tags.count("img") == len(shown)  # the texts' own <img> is none
    assert "<script" not in page
    assert "onerror=alert" in seen.text
    assert "<i>msd" in seen.text
    assert "<b>benign</b>" in seen.text
    assert not {"b", "i"} & set(seen.tags)


def test_every_chart_is_well_formed_with_title_and_description(page: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    # Densities and reliability of three models; loss and validation of both runs, weights of one;
    # two saliencies.
    assert len(charts) == 3 + 3 + 2 + 2 + 1 + 2
    names = set()
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        texts = {child.tag: child.text for child in svg}
        assert texts["title"]
        assert texts["desc"]
        names.add(svg.attrib["aria-labelledby"])
    assert len(names) == len(charts)


def test_densities_share_their_axes(page: str) -> None:
    charts = [
        ElementTree.fromstring(chart)
        for chart in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)[:3]
    ]
    ticks = [
        [(one.attrib["x"], one.attrib["y"], one.text) for one in chart.iter("text")]
        for chart in charts
    ]
    assert ticks[0] == ticks[1] == ticks[2]
    curves = [
        len([c for c in chart.iter("path") if "line" in c.attrib["class"]]) for chart in charts
    ]
    assert curves == [3, 3, 3]


def test_weights_that_are_constant_are_a_sentence(seen: _Seen) -> None:
    assert "the same for all examples, independent of saliency: image and text 1." in seen.text


def test_every_figure_of_the_tables_is_that_of_the_json(seen: _Seen, made: Report) -> None:
    for student in made[0]["students"]:
        for view, closeness in student["closeness"].items():
            assert f"{closeness['agreement'] * 100:.1f} %" in seen.text
            assert f"{closeness['distance']:.3f}" in seen.text
            assert f"{closeness['total_variation']:.3f}" in seen.text
            assert f"{student['views'][view]['score']['value'] * 100:.1f} %" in seen.text


def test_a_run_named_teacher_hides_no_model(made: Report) -> None:
    report = copy.deepcopy(made[0])
    report["students"][0]["run"] = "teacher"
    parser = _Seen()
    parser.feed(render_distillation(report, made[1]))
    rows_of_cards = 3 * len(report["examples"]["shown"])
    assert parser.tags.count("article") * 3 == rows_of_cards
    assert parser.tags.count("td") >= 3 * rows_of_cards


def test_a_run_without_history_or_weights_still_has_a_page(made: Report) -> None:
    report = copy.deepcopy(made[0])
    empty = {"steps": [], "views": {"multimodal": [], "image": [], "text": []}}
    for student in report["students"]:
        student["weights"] = None
        student["training"] = {"steps": [], "terms": {}, "weights": {}, "validation": empty}
    report["examples"] = {
        "counts": dict.fromkeys(("image", "text", "both", "either"), 0),
        "shown": [],
    }
    page = render_distillation(report, {})
    assert page.count("<svg") == 3 + 3  # densities and reliability
    assert "This method has no weights per view." in page


def test_terms_of_any_name_and_of_0_are_drawn(made: Report) -> None:
    report = copy.deepcopy(made[0])
    training = report["students"][0]["training"]
    for name in ("hint", "relation_distance", "relation_angle", "another"):
        training["terms"][name] = [0.0] * len(training["steps"])
    page = render_distillation(report, made[1])
    for name in ("hint", "relation_distance", "relation_angle", "another"):
        assert f">{name}</text>" in page


def _panel_titles(report: DistillationJson) -> list[str]:
    return [panel.title for panel in training_panels(report, 0)]


def test_weights_that_differ_by_rounding_alone_are_not_drawn(made: Report) -> None:
    report = copy.deepcopy(made[0])
    training = report["students"][0]["training"]
    training["steps"] = [1, 2, 3]
    training["weights"] = {"text": {"mean": [1.3, 1.3000001, 1.2999999], "std": [0, 1e-7, 2e-7]}}
    training["terms"] = {}
    assert "Weights of the views" not in _panel_titles(report)
    training["weights"]["text"]["mean"][2] = 1.301
    assert "Weights of the views" in _panel_titles(report)


def test_a_training_of_one_logged_step_is_seen_as_points(made: Report) -> None:
    report = copy.deepcopy(made[0])
    training = report["students"][0]["training"]
    training["steps"], training["weights"] = [7], {}
    training["terms"] = {"labels": [0.5], "multimodal": [0.25]}
    training["validation"] = {"steps": [7], "views": {view: [0.5] for view in VIEW_NAMES}}
    terms, validation = (str(panel.chart) for panel in training_panels(report, 0))
    assert terms.count('<circle class="point ') == 2
    assert validation.count('<circle class="point ') == 3
    training["steps"], training["terms"] = [7, 8], {"labels": [0.5, 0.25]}
    assert "<circle" not in str(training_panels(report, 0)[0].chart)


@pytest.fixture(scope="module")
def calibrated(kd_run: RunDirectory, msd_run: RunDirectory) -> RunOutputs:
    """The outputs with temperatures of msd's student, which has too few examples to be fitted."""
    outputs = read_outputs([kd_run, msd_run], split="test", hooks=StageHooks())
    hot, rows = Temperatures(dict.fromkeys(View, 3.0), dict.fromkeys(View, 100)), outputs.rows
    kd, msd = outputs.students
    scaled = hot.scaled(msd.logits, rows)
    msd = replace(msd, temperatures=hot, scaled=scaled)
    return replace(outputs, students=(kd, msd))


def test_the_page_shows_calibration_before_and_after_it(calibrated: RunOutputs) -> None:
    report = figures_of(calibrated, command="msd report")
    page = render_distillation(report, thumbnails_of(calibrated, report["examples"]))
    seen = _Seen()
    seen.feed(page)
    calibration = report["students"][1]["calibration"]
    assert calibration["uncalibrated"] is not None
    assert calibration["temperatures"] == {view.value: 3.0 for view in View}
    for views in (calibration["views"], calibration["uncalibrated"]):
        low, high = views["image"]["ece"]["interval"]
        assert f"{views['image']['ece']['value']:.3f} ({low:.3f} to {high:.3f})" in seen.text
    assert calibration["views"]["image"] != calibration["uncalibrated"]["image"]
    assert report["students"][0]["calibration"]["uncalibrated"] is None
    assert seen.text.count("before calibration") == 2  # in the table, and how densities are made
    assert "Reliability of the probabilities" in seen.text


def test_examples_have_the_probabilities_of_an_exported_model(calibrated: RunOutputs) -> None:
    example = figures_of(calibrated, command="msd report")["examples"]["shown"][0]
    logits = calibrated.students[1].logits[View.TEXT][[example["row"]]]
    (stated,) = example["students"][1]["text"]["probability"]
    assert stated == pytest.approx(probabilities(logits / 3, "single_label").max(), abs=1e-4)


def test_a_student_that_abstains_is_shown_with_what_it_decides(calibrated: RunOutputs) -> None:
    kd, msd = calibrated.students
    never = OperatingPoint(
        "abstain_below=1", dict.fromkeys(View, (1.0,)), dict.fromkeys(View, 0), {}
    )
    nothing = {view: np.zeros(logits.shape, bool) for view, logits in msd.logits.items()}
    msd = replace(msd, decisions=Decisions(never, msd.logits, nothing))
    outputs = replace(calibrated, students=(kd, msd))
    report = figures_of(outputs, command="msd report")
    decided = report["students"][1]["decisions"]
    assert decided is not None
    assert decided["views"]["text"]["abstained"]["value"] == 1.0
    assert decided["views"]["text"]["precision"] is None
    assert report["students"][0]["decisions"] is None
    for example in report["examples"]["shown"]:
        first, second = (student["multimodal"]["labels"] for student in example["students"])
        assert len(first) == 1
        assert second == []
    page = render_distillation(report, thumbnails_of(outputs, report["examples"]))
    assert "Operating points on" in page
    assert "abstain_below=1" in page
    without = render_distillation(
        figures_of(calibrated, command="msd report"), thumbnails_of(outputs, report["examples"])
    )
    assert "Operating points on" not in without
