"""The chart of metric against latency, as inline SVG without scripts or fonts; styled by the page.

One labelled mark per variant, with its interval as a whisker. Teacher and student differ in colour
and shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from msd_deploy.pages.chart_layout import (
    Axis,
    Box,
    linear_ticks,
    log_range,
    log_ticks,
    place_labels,
    share_range,
)
from msd_deploy.pages.svg import (
    Canvas,
    Frame,
    Position,
    Ticks,
    circle,
    diamond,
    draw_frame,
    draw_svg,
    line,
    share_labels,
    text,
)
from msd_mobile_bench.schema import ModelRole

_LABEL_HEIGHT, _CHARACTER_WIDTH = 15.0, 7.9  # of 13 px sans-serif, on the wide side
_MARK_RADIUS, _CAP = 6.0, 4.0
_DIAMOND_RADIUS = 7.2  # looks as large as the circle
_NARROW = 500
_LEADER_FROM = 16.0  # a label farther from its mark than this gets a line to it


@dataclass(frozen=True, slots=True)
class Point:
    """One mark.

    Attributes:
        label: Stands beside it.
        series: Its hue and shape.
        latency_ms: x.
        value: y, 0..1.
        low: Lower end of its interval.
        high: Upper end.
    """

    label: str
    series: ModelRole
    latency_ms: float
    value: float
    low: float
    high: float


def draw_chart(points: Sequence[Point], canvas: Canvas, *, metric: str) -> Markup:
    """Draw the chart as an <svg> element.

    Args:
        points: At least one.
        canvas: Its frame.
        metric: What y is.
    """
    frame = _frame(points, canvas, metric)
    parts = [
        *draw_frame(frame),
        *_legend(frame, points),
        *(_whisker(frame, point) for point in points),
        *_labels(frame, points),
        *(_mark(_at(frame, point), point.series) for point in points),
    ]
    title = f"{metric} against latency of every variant"
    return draw_svg(canvas, parts, title=title, description=_in_words(points))


def _frame(points: Sequence[Point], canvas: Canvas, metric: str) -> Frame:
    left, right, top, bottom = 52.0, canvas.width - 14.0, 44.0, canvas.height - 50.0
    latencies = log_range([point.latency_ms for point in points], margin=1.8)
    shares = share_range([point.low for point in points], [point.high for point in points])
    across = tuple(log_ticks(*latencies, most=canvas.width // 75))
    up = tuple(linear_ticks(*shares, most=7))
    caption = "Latency of one example, ms (median, log scale); left is faster"
    if canvas.width < _NARROW:
        caption = "Latency, ms (median, log scale)"
    return Frame(
        canvas,
        Axis(*latencies, left, right, scale="log"),
        Axis(*shares, bottom, top),
        Ticks(across, tuple(f"{tick:g}" for tick in across), caption),
        Ticks(up, share_labels(up), f"{metric}, image and text"),
    )


def _at(frame: Frame, point: Point) -> Position:
    return frame.at(point.latency_ms, point.value)


def _in_words(points: Sequence[Point]) -> str:
    """Return the chart's data as text, for screen readers."""
    return "; ".join(
        f"{point.series} {point.label}: {point.latency_ms:.3g} ms, {point.value:.1%}"
        f" ({point.low:.1%} to {point.high:.1%})"
        for point in points
    )


def _legend(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    """Draw the legend at the top right, above the frame."""
    x = frame.x.end
    parts = []
    series: ModelRole
    for series in ("student", "teacher"):
        if any(point.series == series for point in points):
            x -= _CHARACTER_WIDTH * len(series) + 4
            parts.append(text(x, 16, series, f"label {series}"))
            x -= 12
            parts.append(_mark((x, 11.5), series))
            x -= 16
    return parts


def _whisker(frame: Frame, point: Point) -> Markup:
    x, low, high = _at(frame, point)[0], frame.y.position(point.low), frame.y.position(point.high)
    across = [((x - _CAP, y), (x + _CAP, y)) for y in (low, high)]
    lines = [((x, low), (x, high)), *across]
    return Markup("").join(line(*ends, f"whisker {point.series}") for ends in lines)


def _labels(frame: Frame, points: Sequence[Point]) -> list[Markup]:
    marks = [_at(frame, point) for point in points]
    sizes = [(_CHARACTER_WIDTH * len(point.label), _LABEL_HEIGHT) for point in points]
    bounds = Box(
        frame.x.start, frame.y.end, frame.x.end - frame.x.start, frame.y.start - frame.y.end
    )
    obstacles = [_box_of_mark(frame, point) for point in points]
    obstacles += [_box_of_whisker(frame, point) for point in points]
    boxes = place_labels(marks, sizes, bounds=bounds, obstacles=obstacles)
    parts = []
    for mark, box, point in zip(marks, boxes, points, strict=True):
        end = box.nearest(*mark)
        if abs(end[0] - mark[0]) + abs(end[1] - mark[1]) > _LEADER_FROM:
            parts.append(line(mark, end, f"leader {point.series}"))
    parts += [_label(*entry) for entry in zip(marks, boxes, points, strict=True)]
    return parts


def _label(mark: Position, box: Box, point: Point) -> Markup:
    """Write a label from the side that faces its mark: how wide the font is, is only guessed."""
    x, anchor = box.left + box.width / 2, "middle"
    if box.left >= mark[0]:
        x, anchor = box.left, "start"
    elif box.left + box.width <= mark[0]:
        x, anchor = box.left + box.width, "end"
    return text(x, box.top + 11.5, point.label, f"label {point.series}", anchor=anchor)


def _box_of_mark(frame: Frame, point: Point) -> Box:
    radius = _MARK_RADIUS if point.series == "student" else _DIAMOND_RADIUS
    return Box(*_at(frame, point), 0, 0).grown(radius)


def _box_of_whisker(frame: Frame, point: Point) -> Box:
    x, high, low = _at(frame, point)[0], frame.y.position(point.high), frame.y.position(point.low)
    return Box(x - _CAP, high - 1, 2 * _CAP, low - high + 2)


def _mark(at: Position, series: ModelRole) -> Markup:
    if series == "student":
        return circle(at, _MARK_RADIUS, "mark student")
    return diamond(at, _DIAMOND_RADIUS, "mark teacher")
