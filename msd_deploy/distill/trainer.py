"""The training loop, in reading order, on Accelerate; teacher and student share it.

What differs between them is the objective: a function from model and batch to named loss terms.
Interrupted at any step, a training continues to bit-equal weights on the same machine.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msd_deploy.artifacts import new_file
from msd_deploy.data.batch import Batch, BatchDataset, ImageGroupSampler
from msd_deploy.data.prepared import PreparedData
from msd_deploy.distill.checkpoint import Progress, load_checkpoint, save_checkpoint
from msd_deploy.distill.history import History
from msd_deploy.distill.parts import parts_of
from msd_deploy.distill.plan import TrainingPlan, learning_rate_at
from msd_deploy.distill.steps import (
    DrawingObjective,
    Hooks,
    Objective,
    StepLoss,
    StepReport,
    ViewOutputs,
)
from msd_deploy.distill.tracking import Tracker, close_trackers, start_tracker, track
from msd_deploy.distill.weighting import weights_line
from msd_deploy.errors import MsdError, StoppedError
from msd_deploy.evaluation import metric_name, metric_of_logits, predict_views
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.views import View

_BETAS = (0.9, 0.98)
_GRADIENT_NORM = 1.0
_FASTEST = 1e-9
# A pass over a few rows is a few steps: validation after each would cost more than training.
_MOST_VALIDATIONS = 20


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
        used: bool [rows], which training rows are used; all if None.
        projection: Trained with the model for the objective's hint, kept in checkpoints alone.
        tracker: Is shown the history's lines.
    """

    model: ViewClassifier
    objective: Objective
    data: PreparedData
    plan: TrainingPlan
    checkpoints: Path
    history: History
    hooks: Hooks = field(default_factory=Hooks)
    used: NDArray[np.bool_] | None = None
    projection: nn.Linear | None = None
    tracker: Tracker | None = None


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
            train_split.image_index,
            batch_size=job.plan.batch_size,
            seed=job.plan.seed,
            used=job.used,
        )
        loader = DataLoader(
            BatchDataset(train_split),
            batch_sampler=self.sampler,
            collate_fn=lambda batch: batch,
            # Without one, each iterator draws from the global generator, and so would a resume.
            generator=torch.Generator(),
        )
        self.trained = ViewOutputs(job.model, job.projection)
        optimizer = torch.optim.AdamW(
            _parameter_groups(self.trained, job.model, job.plan), betas=_BETAS
        )
        self.accelerator = Accelerator(
            dataloader_config=DataLoaderConfiguration(even_batches=False),
            log_with=None if job.tracker is None else job.tracker.name,
            project_dir=None if job.tracker is None else job.tracker.folder,
        )
        self.views: ViewOutputs
        self.views, self.optimizer, self.loader = self.accelerator.prepare(
            self.trained, optimizer, loader
        )
        self.progress = Progress()
        self.steps, self.epochs = self._count_steps()
        self.metric: float | None = None
        self.saved_at = time.monotonic()

    def _count_steps(self) -> tuple[int, int]:
        """Return the steps and the passes in all; passes may differ in their number of batches."""
        wanted, total, epoch = self.plan.steps, 0, 0
        while epoch < self.plan.epochs if wanted is None else total < wanted:
            self.sampler.start_at(epoch)
            total, epoch = total + len(self.sampler), epoch + 1
        return total if wanted is None else wanted, epoch

    def run(self) -> None:
        self._resume()
        start_tracker(self.accelerator, self.job.tracker, self.job.history, self.plan.phase)
        try:
            while not self._is_done():
                self._run_epoch()
                self._end_epoch()
        finally:
            close_trackers(self.accelerator)
        if self.plan.keep_best:
            self.model.load_state_dict(load_file(self._best))
        nn.Module.eval(self.model)

    @property
    def _best(self) -> Path:
        return self.job.checkpoints / "best.safetensors"

    def _is_done(self) -> bool:
        progress, patience = self.progress, self.plan.patience
        has_stalled = patience is not None and progress.epoch - progress.best_epoch >= patience
        return progress.epoch >= self.epochs or has_stalled

    def _resume(self) -> None:
        progress = load_checkpoint(
            self.job.checkpoints,
            key=self.plan.key,
            model=self.trained,
            optimizer=self._bare_optimizer(),
            objective=self.job.objective,
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
            if self.progress.step == self.steps:
                break
            started = time.perf_counter()
            loss = self._step(batch)
            self.progress = replace(
                self.progress, step=self.progress.step + 1, batch=self.progress.batch + 1
            )
            self._report(loss, len(batch) / max(_FASTEST, time.perf_counter() - started))
            self._save_or_stop()

    def _step(self, batch: Batch) -> StepLoss:
        rate = learning_rate_at(self.progress.step, self.steps, self.plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        answer = self._backward(batch)
        self.accelerator.clip_grad_norm_(self.views.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        return answer

    def _backward(self, batch: Batch) -> StepLoss:
        """Add up the gradients of a batch's parts, each by its share of the rows."""
        objective = self.job.objective
        if isinstance(objective, DrawingObjective):
            objective = objective.drawn()
        terms: dict[str, Tensor] = {}
        answer = StepLoss(terms, {})
        for part in parts_of(batch, self.plan.parts):
            with self._precision():
                answer = objective(self.views, part)
            share = len(part) / len(batch)
            for name, term in answer.terms.items():
                terms[name] = terms.get(name, 0.0) + share * term.detach()
            loss = torch.stack(list(answer.terms.values())).sum()
            self._check_finite(loss)
            self.accelerator.backward(share * loss)
        return StepLoss(terms, answer.weights)

    def _precision(self) -> torch.autocast:
        device, is_lower = self.accelerator.device.type, self.plan.precision == "bf16"
        return torch.autocast(device, torch.bfloat16, enabled=is_lower)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise MsdError(
                f"the {self.plan.phase}'s loss is {loss.item()} at step {self.progress.step + 1}",
                fix=f"Lower {self.plan.phase} learning rate (now {self.plan.learning_rate:g})",
            )

    def _report(self, loss: StepLoss, examples_per_second: float) -> None:
        progress, plan = self.progress, self.plan
        terms = {name: term.item() for name, term in loss.terms.items()}
        if progress.step % plan.log_every == 0 or progress.step == self.steps:
            self._log(
                {
                    "phase": plan.phase,
                    "step": progress.step,
                    "epoch": progress.epoch + 1,
                    "learning_rate": learning_rate_at(progress.step - 1, self.steps, plan),
                    "loss": sum(terms.values()),
                    "terms": terms,
                    **weights_line(loss.weights),
                }
            )
        self.job.hooks.on_step(
            StepReport(
                plan.phase,
                progress.step,
                self.steps,
                progress.epoch + 1,
                self.epochs,
                terms,
                examples_per_second,
                self.metric,
            )
        )

    def _log(self, line: Mapping[str, object]) -> None:
        self.job.history.append(line)
        track(self.accelerator, line)

    def _end_epoch(self) -> None:
        epoch = self.progress.epoch + 1
        if epoch % max(1, self.epochs // _MOST_VALIDATIONS) == 0 or epoch == self.epochs:
            self._validate(epoch)
        self.progress = replace(self.progress, epoch=epoch, batch=0)

    def _validate(self, epoch: int) -> None:
        split, problem = self.job.data.splits["validation"], self.job.data.problem
        logits = predict_views(self.model, split)
        metrics = {v: metric_of_logits(logits[v], split.labels, problem) for v in View}
        self.metric = metrics[View.MULTIMODAL]
        self._log(
            {
                "phase": self.plan.phase,
                "step": self.progress.step,
                "epoch": epoch,
                "split": "validation",
                metric_name(problem): {view.value: value for view, value in metrics.items()},
            }
        )
        if self.metric > self.progress.best_metric:
            self.progress = replace(self.progress, best_metric=self.metric, best_epoch=epoch)
            if self.plan.keep_best:
                self._save_best()

    def _save_best(self) -> None:
        """Keep the weights; a resume from before comes to the same and rewrites them."""
        with new_file(self._best) as building:
            save_file({n: t.contiguous() for n, t in self.model.state_dict().items()}, building)

    def _save_or_stop(self) -> None:
        must_stop = self.job.hooks.should_stop()
        if must_stop or time.monotonic() - self.saved_at >= self.plan.checkpoint_seconds:
            self.job.checkpoints.mkdir(parents=True, exist_ok=True)
            save_checkpoint(
                self.job.checkpoints,
                replace(self.progress, history_bytes=self.job.history.size_bytes()),
                key=self.plan.key,
                model=self.trained,
                optimizer=self._bare_optimizer(),
                objective=self.job.objective,
            )
            self.saved_at = time.monotonic()
        if must_stop:
            raise StoppedError(
                f"stopped at step {self.progress.step} of {self.steps} of the {self.plan.phase}'s"
                " training; a checkpoint is saved",
            )

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, getattr(self.optimizer, "optimizer", self.optimizer))


def _parameter_groups(
    trained: nn.Module, model: ViewClassifier, plan: TrainingPlan
) -> list[dict[str, object]]:
    """Split those that learn: weight decay for matrices and filters, a rate for pretrained ones."""
    embeddings = {id(part.weight) for part in trained.modules() if isinstance(part, nn.Embedding)}
    pretrained = {id(p) for name, p in model.named_parameters() if name in model.pretrained}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(True, False): [], (False, False): []}
    for parameter in filter(lambda parameter: parameter.requires_grad, trained.parameters()):
        is_decayed = parameter.dim() > 1 and id(parameter) not in embeddings
        groups.setdefault((is_decayed, id(parameter) in pretrained), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": plan.learning_rate,
            "share": plan.pretrained_rate if is_pretrained else 1.0,
            "weight_decay": plan.weight_decay if is_decayed else 0.0,
        }
        for (is_decayed, is_pretrained), parameters in groups.items()
    ]
