"""Prediction over a whole split: logits of each view, or multimodal features."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd_deploy import process_group
from msd_deploy.data.batch import Batch, batches_in_order
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.views import View


def predict_views(
    model: ViewClassifier,
    split: PreparedSplit,
    *,
    views: Iterable[View] = tuple(View),
    batch_size: int = 256,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    transform: Callable[[Batch], Batch] = lambda batch: batch,
) -> LogitsByView:
    """Compute a model's logits, float32 [rows, classes], of each view over a whole split.

    Args:
        model: The model, in eval mode meanwhile.
        split: The rows.
        views: The views.
        batch_size: Batch size.
        on_batch: Called with the rows done and their total.
        transform: Applied to each batch, e.g. an augmentation.
    """
    views, classes = tuple(views), model.config.num_labels
    assert classes is not None  # PreTrainedConfig fills it
    logits: LogitsByView = {view: np.empty((len(split), classes), np.float32) for view in views}

    def forward(batch: Batch) -> dict[View, Tensor]:
        return model.logits_by_view(transform(batch), views)

    _predict_into(logits, forward, model, split, batch_size=batch_size, on_batch=on_batch)
    return logits


def predict_features(
    model: ViewClassifier, split: PreparedSplit, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Compute the multimodal inputs of a model's classifier, float32 [rows, hidden]."""
    view = View.MULTIMODAL
    features = {view: np.empty((len(split), model.classifier.in_features), np.float32)}
    forward = partial(model.features_by_view, views=(view,))
    _predict_into(features, forward, model, split, batch_size=batch_size)
    return features[view]


def _predict_into(
    results: Mapping[View, NDArray[np.float32]],
    forward: Callable[[Batch], Mapping[View, Tensor]],
    model: ViewClassifier,
    split: PreparedSplit,
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a model's outputs for a whole split into arrays [rows, ...], in eval mode.

    Several processes share the batches and gather the outputs.
    """
    was_training, device = model.training, model.device
    nn.Module.eval(model)
    own: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    with torch.inference_mode():
        for batch in batches_in_order(split, batch_size=batch_size):
            rows = batch.rows.numpy()
            own.append(rows)
            for view, values in forward(batch.to(device)).items():
                results[view][rows] = values.float().cpu().numpy()
            done = (len(own) - 1) * batch_size * process_group.world_size()
            on_batch(min(done, len(split)), len(split))
    if process_group.world_size() > 1:
        for array in results.values():
            array[:] = process_group.all_gather_array(array[np.concatenate(own)])
    model.train(was_training)
