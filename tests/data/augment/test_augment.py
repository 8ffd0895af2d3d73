from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_deploy.config.augment import AugmentConfig, Strengths
from msd_deploy.data.augment.batches import Augmentation, build_augmentation
from msd_deploy.data.augment.images import ImageDraws, change_images, changes_of
from msd_deploy.data.augment.words import drop_words, word_table
from msd_deploy.data.batch import Batch, collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.resize import ImageSpec

TEXT = "unbelievable circles everywhere, a red square"


def numbers(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64)


def smooth(side: int, images: int = 8) -> Tensor:
    """The same smooth images, uint8 [images, 3, side, side], in any size."""
    at = (torch.arange(side) + 0.5) / side
    phases = torch.arange(images * 3).view(images, 3, 1, 1)
    waves = torch.sin(3 * at[:, None] + phases) + torch.cos(4 * at[None, :] - phases)
    return (128 + 40 * waves).round().to(torch.uint8)


def changed(pixels: Tensor, *, form: int = 0, **strengths: Any) -> Tensor:
    draws = ImageDraws(Strengths(**strengths), len(pixels), seed=(0,))
    return change_images(pixels, draws(numbers(len(pixels)), form))


@pytest.fixture
def batch(memes: tuple[PreparedData, Preprocessor]) -> Batch:
    return collate(memes[0].splits["train"], numbers(16))


def augmentation(
    memes: tuple[PreparedData, Preprocessor], config: AugmentConfig, seed: int = 0
) -> Augmentation:
    built = build_augmentation(config, memes[0].splits["train"], memes[1], seed=seed)
    assert built is not None
    return built


def test_nothing_is_built_where_nothing_is_requested(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    data, preprocessor = memes
    assert build_augmentation(AugmentConfig(), data.splits["train"], preprocessor, seed=0) is None
    assert AugmentConfig().strengths() == Strengths()


def test_images_stay_as_they_are_where_no_strength_is_set() -> None:
    pixels = smooth(24)
    assert torch.equal(changed(pixels), pixels)
    assert torch.equal(changed(pixels, crop_area=1.0, flip=0.0, cutout_share=1.0), pixels)


@pytest.mark.parametrize(
    "strengths",
    [
        {"crop_area": 0.5},
        {"brightness": 1.0},
        {"contrast": 1.0},
        {"saturation": 1.0},
        {"cutout": 0.3, "cutout_share": 1.0},
        {"flip": 1.0},
    ],
    ids=str,
)
def test_each_strength_changes_images_and_keeps_their_shape(strengths: dict[str, float]) -> None:
    pixels = smooth(24)
    result = changed(pixels, **strengths)
    assert (result.shape, result.dtype) == (pixels.shape, torch.uint8)
    differing = (result != pixels).flatten(1).any(dim=1)
    assert differing.all()


def test_values_that_leave_the_range_are_cut_and_do_not_wrap() -> None:
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8)[None, None, :, None]
    pixels = black_and_white.expand(64, 3, 2, 2).contiguous()
    result = changed(pixels, brightness=0.4, contrast=0.4).float()
    assert (result[:, :, 0] < 128).all()
    assert (result[:, :, 1] > 128).all()
    assert (result[:, :, 1] == 255).any()


def test_images_are_mirrored_only_where_it_is_requested() -> None:
    for preset in ("none", "light", "strong"):
        assert AugmentConfig(preset=preset).strengths().flip == 0
    pixels = smooth(24, images=64)
    result = changed(pixels, flip=0.5)
    mirrored = pixels.flip(3)
    kinds = [
        (torch.equal(new, old), torch.equal(new, other))
        for new, old, other in zip(result, pixels, mirrored, strict=True)
    ]
    assert set(kinds) == {(True, False), (False, True)}
    assert torch.equal(changed(pixels, flip=1.0), mirrored)


def test_a_mirrored_crop_shows_the_same_part() -> None:
    pixels = smooth(24)
    assert torch.equal(
        changed(pixels, crop_area=0.5, flip=1.0), changed(pixels, crop_area=0.5).flip(3)
    )


def test_a_crop_is_the_box_enlarged() -> None:
    """A ramp of which the right half is shown: values by hand."""
    ramp = (torch.arange(8) * 10).to(torch.uint8).expand(1, 3, 8, 8).contiguous()
    uniform = torch.zeros(1, 11)
    changes = changes_of(uniform, Strengths(crop_area=0.5))
    half = replace(changes, box=torch.tensor([[0.5, 0.0, 0.5, 1.0]]))
    # 10 x (4 + (i + 1/2) / 2 - 1/2), halves to even, and the last pixel's colour beyond it.
    expected = [38, 42, 48, 52, 58, 62, 68, 70]
    assert change_images(ramp, half)[0, 0, 0].tolist() == expected


