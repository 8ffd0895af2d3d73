"""The chart of a study: a dot per student, the mean of each method, the teacher's level."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from msd_deploy.pages.chart_layout import Axis
from msd_deploy.pages.line_chart import WIDTH, metric_range
from msd_deploy.pages.svg import (
    Canvas,
    Frame,
    Position,
    Ticks,
    circle,
    draw_frame,
    draw_svg,
    line,
    text,
)

_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 112.0, 14.0, 30.0, 46.0, 27.0
_LEGEND_Y, _SEED_RADIUS, _MEAN_HALF = 18.0, 4.0, 9.0


@dataclass(frozen=True, slots=True)
class MethodDots:
    """One method.

    Attributes:
        name: Of the method.
        values: The metric of each seed's student, 0..1.
        mean: Of them.
    """

    name: str
    values: tuple[float, ...]
    mean: float


def draw_dots(name: str, methods: Sequence[MethodDots], *, teacher: float, metric: str) -> Markup:
    """Draw one view's results as an <svg> element, a line a method.

    Args:
        name: Makes its element ids unique in the page.
        methods: From top to bottom, at least one.
        teacher: Its metric on the view.
        metric: What the dots are.
    """
    frame = _frame(name, methods, teacher, metric)
    at = frame.x.position(teacher)
    parts = [
        *draw_frame(frame),
        *_legend(),
        line((at, frame.y.start), (at, frame.y.end), "reference teacher"),
    ]
    for row, method in enumerate(methods):
        parts += [
            circle(frame.at(value, row), _SEED_RADIUS, "seed student") for value in method.values
        ]
        parts.append(_mean(frame.at(method.mean, row)))
    means = "; ".join(f"{method.name} {method.mean:.1%}" for method in methods)
    description = f"Teacher {teacher:.1%}; means: {means}"
    return draw_svg(frame.canvas, parts, title=f"{metric} by method", description=description)


def _frame(name: str, methods: Sequence[MethodDots], teacher: float, metric: str) -> Frame:
    bottom = _TOP + _ROW * len(methods)
    values = [value for method in methods for value in method.values]
    along = metric_range([*values, teacher], metric)
    rows = Ticks(tuple(range(len(methods))), tuple(method.name for method in methods), "")
    return Frame(
        Canvas(name, WIDTH, round(bottom + _BOTTOM)),
        Axis(along.low, along.high, _LEFT, WIDTH - _RIGHT),
        Axis(len(methods) - 0.5, -0.5, bottom, _TOP),
        along.ticks,
        rows,
    )


def _mean(at: Position) -> Markup:
    x, y = at
    return line((x, y - _MEAN_HALF), (x, y + _MEAN_HALF), "line student")


def _legend() -> list[Markup]:
    y = _LEGEND_Y - 4
    return [
        circle((12, y), _SEED_RADIUS, "seed student"),
        text(22, _LEGEND_Y, "one seed", "legend"),
        _mean((98, y)),
        text(106, _LEGEND_Y, "mean", "legend"),
        line((158, y), (180, y), "reference teacher"),
        text(186, _LEGEND_Y, "teacher", "legend"),
    ]
