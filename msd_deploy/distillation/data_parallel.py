"""Data parallelism: each process's part of a batch, and one all-reduce per step.

A batch has the same rows for any number of processes, so that the steps of many processes are those
of one. It is split between images, into parts as equal as they allow. A batch of fewer images than
processes (the last of an epoch may be) is computed whole by each of them, with an equal share.

There is one all-reduce per step instead of DistributedDataParallel. A step on a single view leaves
some parameters without a gradient, which the optimizer must skip as it does in one process (DDP
would need find_unused_parameters and give it zeros); a step is several backward passes where its
rows are computed in parts; and the learned weighting calls the bare student functionally within the
step. The cost: DDP would overlap communication with the backward pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msd_deploy import process_group
from msd_deploy.data.batch import ImageGroupSampler
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.distillation.quantization_aware import ActivationFakeQuantize


def all_reduce_step(
    model: nn.Module, terms: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """All-reduce gradients, loss terms and statistics, so that all processes agree afterwards.

    Gradients are replaced by their sums, and stay None where no process has one. Running averages
    of BatchNorm are averaged by share; ranges of fake-quantized activations become the widest.

    Args:
        model: The trained model; its gradients are of this process's share of the loss.
        terms: This process's shares of the loss terms, scalars by name.
        share: This process's share of the rows, 0 to 1.

    Returns:
        The loss terms, summed.
    """
    if process_group.world_size() == 1:
        return dict(terms)
    parameters = [p for p in model.parameters() if p.requires_grad]
    averages = _running_averages(model)
    has_gradient = [float(p.grad is not None) for p in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flags = parameters[0].new_tensor(has_gradient)
    shares = [average * share for average in averages]
    pieces = [flags, *terms.values(), *shares, *gradients]
    with torch.no_grad():
        flat = process_group.all_reduce(torch.cat([piece.detach().flatten() for piece in pieces]))
        summed = iter(
            part.view_as(piece)
            for part, piece in zip(flat.split([p.numel() for p in pieces]), pieces, strict=True)
        )
        flags = next(summed)
        summed_terms = {name: next(summed).clone() for name in terms}
        for average in averages:
            average.copy_(next(summed))
        for parameter, flag in zip(parameters, flags.tolist(), strict=True):
            gradient = next(summed)
            parameter.grad = gradient if flag > 0 else None
    _widen_ranges(model)
    return summed_terms


def all_reduce_gradients(model: nn.Module) -> None:
    """Replace the gradients of a small network, none of them None, by their sums."""
    for parameter in model.parameters() if process_group.world_size() > 1 else ():
        assert parameter.grad is not None
        process_group.all_reduce(parameter.grad)


def broadcast_model(model: nn.Module) -> None:
    """Broadcast parameters and buffers from the main process."""
    if process_group.world_size() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with SyncBatchNorm in place of BatchNorm, on GPUs.

    On CPUs, where torch has none, statistics are of a process's own part of the batch. Modules are
    replaced in place; their names and tensors stay.
    """
    if process_group.world_size() > 1 and device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    return model


def _widen_ranges(model: nn.Module) -> None:
    roundings = [part for part in model.modules() if isinstance(part, ActivationFakeQuantize)]
    if roundings:
        ends = [end for part in roundings for end in (-part.low, part.high)]
        widest = iter(process_group.all_reduce_max(torch.stack(ends)))
        for part in roundings:
            part.low.copy_(-next(widest))
            part.high.copy_(next(widest))


def _running_averages(model: nn.Module) -> list[Tensor]:
    """Return the running averages of BatchNorm, which differ between processes."""
    return [
        average
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for average in (module.running_mean, module.running_var)
        if average is not None
    ]


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a batch.

    Attributes:
        rows: Its rows, positions in the split.
        total: Number of rows of all processes.
        smallest: Number of rows of the smallest part.
        of_rows: Share of all rows, 0 to 1: the weight of a mean over rows.
        of_labels: Share of all labelled rows; 0 if there are none.
    """

    rows: list[int]
    total: int
    smallest: int
    of_rows: float
    of_labels: float


class ShardedBatches(torch.utils.data.Sampler[list[int]]):
    """Batch sampler that yields this process's part of each batch.

    Args:
        batches: Sampler of the whole batches.
        split: The split that it samples from.
    """

    def __init__(self, batches: ImageGroupSampler, split: PreparedSplit) -> None:
        self._batches, self._image_index, self._has_label = (
            batches,
            split.image_index,
            split.has_label(),
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (share.rows for share in self.shares())

    def shares(self) -> Iterator[Share]:
        """Yield this process's share of each batch, in the order of the batches."""
        return (
            self.share_of(rows, process_group.rank(), process_group.world_size())
            for rows in self._batches
        )

    def share_of(self, rows: list[int], rank: int, count: int) -> Share:
        """Return the share of one of `count` processes in a batch."""
        parts = split_between_images(rows, self._image_index, count)
        if min(map(len, parts)) == 0:
            parts = [rows] * count
        labelled = [int(self._has_label[part].sum()) for part in parts]
        total = sum(map(len, parts))
        return Share(
            rows=parts[rank],
            total=total,
            smallest=min(map(len, parts)),
            of_rows=len(parts[rank]) / total,
            of_labels=labelled[rank] / max(1, sum(labelled)),
        )


def split_between_images(
    rows: list[int], image_index: NDArray[np.int64], count: int
) -> list[list[int]]:
    """Split a batch into parts in its order, no image in two of them; parts may be empty.

    Args:
        rows: The batch; rows with the same image are adjacent.
        image_index: int64 [rows of the split], the image of each; negative where it has none.
        count: Number of parts.
    """
    if count == 1:
        return [rows]
    images = image_index[rows]
    is_start = np.ones(len(rows), bool)
    is_start[1:] = (images[1:] != images[:-1]) | (images[1:] < 0)
    starts = np.append(np.flatnonzero(is_start), len(rows))
    ideal = np.arange(count + 1) * len(rows) / count
    cuts = starts[np.abs(starts[None, :] - ideal[:, None]).argmin(axis=1)]
    return [rows[start:end] for start, end in pairwise(cuts)]
