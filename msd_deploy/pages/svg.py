"""Inline SVG elements, and the frame of a chart: axes with grid, ticks and captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from msd_deploy.pages.chart_layout import Axis

Position = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Canvas:
    """Name and size of an <svg> element.

    Attributes:
        name: Prefix of element ids, unique in the page.
        width: Width in CSS pixels, at which text has its nominal size.
        height: Height in CSS pixels.
    """

    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with title and caption.

    Attributes:
        title: Title above the chart.
        chart: The <svg> element.
        caption: Caption below the chart; may be empty.
    """

    title: str
    chart: Markup
    caption: str


def draw_svg(canvas: Canvas, parts: Iterable[Markup], *, title: str, description: str) -> Markup:
    """Return an <svg> element with an accessible title and description.

    Args:
        canvas: Name and size.
        parts: Elements, bottom first.
        title: Accessible title.
        description: Accessible description.
    """
    texts = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(
        canvas.name, title, description
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" role="img"'
        ' aria-labelledby="{name}-title {name}-desc">{body}</svg>'
    ).format(
        width=canvas.width,
        height=canvas.height,
        name=canvas.name,
        body=Markup("\n").join([texts, *parts]),
    )


def line(start: Position, end: Position, kind: str) -> Markup:
    """Return a straight line with a CSS class."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        kind, *start, *end
    )


def text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> Markup:
    """Return an escaped text with a CSS class.

    Args:
        x: Position of the anchor.
        y: Position of the baseline.
        words: The text.
        kind: CSS class.
        anchor: Part of the text at x: start, middle or end.
    """
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(words)
    )


def circle(at: Position, radius: float, kind: str) -> Markup:
    """Return a circle with a CSS class."""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(kind, *at, radius)


def diamond(at: Position, radius: float, kind: str) -> Markup:
    """Return a diamond with a CSS class; radius is half its diagonal."""
    x, y = at
    path = f"M{x:.1f} {y - radius:.1f}l{radius} {radius}l-{radius} {radius}l-{radius} -{radius}z"
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def curve(points: Sequence[Position], kind: str, *, is_closed: bool = False) -> Markup:
    """Return a polyline with a CSS class, or a closed area."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("z" if is_closed else "")
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


_TICK_BELOW, _TICK_BESIDE = 19.0, 8.0
_CAPTION_ABOVE_EDGE = 10.0


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks and caption of an axis.

    Attributes:
        values: Values of the grid lines.
        labels: Label of each grid line.
        caption: Caption of the axis, with its unit.
    """

    values: tuple[float, ...]
    labels: tuple[str, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of a chart.

    Attributes:
        canvas: Name and size of the chart.
        x: Horizontal axis, from left to right.
        y: Vertical axis, from bottom to top.
        x_ticks: Ticks of x.
        y_ticks: Ticks of y; the caption is at the top left.
    """

    canvas: Canvas
    x: Axis
    y: Axis
    x_ticks: Ticks
    y_ticks: Ticks

    def at(self, x: float, y: float) -> Position:
        """Return the position of a pair of values."""
        return self.x.position(x), self.y.position(y)


def draw_frame(frame: Frame) -> list[Markup]:
    """Return grid, ticks, baseline and captions."""
    x, y = frame.x, frame.y
    parts = []
    for value, label in zip(frame.x_ticks.values, frame.x_ticks.labels, strict=True):
        at = x.position(value)
        parts.append(line((at, y.start), (at, y.end), "grid"))
        parts.append(text(at, y.start + _TICK_BELOW, label, "tick", anchor="middle"))
    for value, label in zip(frame.y_ticks.values, frame.y_ticks.labels, strict=True):
        at = y.position(value)
        parts.append(line((x.start, at), (x.end, at), "grid"))
        parts.append(text(x.start - _TICK_BESIDE, at + 4, label, "tick", anchor="end"))
    parts.append(line((x.start, y.start), (x.end, y.start), "axis"))
    middle, bottom = (x.start + x.end) / 2, frame.canvas.height - _CAPTION_ABOVE_EDGE
    parts.append(text(middle, bottom, frame.x_ticks.caption, "caption", anchor="middle"))
    parts.append(text(8, 16, frame.y_ticks.caption, "caption"))
    return parts


def share_labels(values: tuple[float, ...]) -> tuple[str, ...]:
    """Format fractions as percentages, for ticks."""
    return tuple(f"{value * 100:.3g} %" for value in values)
