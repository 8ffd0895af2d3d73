"""The training loop of teachers and students, on Accelerate.

They differ in the objective, a function from model and batch to named loss terms. Interrupted at
any step, a training resumes to bit-equal weights on the same machine. Under `accelerate launch`
each process computes its part of every batch, and gradients are all-reduced before the optimizer
steps (`data_parallel`).
"""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import new_file
from msd_deploy.data.augment.batches import Augmentation
from msd_deploy.data.batch import Batch, BatchDataset, ImageGroupSampler, parts_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.distillation.checkpoint import Progress, load_checkpoint, save_checkpoint
from msd_deploy.distillation.data_parallel import (
    ShardedBatches,
    Share,
    all_reduce_step,
    broadcast_model,
    synchronize_batch_norm,
)
from msd_deploy.distillation.history import History, Tracker, close_trackers, start_tracker, track
from msd_deploy.distillation.losses import LABELS_TERM
from msd_deploy.distillation.plan import (
    TrainingPlan,
    TrainingResult,
    epochs_per_validation,
    is_no_worse,
    last_step,
    learning_rate_at,
)
from msd_deploy.distillation.steps import MultiViewModel, Objective, StepLoss, StochasticObjective
from msd_deploy.distillation.weighting import weight_statistics
from msd_deploy.errors import MsdError, StoppedError
from msd_deploy.hooks import Hooks, StepReport
from msd_deploy.metrics import metric_name, metric_value
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.predict import predict_views
from msd_deploy.views import View

_BETAS = (0.9, 0.98)
_GRADIENT_NORM = 1.0
_MIN_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Inputs and outputs of one training.

    Attributes:
        model: The model, trained in place.
        objective: The loss.
        data: The data: its train split, and its validation split for the metric of each epoch.
        plan: Schedule and optimizer settings.
        checkpoints: Folder of this training's checkpoints.
        history: Log, with a line per `log_every` steps and per validation.
        hooks: Progress and stopping.
        used: bool [rows], the training rows that are used; None for all.
        projection: Linear map of the hint loss, trained with the model; saved only in checkpoints.
        tracker: Experiment tracker.
        augment: Augmentation of training batches.
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
    augment: Augmentation | None = None


