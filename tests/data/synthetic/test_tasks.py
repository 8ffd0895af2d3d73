import io
import re
from functools import cache

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from msd_deploy.data.source import SPLITS, SourceOptions, SourceRow, Split
from msd_deploy.data.synthetic import generate, tasks
from msd_deploy.data.synthetic.drawing import (
    BLACK,
    COLOURS,
    NOTHING,
    SHAPES,
    code_of,
    encode_png,
    render,
)
from msd_deploy.data.synthetic.generate import TASK_NAMES, load_synthetic
from msd_deploy.data.synthetic.tasks import (
    ENTAILMENT_LABELS,
    HINT,
    OWN,
    Draw,
    draw_entailment,
    draw_memes,
    draw_posters,
    flip_labels,
)
from msd_deploy.views import View

MANY = 40_000
IntArray = NDArray[np.int64]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def best_accuracy(cue: IntArray, labels: IntArray) -> float:
    """Return the share that the most frequent label of each cue covers."""
    table = np.zeros((cue.max() + 1, labels.max() + 1))
    np.add.at(table, (cue, labels), 1)
    return float(table.max(axis=1).sum() / len(labels))


def best_micro_f1(cues: IntArray, labels: IntArray) -> float:
    """Return micro F1 of predicting a class where its cue makes it more likely than not."""
    likely = {cue: labels[cues == cue].mean() > 0.5 for cue in np.unique(cues).tolist()}
    predicted = np.isin(cues, [cue for cue, is_likely in likely.items() if is_likely])
    return float(2 * (predicted & (labels == 1)).sum() / (predicted.sum() + labels.sum()))


@cache
def many(name: str) -> Draw:
    return generate._TASKS[name].draw(generator(), MANY)


def cue_of(view: View, draw: Draw) -> IntArray:
    joint = draw.image_cues * 100 + draw.text_cues
    return {View.MULTIMODAL: joint, View.IMAGE: draw.image_cues, View.TEXT: draw.text_cues}[view]


