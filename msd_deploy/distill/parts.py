"""A step's batch in parts: each is computed after the other, and takes only its share of memory."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from msd_deploy.data.batch import Batch


def parts_of(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch's rows in parts of equal size, as far as that goes, each with its pictures.

    Args:
        batch: The batch.
        count: How many parts; fewer if it has fewer rows.
    """
    if count == 1:
        yield batch
        return
    for rows in torch.tensor_split(torch.arange(len(batch), device=batch.rows.device), count):
        if len(rows) > 0:
            yield _rows_of(batch, rows)


def _rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    shown, index = batch.image_index[rows].unique(return_inverse=True)
    return replace(
        batch,
        pixel_values=batch.pixel_values[shown],
        image_index=index,
        image_present=batch.image_present[rows],
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        labels=batch.labels[rows],
        rows=batch.rows[rows],
        mixed=batch.mixed and replace(batch.mixed, labels=batch.mixed.labels[rows]),
        encoded_images=None if batch.encoded_images is None else batch.encoded_images[shown],
        encoded_rows=None if batch.encoded_rows is None else batch.encoded_rows[rows],
    )
