from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from msd_deploy.data.batch import Batch
from msd_deploy.distillation.checkpoint import Progress, load_checkpoint, save_checkpoint
from msd_deploy.distillation.steps import MultiViewModel, StepLoss


def no_objective(model: MultiViewModel, batch: Batch) -> StepLoss:
    raise AssertionError


def test_the_random_state_of_every_gpu_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two GPUs that are not here: the second one is gone when the training is continued."""
    states = [torch.arange(16, dtype=torch.uint8), torch.arange(16, 32, dtype=torch.uint8)]
    restored: dict[int, Tensor] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, index: restored.update({index: state})
    )
    model = nn.Linear(2, 2)
    parts = {
        "key": "",
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters()),
        "objective": no_objective,
    }
    torch.manual_seed(5)
    save_checkpoint(tmp_path, Progress(step=3), **parts)  # type: ignore[arg-type]
    expected = torch.rand(4)
    assert load_checkpoint(tmp_path, **parts) == Progress(step=3)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(4), expected)
    assert list(restored) == [0]
    assert torch.equal(restored[0], states[0])
