"""Metrics per view from logits, with bootstrap intervals; pure numpy but for what asks a model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd_deploy import processes
from msd_deploy.data.batch import Batch, batches_in_order
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.problem import (
    FULL_SCORE_VOTES,
    Problem,
    decides_one_class,
)
from msd_deploy.views import View

LogitArray = NDArray[np.float32]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
LogitsByView = dict[View, LogitArray]

_METRICS: Mapping[Problem, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "soft_label": "vqa_accuracy",
}
_RESAMPLES = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """A metric on a split.

    Attributes:
        value: 0 to 1.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        examples: Rows that it rests on.
    """

    value: float
    low: float
    high: float
    examples: int

    def as_json(self) -> dict[str, object]:
        """Return the score as JSON values."""
        interval = [round(self.low, 6), round(self.high, 6)]
        return {"value": round(self.value, 6), "interval": interval, "examples": self.examples}


def predict_views(
    model: ViewClassifier,
    split: PreparedSplit,
    *,
    views: Iterable[View] = tuple(View),
    batch_size: int = 256,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    shown: Callable[[Batch], Batch] = lambda batch: batch,
) -> LogitsByView:
    """Return a model's logits, float32 [rows, classes], of each view of a whole split.

    Args:
        model: Put into eval mode while it runs.
        split: The rows.
        views: Which views.
        batch_size: Rows at a time.
        on_batch: Called with the rows done and their total.
        shown: What the model is shown of a batch.
    """
    wanted = tuple(views)
    logits: LogitsByView = {
        view: np.empty((len(split), model.classifier.out_features), np.float32) for view in wanted
    }

    def ask(batch: Batch) -> dict[View, Tensor]:
        return model.logits_by_view(shown(batch), wanted)

    _fill(logits, ask, model, split, batch_size=batch_size, on_batch=on_batch)
    return logits


def predict_features(
    model: ViewClassifier, split: PreparedSplit, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Return what a model's classifier reads of both modalities, float32 [rows, hidden]."""
    view = View.MULTIMODAL
    features = {view: np.empty((len(split), model.classifier.in_features), np.float32)}
    ask = partial(model.features_by_view, views=(view,))
    _fill(features, ask, model, split, batch_size=batch_size)
    return features[view]


def _fill(
    results: Mapping[View, NDArray[np.float32]],
    ask: Callable[[Batch], Mapping[View, Tensor]],
    model: ViewClassifier,
    split: PreparedSplit,
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a model's answers to a whole split into arrays [rows, ...], in eval mode.

    Of several processes each answers some of the same batches, and gets the others' answers.
    """
    was_training, device = model.training, model.device
    nn.Module.eval(model)
    own: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    with torch.inference_mode():
        for batch in batches_in_order(split, batch_size=batch_size):
            rows = batch.rows.numpy()
            own.append(rows)
            for view, values in ask(batch.to(device)).items():
                results[view][rows] = values.float().cpu().numpy()
            done = (len(own) - 1) * batch_size * processes.count()
            on_batch(min(done, len(split)), len(split))
    if processes.count() > 1:
        for array in results.values():
            array[:] = processes.joined_array(array[np.concatenate(own)])
    model.train(was_training)


def metric_name(problem: Problem) -> str:
    """Return the name of the metric by which a problem is judged."""
    return _METRICS[problem]


def decisions(logits: LogitArray, problem: Problem) -> NDArray[np.int64]:
    """Return what a model decides: classes [rows], or 0/1 [rows, classes] (probability >= 0.5)."""
    if decides_one_class(problem):
        return np.asarray(logits.argmax(axis=1), np.int64)
    return (logits >= 0).astype(np.int64)


def decides_all_alike(logits: LogitArray, problem: Problem) -> bool:
    """Return whether logits [rows, classes] decide every row alike, so agreement says nothing."""
    decided = decisions(logits, problem)
    return bool((decided == decided[:1]).all())


def agreement(first: LogitArray, second: LogitArray, problem: Problem) -> float:
    """Return the share of decisions (per row; multi-label: per row and class) that are equal."""
    return float((decisions(first, problem) == decisions(second, problem)).mean())


def score_logits(logits: LogitArray, labels: LabelArray, problem: Problem) -> Score:
    """Score logits [rows, classes] against labels by the problem's metric; see `row_counts`.

    The interval resamples rows with replacement, 1,000 times with a fixed seed. Where all rows are
    right, or all wrong, that cannot vary, and the exact bound is given (Clopper & Pearson 1934): at
    a value of .025^(1/rows) all rows are right with a probability of 2.5 %.
    """
    counts = row_counts(logits, labels, problem)
    value = float(metric_of_sums(counts.sum(axis=0)))
    rows = len(counts)
    resampled = np.stack([counts[drawn].sum(axis=0) for drawn in bootstrap_rows(rows)])
    low, high = percentile_interval(metric_of_sums(resampled))
    bound = float(((1 - _CONFIDENCE) / 2) ** (1 / rows))
    if low == high == 1:
        low = bound
    elif low == high == 0:
        high = 1 - bound
    return Score(value, low, high, rows)


def bootstrap_rows(rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows, int64 [rows], of each resample: always the same ones."""
    generator = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield generator.integers(0, rows, rows)


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return both ends of the 95 % percentile interval of a metric's resampled values."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def metric_of_logits(logits: LogitArray, labels: LabelArray, problem: Problem) -> float:
    """Return the metric alone, 0 to 1; see `score_logits`."""
    return float(metric_of_sums(row_counts(logits, labels, problem).sum(axis=0)))


def score_views(
    logits: Mapping[View, LogitArray], labels: LabelArray, problem: Problem
) -> dict[View, Score]:
    """Score each view's logits; see `score_logits`."""
    return {view: score_logits(values, labels, problem) for view, values in logits.items()}


def row_counts(logits: LogitArray, labels: LabelArray, problem: Problem) -> NDArray[np.int64]:
    """Return numerator and denominator of the metric per row, int64 [rows, 2].

    All are ratios of sums. Accuracy is right / rows; micro F1 is 2 tp / (2 tp + fp + fn). VQA
    accuracy is the mean score of the likeliest answer, min(1, people who gave it / 3) (Antol et al.
    2015), in thirds; the official evaluation's mean over all subsets of 9 of the 10 people is not
    taken, and is somewhat lower where 2 or 3 of them agree.
    """
    decided = decisions(logits, problem)
    if problem == "single_label":
        right = (decided == labels).astype(np.int64)
        return np.stack([right, np.ones_like(right)], axis=1)
    if problem == "soft_label":
        score = labels[np.arange(len(labels)), decided] * FULL_SCORE_VOTES
        thirds = np.rint(score).astype(np.int64)
        return np.stack([thirds, np.full_like(thirds, FULL_SCORE_VOTES)], axis=1)
    truth = labels.astype(np.int64)
    true_positives = (decided * truth).sum(axis=1)
    wrong = (decided != truth).sum(axis=1)
    return np.stack([2 * true_positives, 2 * true_positives + wrong], axis=1)


def metric_of_sums(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide sums of `row_counts` [..., 2]; nothing to find and nothing found counts as 1."""
    numerator, denominator = sums[..., 0].astype(np.float64), sums[..., 1].astype(np.float64)
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 1.0)
