"""Cases of operations that move, select or make values."""

import numpy as np

from msd_deploy.quiet import quiet_python
from tests.export.coreml.mil.cases import IDS, LINES, Case, X, Y, normal, operation

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813

TENSORS = [
    operation("reshape", lambda x: x.reshape(1, 4, 15, 2), shape=[0, 4, -1, 2]),
    Case(
        "reshape to a computed shape",
        lambda x, y: mb.reshape(x=x, shape=mb.concat(values=(mb.shape(x=y), [-1]), axis=0)),
        (X, LINES[:, :1, :1]),
        lambda x, y: x.reshape(2, 1, 1, -1),
    ),
    operation("transpose", lambda x: x.transpose(0, 2, 3, 1), perm=[0, 2, 3, -3]),
    operation("expand_dims", lambda x: x[:, None, ..., None], LINES, axes=[1, -1]),
    operation("squeeze", lambda x: x[0], axes=[0]),
    operation("squeeze all", lambda x: x[0]),
    Case(
        "concat",
        lambda x, y: mb.concat(values=(x, y, X), axis=1),
        (X, Y),
        lambda x, y: np.concatenate([x, y, X], 1),
    ),
    Case(
        "concat interleaved",
        lambda x, y: mb.concat(values=(x, y), axis=-2, interleave=True),
        (X, Y),
        lambda x, y: np.stack([x, y], 3).reshape(1, 4, 10, 6),
    ),
    Case(
        "stack",
        lambda x, y: mb.stack(values=(x, y), axis=-1),
        (X, Y),
        lambda x, y: np.stack([x, y], -1),
    ),
    Case(
        "split evenly",
        lambda x: mb.split(x=x, num_splits=2, axis=1)[1],
        (X,),
        lambda x: x[:, 2:],
    ),
    Case(
        "split by sizes",
        lambda x: mb.split(x=x, split_sizes=[1, 3, 2], axis=-1)[1],
        (X,),
        lambda x: x[..., 1:4],
    ),
    operation(
        "slice_by_index",
        lambda x: x[:, 3:0:-2, -2, :],
        begin=[0, 3, -2, 5],
        end=[1, 0, 0, 1],
        stride=[1, -2, 1, 1],
        begin_mask=[False, False, False, True],
        end_mask=[False, False, False, True],
        squeeze_mask=[False, False, True, False],
    ),
    operation(
        "slice_by_size",
        lambda x: x[:, 1:3, 2:, :4],
        begin=[0, 1, 2, 0],
        size=[1, 2, -1, 4],
    ),
    Case(
        "gather",
        lambda x, y: mb.gather(x=x, indices=y, axis=1),
        (X, IDS - 1),
        lambda x, y: x[:, y],
    ),
    Case(
        "gather of batches",
        lambda x, y: mb.gather(x=x, indices=y, axis=2, batch_dims=1, validate_indices=True),
        (normal(2, 3, 4, 5), IDS),
        lambda x, y: np.stack([x[i][:, y[i]] for i in range(2)]),
        "iOS17",
    ),
    Case(
        "gather_along_axis",
        lambda x, y: mb.gather_along_axis(x=x, indices=y, axis=1),
        (LINES[:, 0], IDS - 1),
        lambda x, y: np.take_along_axis(x, y, 1),
    ),
    Case(
        "gather_nd",
        lambda x, y: mb.gather_nd(x=x, indices=y),
        (normal(4, 4, 4, 2), IDS),
        lambda x, y: x[tuple(y.T)],
    ),
    Case(
        "gather_nd of batches",
        lambda x, y: mb.gather_nd(x=x, indices=y, batch_dims=1),
        (normal(2, 4, 4, 5), np.array([[[1, 2]], [[0, 3]]], np.int32)),
        lambda x, y: np.stack([x[i][tuple(y[i].T)] for i in range(2)]),
    ),
    operation("tile", lambda x: np.tile(x, (2, 1, 3, 1)), reps=[2, 1, 3, 1]),
    Case("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=2.5), (X,), lambda x: 0 * x + 2.5),
    Case("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=2.5), (X,), lambda x: 0 * x + 2.5),
    operation(
        "pad with a constant",
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (3, 0)], constant_values=9),
        pad=[1, 2, 3, 0],
        mode="constant",
        constant_val=9.0,
    ),
    operation(
        "pad reflected",
        lambda x: np.pad(x, [(0, 0), (0, 0), (4, 2), (3, 0)], "reflect"),
        pad=[4, 2, 3, 0],
        mode="reflect",
    ),
    operation(
        "pad replicated",
        lambda x: np.pad(x, [(0, 0), (2, 1), (1, 2), (3, 0)], "edge"),
        pad=[0, 0, 2, 1, 1, 2, 3, 0],
        mode="replicate",
    ),
    operation("shape", lambda x: x.shape),
    Case(
        "range_1d",
        lambda x: mb.range_1d(start=1, end=mb.squeeze(x=x), step=2),
        (np.array([8], np.int32),),
        lambda x: np.arange(1, 8, 2),
    ),
]
