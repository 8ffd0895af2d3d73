"""Mixed images: what they show, and what the labels' loss makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.augment.batches import ImageMixing, build_augmentation
from msd_deploy.data.batch import Batch, collate, parts_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.losses import label_loss
from msd_deploy.distillation.objectives import LabelsOfView
from msd_deploy.distillation.steps import MultiViewModel
from msd_deploy.errors import ConfigError
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View

Memes = tuple[PreparedData, Preprocessor]
CONFIG = AugmentConfig(mixup=1.0)


@pytest.fixture
def batch(memes: Memes) -> Batch:
    """Ten rows, of which the fourth has no image."""
    split = memes[0].splits["train"]
    rows = np.arange(10)
    without = np.where(np.arange(len(split)) == 3, -1, split.image_index)
    return collate(replace(split, image_index=without), rows)


def test_mixing_alone_is_an_augmentation(memes: Memes, batch: Batch) -> None:
    built = build_augmentation(CONFIG, memes[0].splits["train"], memes[1], seed=0)
    assert built is not None
    assert built(batch, 0).mixed is not None
    assert torch.equal(built(batch, 0).pixel_values, built(batch, 0).pixel_values)
    assert not torch.equal(built(batch, 0).pixel_values, built(batch, 1).pixel_values)


def test_each_image_is_mixed_with_the_one_whose_label_is_stated(batch: Batch) -> None:
    """Labels stand for rows here, so that they name the other row."""
    batch = replace(batch, labels=torch.arange(10))
    for epoch in range(5):
        result = ImageMixing(CONFIG, seed=0)(batch, epoch)
        assert result.mixed is not None
        share, others = result.mixed.share, result.mixed.labels
        assert 0 <= share <= 0.5
        assert others[3] == 3
        own = batch.pixel_values[batch.image_index].float()
        expected = ((1 - share) * own + share * own[others]).round()
        with_picture = batch.image_present
        shown = result.pixel_values[result.image_index].float()
        assert (shown - expected)[with_picture].abs().max() <= 1
        assert torch.equal(result.input_ids, batch.input_ids)
        assert torch.equal(result.labels, batch.labels)


@pytest.mark.parametrize("view", list(View))
def test_the_loss_is_the_sum_by_shares_where_the_image_is_shown(
    batch: Batch, tiny_model: FusionForClassification, view: View
) -> None:
    mixed = ImageMixing(CONFIG, seed=0)(batch, 0)
    assert mixed.mixed is not None
    assert not torch.equal(mixed.mixed.labels, batch.labels)
    outputs = MultiViewModel(tiny_model)
    with torch.no_grad():
        found = LabelsOfView(view)(outputs, mixed).terms["labels"].item()
        logits = outputs(mixed, (view,)).logits[view]
    of_own, of_other = (label_loss(logits, y).item() for y in (batch.labels, mixed.mixed.labels))
    share = mixed.mixed.share if view.has_image else 0.0
    assert found == pytest.approx((1 - share) * of_own + share * of_other, rel=1e-5)


def test_parts_keep_the_labels_of_the_images_that_theirs_are_mixed_with(batch: Batch) -> None:
    mixed = ImageMixing(CONFIG, seed=0)(batch, 0)
    assert mixed.mixed is not None
    parts = [part.mixed for part in parts_of(mixed, 3)]
    assert torch.equal(torch.cat([m.labels for m in parts if m is not None]), mixed.mixed.labels)
    assert {m.share for m in parts if m is not None} == {mixed.mixed.share}


def test_a_students_images_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match=r"augment\.mixup: is not available in distillation"):
        RunConfig(augment=CONFIG)
