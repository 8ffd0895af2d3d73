import itertools
from xml.etree import ElementTree

import pytest

from msd_deploy.pages.chart_layout import (
    CLEARANCE,
    Axis,
    Box,
    linear_ticks,
    log_ticks,
    place_labels,
    share_range,
)
from msd_deploy.pages.svg import Canvas
from msd_mobile_bench.chart import Point, draw_chart

_CANVAS = Canvas("wide", 860, 430)


def _point(label: str, latency_ms: float, value: float) -> Point:
    return Point(label, "student", latency_ms, value, value - 0.01, value + 0.01)


def test_a_log_axis_puts_equal_ratios_at_equal_distances() -> None:
    axis = Axis(0.1, 10.0, 0.0, 200.0, scale="log")
    assert [axis.position(value) for value in (0.1, 1.0, 10.0)] == pytest.approx([0, 100, 200])


def test_a_linear_axis_may_run_upwards() -> None:
    axis = Axis(0.5, 1.0, 400.0, 0.0)
    assert axis.position(0.75) == pytest.approx(200.0)


def test_log_ticks_are_round_and_no_more_than_requested() -> None:
    assert log_ticks(0.15, 12.0, most=9) == pytest.approx([0.2, 0.5, 1, 2, 5, 10])
    assert log_ticks(0.15, 900.0, most=4) == pytest.approx([1, 10, 100])


def test_linear_ticks_are_round_and_no_more_than_requested() -> None:
    assert linear_ticks(0.905, 0.985, most=6) == pytest.approx([0.92, 0.94, 0.96, 0.98])
    assert len(linear_ticks(0.0, 1.0, most=6)) <= 6


def test_a_range_of_shares_stays_within_0_and_1() -> None:
    assert share_range([0.0, 0.5], [0.9, 1.0]) == (0.0, 1.0)


def test_labels_of_marks_on_one_spot_overlap_neither_each_other_nor_the_edge() -> None:
    bounds = Box(0, 0, 300, 300)
    marks = [(150.0, 150.0)] * 8 + [(2.0, 2.0), (299.0, 299.0)]
    sizes = [(90.0, 15.0)] * len(marks)
    boxes = place_labels(marks, sizes, bounds=bounds, obstacles=[])
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.overlap(bounds) == pytest.approx(90 * 15) for box in boxes)


def test_a_label_keeps_off_an_obstacle() -> None:
    obstacle = Box(100, 90, 200, 20)
    (box,) = place_labels(
        [(100.0, 100.0)], [(50.0, 14.0)], bounds=Box(0, 0, 300, 300), obstacles=[obstacle]
    )
    assert box.overlap(obstacle) == 0


def test_a_chart_is_well_formed_and_states_in_words_what_it_shows() -> None:
    points = [_point("ONNX int8", 0.25, 0.938), _point("ONNX fp32", 0.27, 0.941)]
    svg = ElementTree.fromstring(draw_chart(points, _CANVAS, metric="Accuracy"))
    assert svg.attrib["role"] == "img"
    told = {child.tag: child.text or "" for child in svg}
    assert told["title"] == "Accuracy against latency of every variant"
    assert "student ONNX int8: 0.25 ms, 93.8% (92.8% to 94.8%)" in told["desc"]
    labels = [text.text for text in svg.iter("text")]
    assert {"ONNX int8", "ONNX fp32"} <= set(labels)


def test_marks_of_every_variant_are_within_the_chart() -> None:
    points = [_point(f"form {number}", 10.0**number, 0.5) for number in range(-2, 4)]
    svg = ElementTree.fromstring(draw_chart(points, _CANVAS, metric="Accuracy"))
    marks = [mark for mark in svg.iter("circle") if "mark" in mark.attrib["class"]]
    assert len(marks) == len(points) + 1  # and the legend's
    assert all(0 < float(mark.attrib["cx"]) < 860 for mark in marks)


def test_one_perfect_point_still_makes_a_chart() -> None:
    point = Point("ONNX fp32", "teacher", 1.0, 1.0, 1.0, 1.0)
    assert "ONNX fp32" in draw_chart([point], _CANVAS, metric="Accuracy")


def test_markup_in_a_label_is_escaped() -> None:
    assert "<b>" not in draw_chart([_point("<b>", 1.0, 0.5)], _CANVAS, metric="Accuracy")


def _label_boxes(svg: ElementTree.Element) -> list[Box]:
    """Return the boxes of the forms' labels, not the legend's, in as wide a font as is expected."""
    boxes = []
    for text in svg.iter("text"):
        if text.attrib["class"].startswith("label ") and text.text not in ("student", "teacher"):
            width = 7.9 * len(text.text or "")
            shift = {"start": 0.0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
            left, top = float(text.attrib["x"]) - shift, float(text.attrib["y"]) - 11.5
            boxes.append(Box(left, top, width, 15.0))
    return boxes


def _mark_boxes(svg: ElementTree.Element) -> list[Box]:
    marks = [mark for mark in svg.iter("circle") if mark.attrib["class"] == "mark student"]
    centres = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in marks]
    return [Box(x - 6, y - 6, 12, 12) for x, y in centres if y > 30]  # the legend's stands above


@pytest.mark.parametrize("canvas", [_CANVAS, Canvas("narrow", 356, 420)])
@pytest.mark.parametrize("ratio", [1.0, 1.08, 1.2, 1.45, 1.8, 2.5])
def test_labels_keep_clear_of_every_mark_and_of_one_another(canvas: Canvas, ratio: float) -> None:
    """Three forms of one quality: the case in which a label used to end at its neighbour's mark."""
    points = [
        _point(label, 0.25 * ratio**index, 0.94)
        for index, label in enumerate(("ONNX int8", "ONNX fp32", "PyTorch fp32"))
    ]
    svg = ElementTree.fromstring(draw_chart(points, canvas, metric="Accuracy"))
    labels, marks = _label_boxes(svg), _mark_boxes(svg)
    assert (len(labels), len(marks)) == (3, 3)
    for label in labels:
        gaps = [label.grown(CLEARANCE - 0.1).overlap(mark) for mark in marks]
        assert gaps == [0, 0, 0]
    for first, second in itertools.combinations(labels, 2):
        assert first.grown(CLEARANCE - 0.1).overlap(second) == 0
