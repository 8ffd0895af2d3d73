"""The training loop, in reading order, on Accelerate; teacher and student share it.

What differs between them is the objective: a function from model and batch to named loss terms.
Interrupted at any step, a training continues to bit-equal weights on the same machine.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msd_deploy.artifacts import sha256_of_json
from msd_deploy.data.batch import Batch, BatchDataset, ImageGroupSampler
from msd_deploy.data.prepared import PreparedData
from msd_deploy.distill.checkpoint import Progress, load_checkpoint, save_checkpoint
from msd_deploy.distill.history import History
from msd_deploy.errors import MsdError, StoppedError
from msd_deploy.evaluation import metric_name, predict_views, score_views
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View

_BETAS = (0.9, 0.98)
_GRADIENT_NORM = 1.0
_FASTEST = 1e-9


class ViewLogits(nn.Module):
    """A model whose forward answers for several views, as data parallelism needs it.

    Args:
        model: The model.
    """

    def __init__(self, model: FusionForClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, views: tuple[View, ...]) -> dict[View, Tensor]:
        """Return logits [batch, classes] of each view."""
        return self.model.logits_by_view(batch, views)


class Objective(Protocol):
    """What a training minimises."""

    def __call__(self, model: ViewLogits, batch: Batch) -> dict[str, Tensor]:
        """Return scalar loss terms by name; their sum is the loss."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how fast.

    Attributes:
        phase: "teacher" or "student": names checkpoints and lines of the history.
        epochs: Passes over the training split.
        batch_size: Rows a step, at least.
        learning_rate: Peak.
        weight_decay: Of weight matrices; biases, norms and embeddings have none.
        warmup_share: Share of the steps over which the learning rate rises linearly.
        seed: Of the order.
        log_every: Steps between two lines of the history.
        checkpoint_seconds: Least time between two checkpoints.
        key: Digest of all that decides the result; a checkpoint of another key is refused.
    """

    phase: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    seed: int
    log_every: int
    checkpoint_seconds: float
    key: str


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress display shows of a step.

    Attributes:
        phase: "teacher" or "student".
        step: Steps done, from 1.
        steps: Steps in all.
        epoch: Current pass, from 1.
        epochs: Passes in all.
        terms: Loss terms by name, already weighted.
        examples_per_second: Rows trained on per second of this process, smoothed by the caller.
        metric: The last validation value, 0 to 1; None before the first.
    """

    phase: str
    step: int
    steps: int
    epoch: int
    epochs: int
    terms: Mapping[str, float]
    examples_per_second: float
    metric: float | None


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a caller watches and stops a training.

    Attributes:
        on_step: Called after each step.
        should_stop: Asked after each step; true saves a checkpoint and raises StoppedError.
    """

    on_step: Callable[[StepReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


def epochs_for_steps(rows: int, batch_size: int, steps: int) -> int:
    """Return the number of passes that make about this many steps, at least 5."""
    return max(5, round(steps / max(1, math.ceil(rows / batch_size))))


def learning_rate_at(step: int, steps: int, plan: TrainingPlan) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine to 0."""
    warmup = max(1, round(plan.warmup_share * steps))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What is trained, on what, and where its traces go.

    Attributes:
        model: Trained in place.
        objective: The loss.
        data: Trains on its train split, measures on validation after each pass.
        plan: Length and speed.
        checkpoints: Folder of this training's checkpoints.
        history: Gets a line per `log_every` steps and per pass.
        hooks: Progress and stopping.
    """

    model: FusionForClassification
    objective: Objective
    data: PreparedData
    plan: TrainingPlan
    checkpoints: Path
    history: History
    hooks: Hooks = field(default_factory=Hooks)


def train(job: TrainingJob) -> None:
    """Train a model, continuing from the newest checkpoint if there is one; it ends in eval mode.

    Raises:
        StoppedError: job.hooks.should_stop said so; a checkpoint is saved.
        ArtifactError: The checkpoint belongs to another training.
        MsdError: The loss became NaN or infinite.
    """
    _Training(job).run()


class _Training:
    def __init__(self, job: TrainingJob) -> None:
        self.job, self.model, self.plan = job, job.model, job.plan
        train_split = job.data.splits["train"]
        self.sampler = ImageGroupSampler(
            train_split.image_index, batch_size=job.plan.batch_size, seed=job.plan.seed
        )
        loader = DataLoader(
            BatchDataset(train_split),
            batch_sampler=self.sampler,
            collate_fn=lambda batch: batch,
            # Without one, each iterator draws from the global generator, and so would a resume.
            generator=torch.Generator(),
        )
        optimizer = torch.optim.AdamW(_parameter_groups(job.model, job.plan), betas=_BETAS)
        self.accelerator = Accelerator(
            dataloader_config=DataLoaderConfiguration(even_batches=False)
        )
        self.views: ViewLogits
        self.views, self.optimizer, self.loader = self.accelerator.prepare(
            ViewLogits(job.model), optimizer, loader
        )
        self.progress = Progress()
        self.steps = self._count_steps()
        self.metric: float | None = None
        self.saved_at = time.monotonic()

    def _count_steps(self) -> int:
        total = 0
        for epoch in range(self.plan.epochs):
            self.sampler.start_at(epoch)
            total += len(self.sampler)
        return total

    def run(self) -> None:
        self._resume()
        while self.progress.epoch < self.plan.epochs:
            self._run_epoch()
            self._end_epoch()
        nn.Module.eval(self.model)

    def _resume(self) -> None:
        progress = load_checkpoint(
            self.job.checkpoints,
            key=self.plan.key,
            model=self.model,
            optimizer=self._bare_optimizer(),
        )
        if progress is None:
            self.job.history.cut_before(self.plan.phase)
        else:
            self.progress = progress
            self.job.history.cut_to(progress.history_bytes)

    def _run_epoch(self) -> None:
        self.model.train()
        self.sampler.start_at(self.progress.epoch, skip_batches=self.progress.batch)
        if len(self.sampler) == 0:
            return
        for batch in self.loader:
            started = time.perf_counter()
            terms = self._step(batch)
            self.progress = replace(
                self.progress, step=self.progress.step + 1, batch=self.progress.batch + 1
            )
            self._report(terms, len(batch) / max(_FASTEST, time.perf_counter() - started))
            self._save_or_stop()

    def _step(self, batch: Batch) -> dict[str, float]:
        rate = learning_rate_at(self.progress.step, self.steps, self.plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self.job.objective(self.views, batch)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise MsdError(
                f"the {self.plan.phase}'s loss is {loss.item()} at step {self.progress.step + 1}",
                fix=f"Lower {self.plan.phase} learning rate (now {self.plan.learning_rate:g})",
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.views.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        return {name: term.item() for name, term in terms.items()}

    def _report(self, terms: dict[str, float], examples_per_second: float) -> None:
        progress, plan = self.progress, self.plan
        if progress.step % plan.log_every == 0 or progress.step == self.steps:
            self.job.history.append(
                {
                    "phase": plan.phase,
                    "step": progress.step,
                    "epoch": progress.epoch + 1,
                    "learning_rate": learning_rate_at(progress.step - 1, self.steps, plan),
                    "loss": sum(terms.values()),
                    "terms": terms,
                }
            )
        self.job.hooks.on_step(
            StepReport(
                plan.phase,
                progress.step,
                self.steps,
                progress.epoch + 1,
                plan.epochs,
                terms,
                examples_per_second,
                self.metric,
            )
        )

    def _end_epoch(self) -> None:
        split, problem = self.job.data.splits["validation"], self.job.data.problem
        scores = score_views(predict_views(self.model, split), split.labels, problem)
        self.metric = scores[View.MULTIMODAL].value
        self.job.history.append(
            {
                "phase": self.plan.phase,
                "step": self.progress.step,
                "epoch": self.progress.epoch + 1,
                "split": "validation",
                metric_name(problem): {view.value: score.value for view, score in scores.items()},
            }
        )
        self.progress = replace(self.progress, epoch=self.progress.epoch + 1, batch=0)

    def _save_or_stop(self) -> None:
        must_stop = self.job.hooks.should_stop()
        if must_stop or time.monotonic() - self.saved_at >= self.plan.checkpoint_seconds:
            self.job.checkpoints.mkdir(parents=True, exist_ok=True)
            save_checkpoint(
                self.job.checkpoints,
                replace(self.progress, history_bytes=self.job.history.size_bytes()),
                key=self.plan.key,
                model=self.model,
                optimizer=self._bare_optimizer(),
            )
            self.saved_at = time.monotonic()
        if must_stop:
            raise StoppedError(
                f"stopped at step {self.progress.step} of {self.steps} of the {self.plan.phase}'s"
                " training; a checkpoint is saved",
                fix="Continue with `msd distill --resume --out` and the run's folder",
            )

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, getattr(self.optimizer, "optimizer", self.optimizer))


def _parameter_groups(model: nn.Module, plan: TrainingPlan) -> list[dict[str, object]]:
    """Split parameters: weight decay for matrices and filters, none for the rest."""
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_decayed = parameter.dim() > 1 and id(parameter) not in embeddings
        (decayed if is_decayed else free).append(parameter)
    return [
        {"params": decayed, "lr": plan.learning_rate, "weight_decay": plan.weight_decay},
        {"params": free, "lr": plan.learning_rate, "weight_decay": 0.0},
    ]


def plan_key(*parts: object) -> str:
    """Return the digest that tells one training from another."""
    return sha256_of_json(parts)