def train(job: TrainingJob) -> TrainingResult:
    """Train a model, from the newest checkpoint if there is one; it ends in eval mode.

    Returns:
        How it ended.

    Raises:
        StoppedError: job.hooks.should_stop returned true; a checkpoint is saved.
        ArtifactError: The checkpoint belongs to another training.
        MsdError: The loss became NaN or infinite.
    """
    return _Training(job).run()


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
        self.shards = ShardedBatches(self.sampler, train_split)
        self.loader = DataLoader(
            BatchDataset(train_split),
            batch_sampler=self.shards,
            collate_fn=lambda batch: batch,
            # Without one, each iterator, also of a resumed training, advances the global generator.
            generator=torch.Generator(),
        )
        process_group.begin()
        # plan.precision alone selects bfloat16, whatever the launcher's --mixed_precision.
        self.accelerator = Accelerator(
            mixed_precision="no",
            log_with=None if job.tracker is None else job.tracker.name,
            project_dir=None if job.tracker is None else job.tracker.folder,
        )
        self.views = MultiViewModel(job.model, job.projection).to(self.accelerator.device)
        synchronize_batch_norm(self.views, self.accelerator.device)
        groups = _parameter_groups(self.views, job.model, job.plan)
        self.optimizer = torch.optim.AdamW(groups, betas=_BETAS)
        if process_group.rank() > 0:  # dropout differs between processes
            torch.manual_seed(job.plan.seed + process_group.rank())
        self.progress = Progress()
        self.steps, self.epochs = self._count_steps()
        self.metric: float | None = None
        self.saved_at = time.monotonic()

    def _count_steps(self) -> tuple[int, int]:
        """Return the total of steps and epochs; epochs may differ in their number of batches."""
        requested, total, epoch = self.plan.steps, 0, 0
        while epoch < self.plan.epochs if requested is None else total < requested:
            self.sampler.start_at(epoch)
            total, epoch = total + len(self.sampler), epoch + 1
        return total if requested is None else requested, epoch

    def run(self) -> TrainingResult:
        self._resume()
        broadcast_model(self.views)
        if process_group.is_main():
            start_tracker(self.accelerator, self.job.tracker, self.job.history, self.plan.phase)
        try:
            while not self._is_done():
                self._run_epoch()
                self._end_epoch()
        finally:
            close_trackers(self.accelerator)
        if self.plan.keep != "last":
            process_group.barrier()
            self.model.load_state_dict(load_file(self._kept))
        nn.Module.eval(self.model)
        epoch = self.progress.epoch
        kept_epoch = epoch if self.plan.keep == "last" else self.progress.kept_epoch
        return TrainingResult(epoch, self.epochs, kept_epoch)

    @property
    def _kept(self) -> Path:
        return self.job.checkpoints / "kept.safetensors"

    @property
    def _last_step(self) -> int:
        return last_step(self.steps, self.progress.cooldown_from)

    def _is_done(self) -> bool:
        progress = self.progress
        has_ended_early = progress.batch == 0 and progress.step >= self._last_step
        return progress.epoch >= self.epochs or has_ended_early

    def _resume(self) -> None:
        progress = load_checkpoint(
            self.job.checkpoints,
            key=self.plan.key,
            model=self.views,
            optimizer=self.optimizer,
            objective=self.job.objective,
        )
        self.progress = progress or self.progress
        if not process_group.is_main():
            return
        if progress is None:
            self.job.history.cut_before(self.plan.phase)
        else:
            self.job.history.cut_to(progress.history_bytes)

    def _run_epoch(self) -> None:
        self.model.train()
        self.sampler.start_at(self.progress.epoch, skip_batches=self.progress.batch)
        if len(self.sampler) == 0:
            return
        for share, batch in zip(self.shards.shares(), self.loader, strict=True):
            if self.progress.step == self._last_step:
                break
            started = time.perf_counter()
            loss = self._step(batch.to(self.accelerator.device), share)
            self.progress = replace(
                self.progress, step=self.progress.step + 1, batch=self.progress.batch + 1
            )
            self._report(loss, share.total / max(_MIN_SECONDS, time.perf_counter() - started))
            self._save_or_stop()

    def _step(self, batch: Batch, share: Share) -> StepLoss:
        rate = self._learning_rate_at(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        if self.job.augment is not None:
            batch = self.job.augment(batch, self.progress.epoch)
        loss = self._backward(batch, share)
        terms = all_reduce_step(self.views, loss.terms, share.of_rows)
        self.accelerator.clip_grad_norm_(self.views.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        return StepLoss(terms, loss.weights)

    def _learning_rate_at(self, step: int) -> float:
        first = self.progress.cooldown_from
        return learning_rate_at(step, self.steps, self.plan, cooldown_from=first)

    def _backward(self, batch: Batch, share: Share) -> StepLoss:
        """Accumulate the gradients of a batch's parts, each weighted by its share of the rows."""
        objective = self.job.objective
        if isinstance(objective, StochasticObjective):
            objective = objective.draw(self.progress.step / self.steps)
        terms: dict[str, Tensor] = {}
        loss = StepLoss(terms, {})
        device, is_lower = self.accelerator.device.type, self.plan.precision == "bf16"
        # As many parts in every process, since SyncBatchNorm synchronizes in each.
        for part in parts_of(batch, min(self.plan.parts, share.smallest)):
            with torch.autocast(device, torch.bfloat16, enabled=is_lower):
                loss = objective(self.views, part)
            of_part = len(part) / len(batch)
            shares = {
                name: of_part * (share.of_labels if name == LABELS_TERM else share.of_rows) * term
                for name, term in loss.terms.items()
            }
            for name, term in shares.items():
                terms[name] = terms.get(name, 0.0) + term.detach()
            self._check_finite(torch.stack(list(loss.terms.values())).sum())
            self.accelerator.backward(torch.stack(list(shares.values())).sum())
        return StepLoss(terms, loss.weights)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise MsdError(
                f"the {self.plan.phase}'s loss is {loss.item()} at step {self.progress.step + 1}",
                fix=f"Lower the {self.plan.phase}'s learning rate (now"
                f" {self.plan.learning_rate:g})",
            )

    def _report(self, loss: StepLoss, examples_per_second: float) -> None:
        progress, plan = self.progress, self.plan
        terms = {name: term.item() for name, term in loss.terms.items()}
        if progress.step % plan.log_every == 0 or progress.step == self._last_step:
            weights = {
                view: process_group.all_gather(values) for view, values in loss.weights.items()
            }
            self._log(
                {
                    "phase": plan.phase,
                    "step": progress.step,
                    "epoch": progress.epoch + 1,
                    "learning_rate": self._learning_rate_at(progress.step - 1),
                    "loss": sum(terms.values()),
                    "terms": terms,
                    **weight_statistics(weights),
                }
            )
        self.job.hooks.on_step(
            StepReport(
                plan.phase,
                progress.step,
                self._last_step,
                progress.epoch + 1,
                self.epochs,
                terms,
                examples_per_second,
                self.metric,
            )
        )

    def _log(self, line: Mapping[str, object]) -> None:
        if process_group.is_main():
            self.job.history.append(line)
            track(self.accelerator, line)

    def _end_epoch(self) -> None:
        self.progress = replace(self.progress, epoch=self.progress.epoch + 1, batch=0)
        is_due = self.progress.epoch % epochs_per_validation(self.epochs) == 0
        if is_due or self._is_done():
            self._validate(self.progress.epoch)

    def _validate(self, epoch: int) -> None:
        split, problem = self.job.data.splits["validation"], self.job.data.info.problem
        if not split.has_label().any():
            return
        logits = predict_views(self.model, split)
        metrics = {v: metric_value(logits[v], split.labels, problem) for v in View}
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
        watched = statistics.fmean(metrics[view] for view in self.plan.watched)
        self._keep_if_good(epoch, watched, len(split))
        self._stop_if_stalled(watched)

    def _keep_if_good(self, epoch: int, metric: float, examples: int) -> None:
        """Write the weights if they are those to keep so far."""
        best, keep = self.progress.best_metric, self.plan.keep
        is_good = metric > best or (keep == "one-se" and is_no_worse(metric, best, examples))
        if keep == "last" or not is_good:
            return
        self.progress = replace(self.progress, kept_epoch=epoch)
        if process_group.is_main():
            # A training resumed from an earlier checkpoint writes the same weights again.
            weights = {n: t.contiguous() for n, t in self.model.state_dict().items()}
            with new_file(self._kept) as building:
                save_file(weights, building)

    def _stop_if_stalled(self, metric: float) -> None:
        """Note the best metric, and begin the cooldown if it has not risen for long enough."""
        progress, patience = self.progress, self.plan.patience
        has_risen = metric > progress.best_metric
        without_rise = 0 if has_risen else progress.without_rise + 1
        has_stalled = 0 < patience <= without_rise and progress.cooldown_from is None
        self.progress = replace(
            progress,
            best_metric=max(metric, progress.best_metric),
            without_rise=without_rise,
            cooldown_from=progress.step if has_stalled else progress.cooldown_from,
        )

    def _save_or_stop(self) -> None:
        is_due = time.monotonic() - self.saved_at >= self.plan.checkpoint_seconds
        must_stop, is_due = process_group.any_process(self.job.hooks.should_stop(), is_due)
        if must_stop or is_due:
            self.job.checkpoints.mkdir(parents=True, exist_ok=True)
            save_checkpoint(
                self.job.checkpoints,
                replace(self.progress, history_bytes=self.job.history.size_bytes()),
                key=self.plan.key,
                model=self.views,
                optimizer=self.optimizer,
                objective=self.job.objective,
            )
            self.saved_at = time.monotonic()
        if must_stop:
            raise StoppedError(
                f"{self.plan.phase} training stopped at step {self.progress.step} of"
                f" {self._last_step}; a checkpoint is saved",
            )


def _parameter_groups(
    trained: nn.Module, model: ViewClassifier, plan: TrainingPlan
) -> list[dict[str, object]]:
    """Group trainable parameters by weight decay (matrices, filters) and by pretrained or not."""
    embeddings = {id(part.weight) for part in trained.modules() if isinstance(part, nn.Embedding)}
    pretrained = {id(p) for name, p in model.named_parameters() if name in model.pretrained}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(True, False): [], (False, False): []}
    for parameter in (each for each in trained.parameters() if each.requires_grad):
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
