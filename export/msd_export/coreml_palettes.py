"""Palettize a weight: a table of 16 or 64 values, and for each weight the index of one.

The table is found by k-means. Where the layer's inputs are known, each column of the weight is
looked up in turn, and what its rounding does to the layer's output is taken back by the columns
that follow (GPTQ, Frantar et al. 2023, algorithm 1; here with a table for a grid, and without its
blocks, which only save memory traffic). Measured on a student with a pretrained EfficientNet-Lite0:
docs/export.md.
"""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_DAMPING = 0.01
"""Share of the mean second moment that is added to each: GPTQ's own; without it, inputs that never
vary leave the matrix singular."""

_MOST_STEPS, _BINS = 1000, 1024


def palettize(
    weight: NDArray[np.generic], bits: int, moments: Matrix | None = None
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return a table, [2 ** bits], and indices in the weight's shape.

    Args:
        weight: [outputs, ...].
        bits: Of an index.
        moments: Second moments of the layer's inputs, [inputs, inputs]; None: each weight is the
            nearest value of the table.
    """
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    table = np.sort(_centres(matrix.ravel(), 2**bits).astype(np.float16))
    values = table.astype(np.float64)
    indices = _nearest(values, matrix) if moments is None else _compensated(values, matrix, moments)
    return table, indices.reshape(weight.shape).astype(np.uint8)


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


def _compensated(table: Matrix, matrix: Matrix, moments: Matrix) -> NDArray[np.int64]:
    """Look columns up, those of the strongest inputs first; spread each error over the rest."""
    order = np.argsort(-np.diag(moments), kind="stable")
    damping = _DAMPING * np.mean(np.diag(moments)) or 1.0
    damped = moments[np.ix_(order, order)] + damping * np.eye(len(moments))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest = matrix[:, order]
    indices = np.empty(matrix.shape, np.int64)
    for column in range(matrix.shape[1]):
        found = _nearest(table, rest[:, column])
        error = (rest[:, column] - table[found]) / upper[column, column]
        rest[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
        indices[:, order[column]] = found
    return indices
