"""Training checkpoints in safetensors and JSON, from which a training resumes bit-equal.

A checkpoint is a folder named by its step, renamed into place when complete; older ones are
removed afterwards. A complete one exists at whatever moment the process is killed.
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
from msd_deploy.distillation.steps import Objective, StatefulObjective
from msd_deploy.errors import ArtifactError

_MODEL, _OPTIMIZER, _RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
_OBJECTIVE = "objective.safetensors"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training.

    Attributes:
        step: Optimizer steps done.
        epoch: Current epoch, from 0.
        batch: Batches of this epoch that are done.
        history_bytes: Length of history.jsonl at this step.
        best_metric: Best validation metric so far, mean of the plan's watched views; -1 at first.
        without_rise: Number of validations since then.
        kept_epoch: Epoch whose weights are kept, from 1.
        cooldown_from: First step of the cooldown of a training that stops early.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    history_bytes: int = 0
    best_metric: float = -1.0
    without_rise: int = 0
    kept_epoch: int = 0
    cooldown_from: int | None = None


def save_checkpoint(
    folder: Path,
    progress: Progress,
    *,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
) -> None:
    """Write a checkpoint below a folder and remove older ones; call it in all processes.

    Args:
        folder: Folder of one training's checkpoints.
        progress: Progress of the training.
        key: Digest of the training's settings; only a training of the same key resumes from it.
        model: Its parameters and buffers are saved.
        optimizer: Its state tensors are saved, by parameter name.
        objective: Its state is saved if it is a `StatefulObjective`.
    """
    random = _random_state()
    if process_group.is_main():
        _write(folder, progress, key, model, optimizer, objective, random)
    # Otherwise another process could exit first, and the launcher would end the main process too.
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
    """Restore the newest checkpoint below a folder, including the global random state.

    Returns:
        Progress of the training; None if there is no checkpoint.

    Raises:
        ArtifactError: The checkpoint is damaged, or belongs to a training with another key.
    """
    checkpoints = sorted(folder.glob("step-*")) if folder.is_dir() else []
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    manifest = read_manifest(newest, "checkpoint")
    if manifest.get("key") != key:
        raise ArtifactError(
            "belongs to a training with different settings or data",
            where=newest,
            fix="Use the original settings, or start again with --overwrite",
        )
    try:
        model.load_state_dict(load_file(newest / _MODEL))
        restore_moments(load_file(newest / _OPTIMIZER), model, optimizer)
        _restore_random_state(load_file(newest / _RANDOM))
        if isinstance(objective, StatefulObjective):
            objective.restore(load_file(newest / _OBJECTIVE))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"checkpoint cannot be restored ({error})",
            where=newest,
            fix="Start again with --overwrite",
        ) from error
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
    """Restore optimizer state from the result of `moments_of`.

    Raises:
        KeyError: The model lacks one of the parameters.
    """
    parameters = dict(model.named_parameters())
    for key, tensor in moments.items():
        name, _, entry = key.rpartition("|")
        # A copy: the tensor may be a view of the memory-mapped file.
        optimizer.state[parameters[name]][entry] = tensor.clone()


def _random_state() -> dict[str, Tensor]:
    """Return the states of torch's global generators, of the CPU and of every GPU.

    With several processes: those of every rank, where rank 0 has the names of a single process.
    """
    states = {"torch": torch.get_rng_state()}
    if process_group.world_size() > 1:
        gathered = process_group.all_gather(states["torch"][None])
        states = {_of_rank("torch", rank): state for rank, state in enumerate(gathered)}
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
    """Restore generators from the result of `_random_state`.

    States of GPUs or ranks that no longer exist are ignored; new ranks keep their initial state.
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
    progress = manifest.get("progress")
    if not isinstance(progress, dict):
        raise ArtifactError(
            "has no valid progress", where=where, fix="Start again with --overwrite"
        )
    return Progress(**progress)