def names(code: int) -> tuple[str, str]:
    return SHAPES[code // len(COLOURS)], tuple(COLOURS)[code % len(COLOURS)]


@cache
def load(name: str, examples: int, label_noise: float = 0.0) -> datasets.DatasetDict:
    return load_synthetic(name, SourceOptions(examples=examples, label_noise=label_noise)).dataset


def first_rows(name: str, split: Split, size: int, seed: int = 0) -> list[SourceRow]:
    return list(generate._rows(name, split, size, SourceOptions(seed=seed)))


@pytest.mark.parametrize("name", TASK_NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(name: str, split: Split) -> None:
    first, again, other = (first_rows(name, split, 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert not {row.image_sha256 for row in first} & {row.image_sha256 for row in other}


@pytest.mark.parametrize("name", TASK_NAMES)
def test_splits_share_no_image(name: str) -> None:
    dataset = load(name, 500)
    digests = [set(split["image_sha256"]) for split in dataset.values()]
    assert [len(split) for split in dataset.values()] == [500, 500, 2000]
    rows_of_a_picture = 4 if name == "entailment" else 1
    assert [len(split) * rows_of_a_picture for split in digests] == [500, 500, 2000]
    assert len(set.union(*digests)) * rows_of_a_picture == 3000


def test_a_smaller_split_is_the_beginning_of_a_larger_one() -> None:
    assert first_rows("memes", "train", 300)[:100] == first_rows("memes", "train", 100)


def test_the_bytes_are_the_same_on_every_machine() -> None:
    row = load("memes", 500)["train"][0]
    assert row["origin"] == "synthetic:memes/train:0"
    assert row["image_path"] == ""
    assert row["image_sha256"] == "0d879a731c3a5a121728d637ec49b6f297383c2b8db95fc3bd32abe4514fa3e6"


def test_an_image_is_48_by_48_rgb() -> None:
    row = load("posters", 500)["train"][0]
    with Image.open(io.BytesIO(row["image_bytes"])) as image:
        assert (image.size, image.mode, image.format) == ((48, 48), "RGB", "PNG")


def test_png_encoding_loses_nothing() -> None:
    pixels = generator().integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("name", ["memes", "posters"])
def test_label_noise_flips_that_share_of_training_labels_only(name: str) -> None:
    clean, noisy = load(name, 500), load(name, 500, 0.2)
    column = "label" if name == "memes" else "labels"
    hot = [np.zeros((500, 8)), np.zeros((500, 8))]
    for table, dataset in zip(hot, (clean, noisy), strict=True):
        for row, classes in enumerate(dataset["train"][column]):
            table[row, classes] = 1
    changed = (hot[0] != hot[1]).any(axis=1) if name == "memes" else hot[0] != hot[1]
    # Three standard deviations of a share of 500.
    assert changed.mean() == pytest.approx(0.2, abs=0.054)
    assert clean["train"]["image_sha256"][:] == noisy["train"]["image_sha256"][:]
    for split in ("validation", "test"):
        assert clean[split]._fingerprint == noisy[split]._fingerprint


def test_a_flipped_label_is_another_class_and_each_is_as_likely() -> None:
    flipped = flip_labels(np.zeros(9000, np.int64), 1.0, 4, generator())
    assert np.bincount(flipped).tolist()[0] == 0
    np.testing.assert_allclose(np.bincount(flipped)[1:] / 9000, 1 / 3, atol=0.02)


@pytest.mark.parametrize("name", ["memes", "posters", "listings"])
@pytest.mark.parametrize("view", list(View))
def test_the_best_possible_score_of_each_view_is_the_one_stated(name: str, view: View) -> None:
    task, draw = generate._TASKS[name], many(name)
    score = best_accuracy if task.problem == "single_label" else best_micro_f1
    # Three standard deviations of a share of 40,000 are .0075 at most.
    assert score(cue_of(view, draw), draw.labels) == pytest.approx(
        task.best_score[view], abs=0.0075
    )


def test_single_views_of_memes_and_posters_lie_in_the_promised_bands() -> None:
    memes, posters = (generate._TASKS[name].best_score for name in ("memes", "posters"))
    assert 0.73 <= memes[View.IMAGE] <= 0.76
    assert 0.74 <= memes[View.TEXT] <= 0.76
    assert 0.90 <= memes[View.MULTIMODAL] <= 0.96
    assert 0.60 <= posters[View.IMAGE] <= 0.65
    assert 0.60 <= posters[View.TEXT] <= 0.65
    assert 0.80 <= posters[View.MULTIMODAL] <= 0.95


def test_memes_are_hateful_if_and_only_if_both_views_hold_a_trigger() -> None:
    draw = draw_memes(generator(), 5000, ambiguity=0.0)
    np.testing.assert_array_equal(draw.labels, draw.image_cues & draw.text_cues)
    share = draw.labels.mean()
    assert 0.38 < share < 0.46


def test_a_memes_cues_can_be_read_off_its_image_and_text() -> None:
    draw = draw_memes(generator(), 2000)
    motifs = {code_of(shape, colour) for shape, colour in tasks._MEMES_MOTIFS}
    in_image = [any(code in motifs for code in row) for row in draw.objects.tolist()]
    triggers = (*tasks._WHO_TRIGGER, *tasks._DEED_TRIGGER)
    in_text = [any(trigger in text for trigger in triggers) for text in draw.texts]
    assert in_image == draw.image_cues.astype(bool).tolist()
    assert in_text == draw.text_cues.astype(bool).tolist()
    assert {len(text.split()) for text in draw.texts} <= set(range(6, 11))
    assert set((draw.objects != NOTHING).sum(axis=1).tolist()) == {5, 6, 7, 8}


def test_a_posters_genres_follow_from_its_cues() -> None:
    draw = draw_posters(generator(), 5000, ambiguity=0.0)
    image, text = draw.image_cues, draw.text_cues
    shown = (image == OWN) | (text == OWN) | ((image == HINT) & (text == HINT))
    np.testing.assert_array_equal(draw.labels, shown.astype(np.int64))
    assert draw.labels.mean() == pytest.approx(0.25, abs=0.01)


def test_a_posters_cues_can_be_read_off_its_image_and_text() -> None:
    draw = draw_posters(generator(), 500)
    for row, genre in np.ndindex(draw.labels.shape):
        own_words, hints = tasks._GENRES[tasks.POSTERS_LABELS[genre]]
        words = set(draw.texts[row].split())
        assert bool(words & set(own_words)) == (draw.text_cues[row, genre] == OWN)
        assert bool(words & set(hints)) == (draw.text_cues[row, genre] == HINT)
        codes = draw.objects[row].tolist()
        own = genre * len(COLOURS) + genre
        assert (own in codes) == (draw.image_cues[row, genre] == OWN)


def entailed(objects: list[int], text: str) -> str:
    """Return the label that an image's objects give a hypothesis, by reading it."""
    scene = dict(names(code) for code in objects if code != NOTHING)
    shape = next(word for word in text.split() if word in SHAPES)
    colour = next((word for word in text.split() if word in COLOURS), None)
    if colour is None or scene[shape] == "black":
        return "neutral"
    is_true = (scene[shape] == colour) != bool(re.search(r"\b(not|no)\b", text))
    return "entailment" if is_true else "contradiction"


def test_entailment_labels_follow_from_scene_and_hypothesis() -> None:
    draw = draw_entailment(generator(), 5000, ambiguity=0.0)
    scenes = draw.objects[draw.image_index].tolist()
    read = [entailed(objects, text) for objects, text in zip(scenes, draw.texts, strict=True)]
    assert read == [ENTAILMENT_LABELS[label] for label in draw.labels]
    assert len(set(draw.texts)) > 100


def test_a_scene_has_four_hypotheses() -> None:
    draw = draw_entailment(generator(), 1000)
    np.testing.assert_array_equal(np.bincount(draw.image_index), np.full(250, 4))
    assert len(draw.objects) == 250


def test_the_best_possible_score_of_entailments_single_views_is_the_one_stated() -> None:
    draw = many("entailment")
    best = generate._TASKS["entailment"].best_score
    # Three standard deviations of a share of 40,000 are .0075 at most.
    for view in (View.IMAGE, View.TEXT):
        found = best_accuracy(cue_of(view, draw), draw.labels)
        assert found == pytest.approx(best[view], abs=0.0075)
    assert max(best[View.IMAGE], best[View.TEXT]) < 0.57


def test_colours_in_a_scene_are_independent_of_the_entailment_label() -> None:
    draw = many("entailment")
    objects = draw.objects[draw.image_index]
    colour = np.where(objects == NOTHING, -1, objects % len(COLOURS))
    counts = [(colour == code).sum(axis=1) for code in (0, 1, 2, 3, BLACK)]
    seen = np.ravel_multi_index(counts, (4,) * 5)
    best = generate._TASKS["entailment"].best_score[View.IMAGE]
    # A table of some 20 cells overfits the draw by a little.
    assert best_accuracy(seen, draw.labels) < best + 0.015


def test_words_alone_show_no_more_than_their_shape_and_colour() -> None:
    draw = many("entailment")
    texts = {text: at for at, text in enumerate(dict.fromkeys(draw.texts))}
    seen = np.array([texts[text] for text in draw.texts])
    best = generate._TASKS["entailment"].best_score[View.TEXT]
    # A table of some 150 texts overfits the draw by about a point.
    assert best_accuracy(seen, draw.labels) < best + 0.02


def test_a_rendered_object_stands_in_its_cell_in_its_colour() -> None:
    objects = np.full((1, 16), NOTHING)
    objects[0, 6] = code_of("square", "red")
    pixels = render(objects, generator())[0].astype(np.int64)
    np.testing.assert_allclose(pixels[17:19, 29:31].mean(axis=(0, 1)), COLOURS["red"], atol=20)
    ground = pixels[:12].mean(axis=(0, 1))
    assert np.ptp(ground) < 3
    assert pixels.shape == (48, 48, 3)
