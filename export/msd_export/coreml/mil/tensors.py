"""Operations of MIL that move, select or make values without arithmetic, in torch.

Parameters have MIL's names and meanings (coremltools, converters/mil/mil/ops/defs). Tensors are
float32, int64 or bool; attributes are plain Python values, or int64 tensors where the program
computes them (shapes, begins, ends).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Integers = list[int] | Tensor


def _integers(value: Integers) -> list[int]:
    return [int(item) for item in value.tolist()] if isinstance(value, Tensor) else value


def reshape(x: Tensor, shape: Integers) -> Tensor:
    """Reshape; 0 keeps a dimension, -1 is inferred."""
    sizes = _integers(shape)
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(sizes)])


def transpose(x: Tensor, perm: list[int]) -> Tensor:
    """Permute the dimensions."""
    return x.permute(perm)


def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    """Insert dimensions of size 1 at the given axes of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Remove dimensions of size 1: the given ones, else all."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def concat(values: list[Tensor], axis: int, interleave: bool) -> Tensor:
    """Concatenate, one after the other or alternating."""
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def stack(values: list[Tensor], axis: int) -> Tensor:
    """Stack along a new dimension."""
    return torch.stack(values, axis)


def split(
    x: Tensor,
    axis: int,
    num_splits: int | None = None,
    split_sizes: list[int] | None = None,
) -> tuple[Tensor, ...]:
    """Split into the given sizes, else into num_splits equal parts."""
    if split_sizes is not None:
        return torch.split(x, split_sizes, axis)
    return torch.split(x, x.shape[axis] // (num_splits or 1), axis)


def slice_by_index(
    x: Tensor,
    begin: Integers,
    end: Integers,
    stride: list[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Tensor:
    """Slice as numpy does; a masked begin or end is open, a squeezed axis is indexed by begin."""
    none = [False] * x.ndim
    index: list[slice | int] = []
    for axis, (first, last, step, is_open_begin, is_open_end, is_squeezed) in enumerate(
        zip(
            _integers(begin),
            _integers(end),
            stride or [1] * x.ndim,
            begin_mask or none,
            end_mask or none,
            squeeze_mask or none,
            strict=True,
        )
    ):
        if is_squeezed:
            index.append(0 if is_open_begin else first)
            continue
        part = slice(None if is_open_begin else first, None if is_open_end else last, step)
        if step < 0:  # torch has no negative steps
            positions = range(*part.indices(x.shape[axis]))
            x, part = x.index_select(axis, torch.tensor(positions, dtype=torch.int64)), slice(None)
        index.append(part)
    return x[tuple(index)]


def slice_by_size(x: Tensor, begin: Integers, size: Integers) -> Tensor:
    """Take `size` elements from `begin` on; -1 takes the rest."""
    pairs = zip(_integers(begin), _integers(size), strict=True)
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in pairs)]


def _from_the_end(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def gather(
    x: Tensor,
    indices: Tensor,
    axis: int,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """Take slices along an axis: [*x[:axis], *indices[batch_dims:], *x[axis + 1:]].

    An index outside is an error whether or not validate_indices asks for it: Core ML leaves it
    undefined.
    """
    axis %= x.ndim
    indices = _from_the_end(indices, x.shape[axis])
    if batch_dims == 0:
        taken = x.index_select(axis, indices.reshape(-1))
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    batch = indices.shape[:batch_dims]
    rows = x.movedim(axis, batch_dims).flatten(0, batch_dims - 1)
    columns = indices.reshape(rows.shape[0], -1)
    taken = rows[torch.arange(rows.shape[0])[:, None], columns]
    taken = taken.reshape(*batch, *indices.shape[batch_dims:], *rows.shape[2:])
    new = range(indices.ndim - batch_dims)
    return taken.movedim([batch_dims + i for i in new], [axis + i for i in new])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: int, validate_indices: bool = False
) -> Tensor:
    """Take single elements along an axis; indices has x's rank."""
    return torch.take_along_dim(x, _from_the_end(indices, x.shape[axis]), axis)


def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """Take the slices that the last dimension of indices addresses."""
    batch = indices.shape[:batch_dims]
    leading = []
    for axis, size in enumerate(batch):  # each batch axis addresses itself
        shape = [size if other == axis else 1 for other in range(indices.ndim - 1)]
        leading.append(torch.arange(size).reshape(shape))
    return x[(*leading, *indices.unbind(-1))]


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Take from a where the condition holds, else from b."""
    return torch.where(cond, a, b)


def tile(x: Tensor, reps: Integers) -> Tensor:
    """Repeat each dimension."""
    return x.repeat(_integers(reps))


def fill(shape: Integers, value: Tensor) -> Tensor:
    """Make a tensor of one value."""
    return value.expand(_integers(shape))


def fill_like(ref_tensor: Tensor, value: Tensor) -> Tensor:
    """Make a tensor of one value in another's shape."""
    return value.expand(ref_tensor.shape)


def pad(x: Tensor, pad: Integers, mode: str, constant_val: float) -> Tensor:
    """Pad the last dimensions; `pad` holds before and after of each, in their order."""
    amounts = _integers(pad)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        last = x.shape[axis] - 1
        positions = torch.arange(-before, last + 1 + after)
        if mode == "reflect":
            positions = last - (last - positions.abs()).abs()
        x = x.index_select(axis, positions.clamp(0, last))
    return x


def shape(x: Tensor) -> Tensor:
    """Return the sizes as int64 [rank]."""
    return torch.tensor(x.shape, dtype=torch.int64)


def range_1d(end: float | Tensor, start: float | Tensor, step: float | Tensor) -> Tensor:
    """Count from start to end, end excluded."""
    return torch.arange(*(v.item() if isinstance(v, Tensor) else v for v in (start, end, step)))


def identity(x: Tensor) -> Tensor:
    """Return the input."""
    return x


def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type; floats are cut towards zero where an integer is asked for."""
    if dtype in ("fp16", "fp32"):
        return x.float()
    return x.bool() if dtype == "bool" else x.long()
