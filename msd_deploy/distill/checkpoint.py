"""Training checkpoints: safetensors and JSON, atomic, and enough to continue to the same bits.

A checkpoint is a folder named by its step, renamed into place when complete; older ones are
removed afterwards. At whatever moment a process dies, the newest whole one is found again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import read_manifest, write_manifest
from msd_deploy.distill.steps import Objective, StatefulObjective
from msd_deploy.errors import ArtifactError

_MODEL, _OPTIMIZER, _RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
_OBJECTIVE = "objective.safetensors"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come.

    Attributes:
        step: Optimizer steps done.
        epoch: The current pass over the data, from 0.
        batch: Batches of this pass that are done.
        history_bytes: Length of history.jsonl at this step.
        best_metric: Best validation metric of the passes done; -1 before the first.
        best_epoch: The pass, from 1, that it was measured after.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    history_bytes: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0


def save_checkpoint(
    folder: Path,
    progress: Progress,
    *,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
) -> None:
    """Write a checkpoint below a folder, then remove the older ones; all processes take part.

    Args:
        folder: Holds one training's checkpoints.
        progress: Where training stands.
        key: What the training is; a checkpoint of another key is not continued.
        model: Its parameters and buffers are saved.
        optimizer: Its state tensors are saved, by parameter name.
        objective: What it has learned is saved, if it learns.
    """
    random = _random_state()
    if process_group.is_main():
        _write(folder, progress, key, model, optimizer, objective, random)
    # The others may end now, and the launcher then ends the main process too.
    process_group.barrier()


def _write(
    folder: Path,
    progress: Progress,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    random: Mapping[str, Tensor],
) -> None:
    final = folder / f"step-{progress.step:09d}"
    if not final.exists():
        with new_folder(final) as building:
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(tensors, building / _MODEL)
            save_file(moments_of(model, optimizer), building / _OPTIMIZER)
            save_file(dict(random), building / _RANDOM)
            if isinstance(objective, StatefulObjective):
                save_file(objective.state_tensors(), building / _OBJECTIVE)
            write_manifest(building, "checkpoint", {"key": key, "progress": asdict(progress)})
    for other in folder.glob("step-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    *,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
) -> Progress | None:
    """Restore the newest whole checkpoint below a folder, the global random state included.

    Returns:
        Where training stood; None if there is no checkpoint.

    Raises:
        ArtifactError: It is damaged, or belongs to a training with another key.
    """
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not found:
        return None
    newest = found[-1]
    manifest = read_manifest(newest, "checkpoint")
    if manifest.get("key") != key:
        raise ArtifactError(
            "belongs to a training with other settings or data",
            where=newest,
            fix="Use the settings it was started with, or --overwrite to start anew",
        )
    try:
        model.load_state_dict(load_file(newest / _MODEL))
        restore_moments(load_file(newest / _OPTIMIZER), model, optimizer)
        _restore_random_state(load_file(newest / _RANDOM))
        if isinstance(objective, StatefulObjective):
            objective.restore(load_file(newest / _OBJECTIVE))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"checkpoint cannot be restored ({error})", where=newest) from error
    return _progress_of(manifest, newest)


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state tensors by parameter name and entry, as PARAMETER|ENTRY."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[parameter]}|{entry}": torch.as_tensor(value).contiguous()
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_moments(
    moments: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put `moments_of` back.

    Raises:
        KeyError: The model has no such parameter.
    """
    parameters = dict(model.named_parameters())
    for key, tensor in moments.items():
        name, _, entry = key.rpartition("|")
        optimizer.state[parameters[name]][entry] = tensor.clone()  # out of the mapped file


def _random_state() -> dict[str, Tensor]:
    """Return the states of torch's global generators: the processor's, and every GPU's.

    Of several processes: each one's, the main one's as if it were alone, and its own GPU's.
    """
    states = {"torch": torch.get_rng_state()}
    if process_group.world_size() > 1:
        everyone = process_group.all_gather(states["torch"][None])
        states = {_of_rank("torch", rank): state for rank, state in enumerate(everyone)}
        if torch.cuda.is_available():
            of_gpus = enumerate(process_group.all_gather(torch.cuda.get_rng_state()[None]))
            states |= {f"cuda:{rank}": state for rank, state in of_gpus}
    elif torch.cuda.is_available():
        of_gpus = enumerate(torch.cuda.get_rng_state_all())
        states |= {f"cuda:{index}": state for index, state in of_gpus}
    return states


def _of_rank(name: str, rank: int) -> str:
    return name if rank == 0 else f"{name}:{rank}"


def _restore_random_state(states: Mapping[str, Tensor]) -> None:
    """Put `_random_state` back; a GPU or a process that is not here any more is passed over.

    A process that was not there before keeps the state that it began with.
    """
    rank = process_group.rank()
    if (state := states.get(_of_rank("torch", rank))) is not None:
        torch.set_rng_state(state)
    if process_group.world_size() > 1:
        if torch.cuda.is_available() and (state := states.get(f"cuda:{rank}")) is not None:
            torch.cuda.set_rng_state(state)
        return
    for index in range(torch.cuda.device_count()):
        if (state := states.get(f"cuda:{index}")) is not None:
            torch.cuda.set_rng_state(state, index)


def _progress_of(manifest: Mapping[str, object], where: Path) -> Progress:
    stated = manifest.get("progress")
    if not isinstance(stated, dict):
        raise ArtifactError("states no progress", where=where)
    return Progress(**stated)
