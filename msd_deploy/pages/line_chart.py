"""Line charts as small panels, side by side on wide screens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from msd_deploy.pages.chart_layout import Axis, Scale, linear_ticks, log_ticks, share_range
from msd_deploy.pages.svg import (
    Canvas,
    Frame,
    Position,
    Ticks,
    circle,
    curve,
    draw_frame,
    draw_svg,
    line,
    share_labels,
    text,
)

WIDTH, HEIGHT = 344, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 12.0, 46.0, 46.0
_LEGEND_LEFT, _LEGEND_TOP, _LEGEND_ROW = 8.0, 34.0, 17.0
_SAMPLE_WIDTH, _LEGEND_GAP = 22.0, 11.0
_CHARACTER_WIDTH = 6.6  # upper estimate for 12 px sans-serif
_DOT_RADIUS = 1.6
_POINT_RADIUS = 3.5


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: Name in the legend.
        kind: CSS class, for color and dashes.
        points: Points x, y of the curve, in order.
        band: x, lower and upper end of a spread around the curve; may be empty.
        dots: Single points x, y; may be empty.
        reference: Level of a thin horizontal line across the panel.
    """

    name: str
    kind: str
    points: tuple[Position, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    dots: tuple[Position, ...] = ()
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Range of an axis.

    Attributes:
        low: Minimum.
        high: Maximum.
        ticks: Ticks and caption.
        scale: Scale of the axis.
    """

    low: float
    high: float
    ticks: Ticks
    scale: Scale = "linear"


def linear_range(low: float, high: float, caption: str, *, most: int = 5) -> Range:
    """Return a range with round ticks, widened if it is empty."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    ticks = tuple(linear_ticks(low, high, most=most))
    return Range(low, high, Ticks(ticks, tuple(f"{tick:,.4g}" for tick in ticks), caption))


def log_range_of(values: Sequence[float], caption: str, *, least: float) -> Range:
    """Return a logarithmic range of positive values, starting at `least` or above."""
    low = max(least, min(values, default=least))
    high = max(*values, low * 10, least * 10)
    ticks = tuple(log_ticks(low, high, most=5))
    return Range(low, high, Ticks(ticks, tuple(f"{t:g}" for t in ticks), caption), "log")


def root_range(high: float, caption: str) -> Range:
    """Return a range from 0 on a square-root scale, which keeps small values visible."""
    top = max(high, 1.0)
    ticks = tuple(tick**2 for tick in linear_ticks(0, top**0.5, most=6))
    return Range(0, top, Ticks(ticks, tuple(f"{tick:.3g}" for tick in ticks), caption), "root")


def metric_range(values: Sequence[float], caption: str) -> Range:
    """Return a range of fractions with ticks as percentages."""
    low, high = share_range(values or [0.0], values or [1.0])
    ticks = tuple(linear_ticks(low, high, most=5))
    return Range(low, high, Ticks(ticks, share_labels(ticks), caption))


def draw_panel(
    name: str,
    series: Sequence[Series],
    *,
    x: Range,
    y: Range,
    title: str,
    description: str,
    is_filled: bool = False,
) -> Markup:
    """Draw curves as an <svg> element of WIDTH and HEIGHT.

    Values outside a range are drawn at its edge.

    Args:
        name: Prefix of element ids, unique in the page.
        series: The curves in the order of the legend; the first is drawn on top.
        x: Horizontal range.
        y: Vertical range.
        title: Accessible title.
        description: Accessible description.
        is_filled: Whether to fill the area below each curve.
    """
    positions = _legend_positions(series, WIDTH - _RIGHT)
    below = positions[-1][1] - _LEGEND_TOP if positions else 0.0
    frame = _frame(Canvas(name, WIDTH, HEIGHT), x, y, top=_TOP + below)
    drawn = [_within(one, x, y) for one in series]
    parts = [*draw_frame(frame), *_legend(positions, series)]
    for one in reversed(drawn):
        parts += _curve(frame, one, is_filled=is_filled)
    return draw_svg(frame.canvas, parts, title=title, description=description)


def _frame(canvas: Canvas, x: Range, y: Range, *, top: float) -> Frame:
    left, right, bottom = _LEFT, canvas.width - _RIGHT, canvas.height - _BOTTOM
    return Frame(
        canvas,
        Axis(x.low, x.high, left, right, x.scale),
        Axis(y.low, y.high, bottom, top, y.scale),
        x.ticks,
        y.ticks,
    )


def _within(series: Series, x: Range, y: Range) -> Series:
    def across(value: float) -> float:
        return min(max(value, x.low), x.high)

    def up(value: float) -> float:
        return min(max(value, y.low), y.high)

    return replace(
        series,
        points=tuple((across(at), up(value)) for at, value in series.points),
        band=tuple((across(at), up(low), up(high)) for at, low, high in series.band),
        dots=tuple((across(at), up(value)) for at, value in series.dots),
        reference=None if series.reference is None else up(series.reference),
    )


def _curve(frame: Frame, series: Series, *, is_filled: bool) -> list[Markup]:
    parts = [circle(frame.at(*dot), _DOT_RADIUS, f"dot {series.kind}") for dot in series.dots]
    if series.band:
        upper = [frame.at(x, high) for x, _, high in series.band]
        lower = [frame.at(x, low) for x, low, _ in reversed(series.band)]
        parts.append(curve([*upper, *lower], f"area {series.kind}", is_closed=True))
    if series.reference is not None:
        level = frame.y.position(series.reference)
        ends = (frame.x.start, level), (frame.x.end, level)
        parts.append(line(*ends, f"reference {series.kind}"))
    points = [frame.at(*point) for point in series.points]
    if points and is_filled:
        feet = [(points[-1][0], frame.y.start), (points[0][0], frame.y.start)]
        parts.append(curve([*points, *feet], f"area {series.kind}", is_closed=True))
    if len(points) == 1:  # a line of one point is invisible
        parts.append(circle(points[0], _POINT_RADIUS, f"point {series.kind}"))
    elif points:
        parts.append(curve(points, f"line {series.kind}"))
    return parts


def _legend(positions: Sequence[Position], series: Sequence[Series]) -> list[Markup]:
    parts = []
    for (x, y), one in zip(positions, series, strict=True):
        parts.append(line((x, y - 4), (x + _SAMPLE_WIDTH, y - 4), f"line {one.kind}"))
        parts.append(text(x + _SAMPLE_WIDTH + 5, y, one.name, "legend"))
    return parts


def _legend_positions(series: Sequence[Series], width: float) -> list[Position]:
    """Return the position of each legend entry, wrapped into rows."""
    positions, x, y = [], _LEGEND_LEFT, _LEGEND_TOP
    for one in series:
        own = _SAMPLE_WIDTH + 5 + _CHARACTER_WIDTH * len(one.name)
        if x > _LEGEND_LEFT and x + own > width:
            x, y = _LEGEND_LEFT, y + _LEGEND_ROW
        positions.append((x, y))
        x += own + _LEGEND_GAP
    return positions
