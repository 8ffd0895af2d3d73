"""The metric against latency as inline SVG: no script, no font, no request; colours are the page's.

One mark per form with its interval as a whisker, labelled in place. Teacher and student differ in
hue and in shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from msd_mobile_bench.chart_layout import (
    Axis,
    Box,
    log_range,
    log_ticks,
    place_labels,
    share_range,
    share_ticks,
)
from msd_mobile_bench.schema import Who

_LABEL_HEIGHT, _CHARACTER_WIDTH = 15.0, 7.9  # of 13 px sans-serif, on the wide side
_MARK_RADIUS, _CAP = 6.0, 4.0
_DIAMOND_RADIUS = 7.2  # looks as large as the circle
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
    series: Who
    latency_ms: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ChartStyle:
    """Size and words of a chart.

    Attributes:
        name: Makes its element ids unique in the page.
        width: In CSS pixels, at which text has its natural size.
        height: As width.
        metric: What y is.
    """

    name: str
    width: int
    height: int
    metric: str


@dataclass(frozen=True, slots=True)
class _Plot:
    """The axes of one chart."""

    x: Axis
    y: Axis

    def at(self, point: Point) -> tuple[float, float]:
        """Return where a point's mark stands."""
        return self.x.position(point.latency_ms), self.y.position(point.value)


def draw_chart(points: Sequence[Point], style: ChartStyle) -> Markup:
    """Draw the chart as an <svg> element.

    Args:
        points: At least one.
        style: Size and words.
    """
    plot = _plot(points, style)
    parts = [
        _describe(points, style),
        *_grid(plot, style),
        *_legend(plot, points),
        *(_whisker(plot, point) for point in points),
        *_labels(plot, points, style),
        *(_mark(plot.at(point), point.series) for point in points),
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" role="img"'
        ' aria-labelledby="{name}-title {name}-desc">{body}</svg>'
    ).format(width=style.width, height=style.height, name=style.name, body=Markup("\n").join(parts))


def _plot(points: Sequence[Point], style: ChartStyle) -> _Plot:
    left, right, top, bottom = 52.0, style.width - 14.0, 44.0, style.height - 50.0
    latencies = log_range([point.latency_ms for point in points], margin=1.8)
    shares = share_range([point.low for point in points], [point.high for point in points])
    return _Plot(Axis(*latencies, left, right, is_log=True), Axis(*shares, bottom, top))


def _describe(points: Sequence[Point], style: ChartStyle) -> Markup:
    """Say in words what the chart shows."""
    told = "; ".join(
        f"{point.series} {point.label}: {point.latency_ms:.3g} ms, {point.value:.1%}"
        f" ({point.low:.1%} to {point.high:.1%})"
        for point in points
    )
    return Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(
        style.name, f"{style.metric} against latency of every form", told
    )


def _grid(plot: _Plot, style: ChartStyle) -> list[Markup]:
    x, y = plot.x, plot.y
    most = style.width // 75
    parts = [
        _line((x.position(tick), y.start), (x.position(tick), y.end), "grid")
        + _text(x.position(tick), y.start + 19, f"{tick:g}", "tick", anchor="middle")
        for tick in log_ticks(x.low, x.high, most=most)
    ]
    parts += [
        _line((x.start, y.position(tick)), (x.end, y.position(tick)), "grid")
        + _text(x.start - 8, y.position(tick) + 4, f"{tick * 100:.3g} %", "tick", anchor="end")
        for tick in share_ticks(y.low, y.high, most=7)
    ]
    caption = "Latency of one example, ms (median, log scale); left is faster"
    if style.width < 500:
        caption = "Latency, ms (median, log scale)"
    parts.append(_line((x.start, y.start), (x.end, y.start), "axis"))
    parts.append(
        _text((x.start + x.end) / 2, style.height - 10.0, caption, "caption", anchor="middle")
    )
    parts.append(_text(8, 16, f"{style.metric}, image and text", "caption"))
    return parts


def _legend(plot: _Plot, points: Sequence[Point]) -> list[Markup]:
    """Draw the legend at the top right, above the plot."""
    x = plot.x.end
    parts = []
    series: Who
    for series in ("student", "teacher"):
        if any(point.series == series for point in points):
            x -= _CHARACTER_WIDTH * len(series) + 4
            parts.append(_text(x, 16, series, f"label {series}"))
            x -= 12
            parts.append(_mark((x, 11.5), series))
            x -= 16
    return parts


def _whisker(plot: _Plot, point: Point) -> Markup:
    x, low, high = plot.at(point)[0], plot.y.position(point.low), plot.y.position(point.high)
    ends = (((x, low), (x, high)), ((x - _CAP, low), (x + _CAP, low)))
    lines = [*ends, ((x - _CAP, high), (x + _CAP, high))]
    return Markup("").join(_line(*line, f"whisker {point.series}") for line in lines)


def _labels(plot: _Plot, points: Sequence[Point], style: ChartStyle) -> list[Markup]:
    marks = [plot.at(point) for point in points]
    sizes = [(_CHARACTER_WIDTH * len(point.label), _LABEL_HEIGHT) for point in points]
    bounds = Box(plot.x.start, plot.y.end, plot.x.end - plot.x.start, plot.y.start - plot.y.end)
    obstacles = [_box_of_mark(plot, point) for point in points]
    obstacles += [_box_of_whisker(plot, point) for point in points]
    boxes = place_labels(marks, sizes, bounds=bounds, obstacles=obstacles)
    parts = []
    for mark, box, point in zip(marks, boxes, points, strict=True):
        end = box.nearest(*mark)
        if abs(end[0] - mark[0]) + abs(end[1] - mark[1]) > _LEADER_FROM:
            parts.append(_line(mark, end, f"leader {point.series}"))
    parts += [_label(*entry) for entry in zip(marks, boxes, points, strict=True)]
    return parts


def _label(mark: tuple[float, float], box: Box, point: Point) -> Markup:
    """Write a label from the side that faces its mark: how wide the font is, is only guessed."""
    x, anchor = box.left + box.width / 2, "middle"
    if box.left >= mark[0]:
        x, anchor = box.left, "start"
    elif box.left + box.width <= mark[0]:
        x, anchor = box.left + box.width, "end"
    return _text(x, box.top + 11.5, point.label, f"label {point.series}", anchor=anchor)


def _box_of_mark(plot: _Plot, point: Point) -> Box:
    radius = _MARK_RADIUS if point.series == "student" else _DIAMOND_RADIUS
    return Box(*plot.at(point), 0, 0).grown(radius)


def _box_of_whisker(plot: _Plot, point: Point) -> Box:
    x, high, low = plot.at(point)[0], plot.y.position(point.high), plot.y.position(point.low)
    return Box(x - _CAP, high - 1, 2 * _CAP, low - high + 2)


def _mark(at: tuple[float, float], series: Who) -> Markup:
    x, y = at
    if series == "student":
        return Markup('<circle class="mark student" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            x, y, _MARK_RADIUS
        )
    r = _DIAMOND_RADIUS
    path = f"M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"
    return Markup('<path class="mark teacher" d="{}"/>').format(path)


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        kind, *start, *end
    )


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(text)
    )
