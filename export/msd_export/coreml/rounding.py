"""Round the weights of a layer, to 8-bit integers or to a palette of 16 or 64 values.

Weights are rounded column by column, and the columns that follow compensate the error of each
rounding: GPTQ (Frantar et al. 2023, algorithm 1), without its blocks, which only save memory
traffic, and for any set of values. Grouped and depthwise convolutions are rounded group by group.
The table of a palette is found by k-means. Measured on a student with a pretrained
EfficientNet-Lite0: docs/export.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

_DAMPING = 0.01
"""Share of the mean second moment that is added to each: GPTQ's own; without it, inputs that never
vary leave the matrix singular."""

_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight as 8-bit integers.

    Attributes:
        quantized: In the weight's shape, -127 to 127.
        scale: What an integer stands for, one number per output, [outputs].
    """

    quantized: NDArray[np.int8]
    scale: NDArray[np.float16]


def round_to_int8(weight: NDArray[np.generic], moments: Matrix) -> Int8Weight:
    """Return a weight with one scale per output, its largest absolute value / 127.

    Args:
        weight: [outputs, ...].
        moments: Second moments of the layer's inputs; see `round_compensated`.
    """
    largest = np.abs(weight.reshape(len(weight), -1).astype(np.float64)).max(axis=1)
    scale = (largest / _LARGEST).astype(np.float16)
    scale[scale == 0] = 1
    step = scale.astype(np.float64).reshape(len(moments), -1)
    codes = round_compensated(
        weight,
        moments,
        nearest=lambda column: np.clip(np.rint(column / step), -_LARGEST, _LARGEST),
        value_of=lambda codes: codes * step,
    )
    return Int8Weight(codes.astype(np.int8), scale)


def round_compensated(
    weight: NDArray[np.generic],
    moments: Matrix,
    *,
    nearest: Callable[[Matrix], NDArray[np.generic]],
    value_of: Callable[[Codes], Matrix],
) -> Codes:
    """Return codes in a weight's shape, those of the strongest inputs chosen first.

    Args:
        weight: [outputs, ...], outputs of the first group first.
        moments: Second moments of what each group's weights are multiplied with, [groups, inputs,
            inputs].
        nearest: Returns the codes whose values are nearest, [groups, outputs of a group].
        value_of: Returns the values of codes.
    """
    groups, inputs = len(moments), moments.shape[-1]
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    upper = _upper_factors(moments, diagonal, order)
    matrix = weight.astype(np.float64).reshape(groups, -1, inputs)
    rest = np.take_along_axis(matrix, order[:, None], axis=2)
    codes = np.empty(rest.shape, np.int64)
    for column in range(inputs):
        codes[..., column] = nearest(rest[..., column])
        error = rest[..., column] - value_of(codes[..., column])
        shares = upper[:, column, column + 1 :] / upper[:, column, column, None]
        rest[..., column + 1 :] -= error[..., None] * shares[:, None]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(codes, back[:, None], axis=2).reshape(weight.shape)


def _upper_factors(moments: Matrix, diagonal: Matrix, order: Codes) -> Matrix:
    """Return the Cholesky factors of the inverted moments, rows and columns in order."""
    means = diagonal.mean(axis=1)
    damping = np.where(means > 0, _DAMPING * means, 1.0)
    damped = moments + damping[:, None, None] * np.eye(moments.shape[-1])
    sorted_rows = np.take_along_axis(damped, order[:, :, None], axis=1)
    ordered = np.take_along_axis(sorted_rows, order[:, None], axis=2)
    factors = np.linalg.cholesky(np.linalg.inv(ordered))
    return np.asarray(np.swapaxes(factors, 1, 2))


_MOST_STEPS, _BINS = 1000, 1024


def palettize(
    weight: NDArray[np.generic], bits: int, moments: Matrix | None = None
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return a table, [2 ** bits], and indices in the weight's shape.

    Args:
        weight: [outputs, ...].
        bits: Of an index.
        moments: Second moments of the layer's inputs, [groups, inputs, inputs]; None: each weight
            is the nearest value of the table.
    """
    values = weight.astype(np.float64)
    table = np.sort(_centres(values.ravel(), 2**bits).astype(np.float16))
    exact = table.astype(np.float64)
    if moments is None:
        return table, _nearest(exact, values).astype(np.uint8)
    indices = round_compensated(
        weight,
        moments,
        nearest=lambda column: _nearest(exact, column),
        value_of=lambda codes: exact[codes],
    )
    return table, indices.astype(np.uint8)


def _centres(values: Matrix, count: int) -> Matrix:
    """Return k-means' centres (Lloyd's algorithm, in one dimension)."""
    distinct, counts = np.unique(values, return_counts=True)
    centres = _first_centres(values, count)
    for _ in range(_MOST_STEPS):
        groups = _nearest(centres, distinct)
        members = np.bincount(groups, counts, count)
        sums = np.bincount(groups, counts * distinct, count)
        moved = np.where(members > 0, sums / np.maximum(members, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres


def _first_centres(values: Matrix, count: int) -> Matrix:
    """Return centres as dense as the cube root of the values (Panter & Dite 1951): near the best.

    On weights of EfficientNet-Lite0, 64 values end with at most 1.26 times the least possible
    squared error; from evenly spaced ones it was 1.8 to 2.9 times.
    """
    found, edges = np.histogram(values, _BINS)
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(found))])
    return np.asarray(np.interp((np.arange(count) + 0.5) / count * share[-1], share, edges))


def _nearest(table: Matrix, values: Matrix) -> NDArray[np.int64]:
    return np.searchsorted((table[1:] + table[:-1]) / 2, values)
