"""Layout of charts: scales, ticks, and placement of labels without overlap."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
"""Directions from a mark to its label, best first: right, left, above, below, then the corners."""
_DISTANCES = tuple(range(12, 180, 6))
CLEARANCE = 4.0
"""Minimum gap around a label, including the 1.5 of its outline."""
_LABEL_COST, _OUTSIDE_COST, _MARK_COST = 1e6, 1e6, 1e3
_TURN_COST = 1.5
_MIN_SPAN = 0.02

Scale = Literal["linear", "log", "root"]
_SHAPES: Mapping[Scale, Callable[[float], float]] = {
    "linear": lambda value: value,
    "log": math.log,
    "root": math.sqrt,
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in the chart's units, y downwards."""

    left: float
    top: float
    width: float
    height: float

    def overlap(self, other: "Box") -> float:
        """Return the area of the intersection."""
        right = min(self.left + self.width, other.left + other.width)
        bottom = min(self.top + self.height, other.top + other.height)
        width, height = right - max(self.left, other.left), bottom - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def grown(self, by: float) -> "Box":
        """Return the rectangle with a margin on all sides."""
        return Box(self.left - by, self.top - by, self.width + 2 * by, self.height + 2 * by)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the rectangle nearest to a point."""
        return (
            min(max(x, self.left), self.left + self.width),
            min(max(y, self.top), self.top + self.height),
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Position of low.
        end: Position of high.
        scale: Linear, logarithmic or square-root scale.
    """

    low: float
    high: float
    start: float
    end: float
    scale: Scale = "linear"

    def position(self, value: float) -> float:
        """Return the position of a value."""
        shape = _SHAPES[self.scale]
        low, high = shape(self.low), shape(self.high)
        return self.start + (shape(value) - low) / (high - low) * (self.end - self.start)


def log_range(values: Sequence[float], *, margin: float) -> tuple[float, float]:
    """Return a range of positive values, widened by a factor on both sides."""
    return min(values) / margin, max(values) * margin


def share_range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Return a range within 0..1 that contains all intervals, with a margin."""
    low, high = min(lows), max(highs)
    margin = max(0.1 * (high - low), _MIN_SPAN)
    return max(0.0, low - margin), min(1.0, high + margin)


def log_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Return multiples 1, 2 and 5 of powers of ten within a range, or fewer if too many."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks


def linear_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Return round values within a range, at the smallest step with at most `most` of them.

    Steps are multiples 1, 2 and 5 of powers of ten.
    """
    exponent = math.floor(math.log10((high - low) / most))
    for step in (digit * 10.0**power for power in count(exponent) for digit in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [number * step for number in range(first, last + 1)]


def place_labels(
    marks: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    bounds: Box,
    obstacles: Sequence[Box],
) -> list[Box]:
    """Place each mark's label near it, within bounds, clear of other labels and obstacles.

    Args:
        marks: Positions of the marks.
        sizes: Width and height of each label.
        bounds: Area for labels.
        obstacles: Areas to keep clear if possible.
    """
    placed: list[Box] = []
    obstacles = [obstacle.grown(CLEARANCE) for obstacle in obstacles]
    for mark, size in zip(marks, sizes, strict=True):
        costs = [
            (cost + _cost(box, bounds, placed, obstacles), order, box)
            for order, (cost, box) in enumerate(_candidates(mark, size))
        ]
        placed.append(min(costs, key=lambda entry: entry[:2])[2])
    return placed


def _candidates(
    mark: tuple[float, float], size: tuple[float, float]
) -> Iterator[tuple[float, Box]]:
    """Yield label positions around a mark, with the cost of distance and direction."""
    (x, y), (width, height) = mark, size
    for distance in _DISTANCES:
        for rank, (right, down) in enumerate(_DIRECTIONS):
            left = x + right * distance - width * (1 - right) / 2
            top = y + down * distance - height * (1 - down) / 2
            yield distance + _TURN_COST * rank, Box(left, top, width, height)


def _cost(box: Box, bounds: Box, placed: Sequence[Box], obstacles: Sequence[Box]) -> float:
    outside = box.width * box.height - box.overlap(bounds)
    on_labels = sum(box.overlap(other.grown(CLEARANCE)) for other in placed)
    on_obstacles = sum(box.overlap(other) > 0 for other in obstacles)
    cost = _OUTSIDE_COST * (outside > 1e-6) + _LABEL_COST * (on_labels > 0)
    return cost + _MARK_COST * on_obstacles
