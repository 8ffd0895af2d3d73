"""The frame that every chart stands in: two axes with their grid, ticks and captions."""

from dataclasses import dataclass

from markupsafe import Markup

from msd_deploy.report.chart_layout import Axis
from msd_deploy.report.svg import Canvas, Position, line, text

_TICK_BELOW, _TICK_BESIDE = 19.0, 8.0
_CAPTION_ABOVE_EDGE = 10.0


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is marked and said along an axis.

    Attributes:
        values: Where grid lines cross it.
        labels: What stands at each of them.
        caption: What the axis is, with its unit.
    """

    values: tuple[float, ...]
    labels: tuple[str, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of one chart.

    Attributes:
        canvas: What it is drawn on.
        x: Horizontal, from left to right.
        y: Vertical, its start at the bottom.
        x_ticks: Along x.
        y_ticks: Along y; its caption stands at the top left.
    """

    canvas: Canvas
    x: Axis
    y: Axis
    x_ticks: Ticks
    y_ticks: Ticks

    def at(self, x: float, y: float) -> Position:
        """Return where a pair of values stands."""
        return self.x.position(x), self.y.position(y)


def draw_frame(frame: Frame) -> list[Markup]:
    """Return grid, ticks, base line and captions."""
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
    """Return fractions as percentages, for ticks."""
    return tuple(f"{value * 100:.3g} %" for value in values)
