"""What processes tell one another in a step: gradients, loss terms, BatchNorm's averages, ranges.

One all-reduce of our own instead of DistributedDataParallel. A step on a single view leaves other
parameters without a gradient, which the optimizer must then pass over as it does in one process
(DDP would need find_unused_parameters, and hand it zeros); a step is several backward passes where
its rows are computed in parts; and learned weights call the bare student functionally, within the
step. What is given up is that DDP sends gradients while the rest is still being computed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msd_deploy import processes
from msd_deploy.distill.quantization_aware import ActivationRounding


def add_up_step(model: nn.Module, terms: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Add up what the processes computed of a step; all models and answers are equal afterwards.

    Gradients are replaced by their sums, and stay None where no process has one. The running
    averages of BatchNorm become their means by share, the ranges of rounded activations the widest.

    Args:
        model: What is trained; its gradients are of this process's share of the loss.
        terms: This process's shares of the loss terms, scalars by name.
        share: Of the rows, 0 to 1.

    Returns:
        The loss terms.
    """
    if processes.count() == 1:
        return dict(terms)
    parameters = [p for p in model.parameters() if p.requires_grad]
    averages = _running_averages(model)
    has_gradient = [float(p.grad is not None) for p in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flags = parameters[0].new_tensor(has_gradient)
    shares = [average * share for average in averages]
    pieces = [flags, *terms.values(), *shares, *gradients]
    with torch.no_grad():
        flat = processes.add_up(torch.cat([piece.detach().flatten() for piece in pieces]))
        summed = iter(
            part.view_as(piece)
            for part, piece in zip(flat.split([p.numel() for p in pieces]), pieces, strict=True)
        )
        flags = next(summed)
        answer = {name: next(summed).clone() for name in terms}
        for average in averages:
            average.copy_(next(summed))
        for parameter, flag in zip(parameters, flags.tolist(), strict=True):
            gradient = next(summed)
            parameter.grad = gradient if flag > 0 else None
    _widen_ranges(model)
    return answer


def add_up_gradients(model: nn.Module) -> None:
    """Replace the gradients of a small network, all of them there, by their sums."""
    for parameter in model.parameters() if processes.count() > 1 else ():
        assert parameter.grad is not None
        processes.add_up(parameter.grad)


def start_equal(model: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if processes.count() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)


def with_common_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a model whose BatchNorm sees the whole batch, where torch can do that: on GPUs.

    Elsewhere its statistics are of a process's own part of the batch. Modules are replaced in
    place; their names and tensors stay.
    """
    if processes.count() > 1 and device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    return model


def _widen_ranges(model: nn.Module) -> None:
    roundings = [part for part in model.modules() if isinstance(part, ActivationRounding)]
    if roundings:
        ends = [end for part in roundings for end in (-part.low, part.high)]
        widest = iter(processes.largest(torch.stack(ends)))
        for part in roundings:
            part.low.copy_(-next(widest))
            part.high.copy_(next(widest))


def _running_averages(model: nn.Module) -> list[Tensor]:
    """Return the averages that differ between processes."""
    return [
        average
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for average in (module.running_mean, module.running_var)
        if average is not None
    ]