def test_crops_lie_inside_keep_their_area_and_their_aspect() -> None:
    uniform = torch.from_numpy(np.random.default_rng(0).random((20_000, 11), dtype=np.float32))
    box = changes_of(uniform, Strengths(crop_area=0.3, crop_aspect=4 / 3)).box
    assert box is not None
    left, top, width, height = box.unbind(dim=1)
    slack = 1e-5
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 1 + slack).all()
    assert (top + height <= 1 + slack).all()
    area, aspect = width * height, width / height
    assert (area >= 0.3 - slack).all()
    assert area.mean().item() == pytest.approx(0.65, abs=0.01)
    assert (aspect <= 4 / 3 + slack).all()
    assert (aspect >= 3 / 4 - slack).all()
    assert (left + width / 2).mean().item() == pytest.approx(0.5, abs=0.01)


def test_over_many_draws_the_mean_of_an_image_stays() -> None:
    pixels = smooth(16, images=1).expand(4000, 3, 16, 16).contiguous()
    strengths = {"crop_area": 0.6, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    result = changed(pixels, **strengths).float()
    kept = result.mean(dim=(0, 2, 3)) - pixels[0].float().mean(dim=(1, 2))
    assert kept.abs().max() < 6  # crops see the middle more often than the margins


def test_colours_change_as_in_the_definition() -> None:
    """Brightness, contrast about the mean grey, saturation about each grey, one after the other."""
    pixels = smooth(12)
    factors = torch.tensor([[1.1, 0.8, 0.6], [0.9, 1.1, 1.3]]).repeat(4, 1)
    changes = replace(changes_of(torch.zeros(8, 11), Strengths()), factors=factors)
    brightness, contrast, saturation = factors.numpy().T[:, :, None, None, None]
    values = pixels.numpy() * brightness
    weights = np.array([0.299, 0.587, 0.114])[None, :, None, None]
    mean_grey = (values * weights).sum(axis=1, keepdims=True).mean(axis=(2, 3), keepdims=True)
    values = mean_grey + contrast * (values - mean_grey)
    grey = (values * weights).sum(axis=1, keepdims=True)
    values = np.clip(grey + saturation * (values - grey), 0, 255)
    np.testing.assert_allclose(change_images(pixels, changes).numpy(), values, atol=0.51)


def test_a_square_is_painted_in_the_mean_colour() -> None:
    pixels = smooth(40)
    result = changed(pixels, cutout=0.25, cutout_share=1.0)
    for new, old in zip(result, pixels, strict=True):
        rows, columns = (new != old).any(dim=0).nonzero().unbind(dim=1)
        assert rows.max() - rows.min() <= 10
        assert columns.max() - columns.min() <= 10
        square = new[:, int(rows.min()) + 1, int(columns.min()) + 1].float()
        assert (square - old.float().mean(dim=(1, 2))).abs().max() < 1


def test_the_share_of_images_with_a_square_is_as_requested() -> None:
    pixels = smooth(8, images=1000)
    is_changed = (changed(pixels, cutout=0.25) != pixels).flatten(1).any(dim=1)
    assert is_changed.float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_two_sizes_show_the_same_part_in_the_same_colours() -> None:
    """A teacher that sees larger images is asked for what the student is shown."""
    strengths = {**asdict(AugmentConfig(preset="strong").strengths()), "flip": 0.5}
    small, large = changed(smooth(32), **strengths), changed(smooth(128), **strengths)
    shrunk = torch.nn.functional.avg_pool2d(large.float(), 4)
    difference = (shrunk - small.float()).abs()
    # But for the margins of the painted square, which fall on other pixels.
    assert (difference > 4).float().mean() < 0.05
    assert (difference[:, :, :4] > 6).float().mean() < 0.05


def test_an_images_changes_depend_on_seed_epoch_and_image_alone(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    split = memes[0].splits["train"]
    config = AugmentConfig(preset="strong", word_dropout=0.0)
    change = augmentation(memes, config)
    whole = collate(split, numbers(24))
    first = change(whole, 3)
    assert not torch.equal(change(whole, 4).pixel_values, first.pixel_values)
    again = augmentation(memes, config)(collate(split, numbers(24)), 3)
    assert torch.equal(again.pixel_values, first.pixel_values)
    part = augmentation(memes, config)(collate(split, numbers(24)[8:12]), 3)
    for row in range(4):
        alone = part.pixel_values[part.image_index[row]]
        assert torch.equal(alone, first.pixel_values[first.image_index[8 + row]])
    other = augmentation(memes, config, seed=1)(whole, 3)
    assert not torch.equal(other.pixel_values, first.pixel_values)


def test_no_global_random_state_is_touched(
    memes: tuple[PreparedData, Preprocessor], batch: Batch
) -> None:
    torch.manual_seed(5)
    before, of_numpy = torch.get_rng_state(), np.random.get_state()[1]
    augmentation(memes, AugmentConfig(preset="strong"))(batch, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], of_numpy)


def test_the_batch_that_went_in_is_left_as_it_was(
    memes: tuple[PreparedData, Preprocessor], batch: Batch
) -> None:
    pixels, ids = batch.pixel_values.clone(), batch.input_ids.clone()
    changed_batch = augmentation(memes, AugmentConfig(preset="strong"))(batch, 0)
    assert torch.equal(batch.pixel_values, pixels)
    assert torch.equal(batch.input_ids, ids)
    assert not torch.equal(changed_batch.pixel_values, pixels)
    for name in ("labels", "rows", "image_index", "image_present"):
        assert torch.equal(getattr(changed_batch, name), getattr(batch, name))


def embeddings_of(preprocessor: Preprocessor, ids: Tensor) -> list[list[str]]:
    """The words of each text, as pieces joined again."""
    texts = []
    for row in ids.tolist():
        words: list[str] = []
        for piece in (preprocessor.tokenizer.id_to_token(number) for number in row):
            if piece in ("[CLS]", "[SEP]", "[PAD]"):
                continue
            if piece.startswith("##"):
                words[-1] += piece[2:]
            else:
                words.append(piece)
        texts.append(words)
    return texts


@pytest.fixture(scope="module")
def pieces() -> Preprocessor:
    """A tokenizer that cuts most words into pieces."""
    tokenizer = train_tokenizer([TEXT], vocabulary_size=50)
    return build_preprocessor(tokenizer, ImageSpec((48, 48)), max_length=48)


def dropped(
    preprocessor: Preprocessor, texts: list[str], share: float, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    ids, mask = (torch.from_numpy(a.astype(np.int64)) for a in preprocessor.tokens(texts))
    uniform = np.random.default_rng(seed).random(tuple(ids.shape), dtype=np.float32)
    new_ids, new_mask = drop_words(
        ids, mask, torch.from_numpy(uniform), word_table(preprocessor), share
    )
    return ids, new_ids, new_mask


def test_words_are_left_out_whole_in_their_order_and_the_frame_stays(pieces: Preprocessor) -> None:
    ids, new_ids, mask = dropped(pieces, [TEXT] * 500, 0.5)
    whole = embeddings_of(pieces, ids)[0]
    assert len(whole) == 7
    assert max(map(len, pieces.tokenizer.encode(TEXT).tokens)) < len("unbelievable")  # cut indeed
    counts = []
    for row, words in enumerate(embeddings_of(pieces, new_ids)):
        left = iter(whole)
        assert all(word in left for word in words)  # a subsequence of whole words
        length = int(mask[row].sum())
        tokens = new_ids[row].tolist()
        assert mask[row].tolist() == [1] * length + [0] * (len(tokens) - length)
        assert tokens[0] == pieces.cls_id
        assert tokens[length - 1] == pieces.tokenizer.token_to_id("[SEP]")
        assert set(tokens[length:]) == {pieces.pad_id}
        assert len(words) >= 1
        counts.append(len(words))
    assert np.mean(counts) / 7 == pytest.approx(0.5, abs=0.05)


def test_no_text_is_emptied_and_an_absent_one_stays_absent(pieces: Preprocessor) -> None:
    texts = [TEXT, "red", "", "a square"] * 100
    ids, new_ids, mask = dropped(pieces, texts, 0.9)
    left = [len(words) for words in embeddings_of(pieces, new_ids)]
    assert min(left[0::4]) == min(left[1::4]) == min(left[3::4]) == 1
    assert max(left[1::4]) == 1
    assert set(left[2::4]) == {0}
    assert mask[2::4].sum(dim=1).tolist() == [1] * 100
    assert torch.equal(new_ids[2::4], ids[2::4])


def test_no_word_is_left_out_at_a_share_of_0(pieces: Preprocessor) -> None:
    ids, new_ids, _ = dropped(pieces, [TEXT, "", "red"], 0.0)
    assert torch.equal(ids, new_ids)


def test_words_left_out_differ_from_pass_to_pass_and_repeat_with_the_seed(
    memes: tuple[PreparedData, Preprocessor], batch: Batch
) -> None:
    config = AugmentConfig(word_dropout=0.5)
    one, other = (augmentation(memes, config)(batch, epoch) for epoch in (0, 1))
    assert not torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(augmentation(memes, config)(batch, 0).input_ids, one.input_ids)
    assert torch.equal(one.pixel_values, batch.pixel_values)


def test_a_row_without_an_image_does_not_disturb_the_others(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    split = memes[0].splits["train"]
    config = AugmentConfig(preset="light")
    without = replace(split, image_index=np.where(numbers(len(split)) == 2, -1, split.image_index))
    full, blank = collate(split, numbers(6)), collate(without, numbers(6))
    change = build_augmentation(config, without, memes[1], seed=0)
    assert change is not None
    expected, found = augmentation(memes, config)(full, 0), change(blank, 0)
    assert not found.image_present[2]
    for row in (0, 1, 3, 4, 5):
        shown = found.pixel_values[found.image_index[row]]
        assert torch.equal(shown, expected.pixel_values[expected.image_index[row]])
    nobody = build_augmentation(
        config, replace(split, image_index=np.full(len(split), -1)), memes[1], seed=0
    )
    assert nobody is not None
    alone = collate(replace(split, image_index=np.full(len(split), -1)), numbers(3))
    assert nobody(alone, 0).pixel_values.shape == alone.pixel_values.shape
