"""Which single views of a teacher are called unsound, on answers that the tests make up."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from msd_deploy.data.labels import weigh_classes
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source import DatasetInfo
from msd_deploy.metrics import LabelArray, LogitArray, metric_value
from msd_deploy.problem import Problem
from msd_deploy.run.single_views import (
    SingleViewJson,
    check_on_validation,
    check_single_views,
    unsound_views,
)
from msd_deploy.views import View

PROBLEMS = get_args(Problem)
CLASSES = 4
SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def some_labels(problem: Problem, rows: int, seed: int = 0) -> LabelArray:
    rng = np.random.default_rng(seed)
    if problem == "single_label":
        return rng.choice(CLASSES, rows, p=SHARES)
    true = rng.random((rows, CLASSES)) < SHARES
    scores = rng.integers(1, 4, (rows, CLASSES)) / 3 if problem == "soft_label" else 1.0
    return (true * scores).astype(np.float32)


def certain(labels: LabelArray, strength: float) -> LogitArray:
    """Return logits that state the labels with a confidence."""
    true = np.eye(CLASSES)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    return (strength * (2 * true - 1)).astype(np.float32)


def frequencies(labels: LabelArray) -> LogitArray:
    """Return the logits of the class frequencies, as a teacher gives without information."""
    if labels.ndim == 1:
        answer = np.log((np.bincount(labels, minlength=CLASSES) + 0.1) / len(labels))
    else:
        share = np.clip(labels.mean(axis=0), 0.01, 0.99)
        answer = np.log(share / (1 - share))
    return np.tile(answer, (len(labels), 1)).astype(np.float32)


def often_right(labels: LabelArray, strength: float, share: float = 0.8) -> LogitArray:
    """Return confident answers of which a share are right, the others those of other rows."""
    rng = np.random.default_rng(3)
    given = np.where(
        rng.random(len(labels)) < share, np.arange(len(labels)), rng.permutation(len(labels))
    )
    return certain(labels[given], strength)


def check(
    image: LogitArray,
    labels: LabelArray,
    problem: Problem,
    *,
    multimodal: LogitArray | None = None,
    training: LabelArray | None = None,
) -> SingleViewJson:
    answers = often_right(labels, 2.0) if multimodal is None else multimodal
    logits = {View.MULTIMODAL: answers, View.IMAGE: image, View.TEXT: frequencies(labels)}
    views = check_single_views(logits, labels, problem, training=training)
    assert views["text"]["is_sound"] is not False
    return views["image"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_confident_answers_without_information_are_unsound(problem: Problem) -> None:
    labels = some_labels(problem, 500)
    assert not check(often_right(labels, 4.0, share=0.0), labels, problem)["is_sound"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_one_class_for_everything_is_unsound_if_it_is_stated_with_confidence(
    problem: Problem,
) -> None:
    labels = some_labels(problem, 500)
    one = certain(np.zeros(500, np.int64), 4.0)
    assert not check(one, labels, problem)["is_sound"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_class_frequencies_are_sound_where_a_modality_holds_nothing(problem: Problem) -> None:
    labels = some_labels(problem, 500)
    view = check(frequencies(labels), labels, problem)
    assert view["is_sound"]
    assert view["excess"]["value"] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_weak_view_is_sound_if_its_confidence_is_that_of_its_decisions(problem: Problem) -> None:
    labels = some_labels(problem, 500)
    weak = frequencies(labels) + often_right(labels, 0.3, share=0.3)
    view = check(weak, labels, problem)
    assert view["is_sound"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_teacher_that_is_overconfident_in_all_views_has_sound_views(problem: Problem) -> None:
    labels = some_labels(problem, 500)
    strong = often_right(labels, 40.0)
    view = check(often_right(labels, 30.0, share=0.6), labels, problem, multimodal=strong)
    assert view["nll"] > 3 * view["constant_nll"]
    assert view["is_sound"]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("seed", range(10))
def test_of_a_handful_of_examples_it_is_unknown_whether_a_view_is_sound(
    problem: Problem, seed: int
) -> None:
    labels = some_labels(problem, 5, seed)
    view = check(-certain(labels, 9.0), labels, problem)
    assert view["is_sound"] is None
    assert unsound_views({"image": view}, "accuracy") == []


@pytest.mark.parametrize("others", [19, 20])
def test_it_is_unknown_where_nearly_all_examples_have_one_class(others: int) -> None:
    """Whether .02 or .06 is right for the other class, 3 of 100 examples cannot show."""
    labels = (np.arange(1000) < others).astype(np.int64)
    view = check(certain(np.ones(1000, np.int64), 4.0), labels, "single_label")
    assert view["is_sound"] is (None if others < 20 else False)


@pytest.mark.parametrize(
    ("problem", "right"), [("single_label", 0.5), ("multi_label", 0.4), ("soft_label", 0.3)]
)
def test_a_view_is_unsound_only_where_the_whole_interval_is_above_the_margin(
    problem: Problem, right: float
) -> None:
    """The same answers, among them confident mistakes, on 60 and on 1,800 examples."""
    labels = some_labels(problem, 60, seed=1)
    image, multimodal = often_right(labels, 3.0, share=right), certain(labels, 1.0)
    few = check(image, labels, problem, multimodal=multimodal)
    image, labels, multimodal = (np.concatenate([x] * 30) for x in (image, labels, multimodal))
    many = check(image, labels, problem, multimodal=multimodal)
    for view in (few, many):
        assert view["excess"]["value"] > 0.05 * view["constant_nll"]
    assert few["is_sound"] is True
    assert many["is_sound"] is False


def test_the_class_frequencies_are_those_of_training() -> None:
    """A teacher cannot know that validation is balanced where its training was not."""
    labels = np.arange(200) % 2
    training = (np.arange(200) < 20).astype(np.int64)
    answer = np.tile(np.log([0.9, 0.098, 0.001, 0.001]), (200, 1)).astype(np.float32)
    assert check(answer, labels, "single_label", training=training)["is_sound"]
    assert not check(answer, labels, "single_label")["is_sound"]


def test_the_constant_answer_of_a_single_label_is_the_most_frequent_class() -> None:
    labels = np.repeat([1, 0], [60, 40])
    view = check(certain(np.ones(100, np.int64), 4.0), labels, "single_label")
    assert view["score"] == view["constant_score"] == 0.6
    assert view["gain"] == {"value": 0.0, "interval": [0.0, 0.0]}
    entropy = -0.6 * np.log(0.6) - 0.4 * np.log(0.4)
    assert view["constant_nll"] == pytest.approx(entropy, abs=0.01)
    assert view["examples"] == 100


@pytest.mark.parametrize("seed", range(5))
def test_the_constant_answer_of_several_labels_is_the_best_set_of_classes(seed: int) -> None:
    labels = some_labels("multi_label", 40, seed)
    sets = (
        np.tile(np.array(signs, np.float32), (40, 1)) for signs in product((-1, 1), repeat=CLASSES)
    )
    best = max(metric_value(answer, labels, "multi_label") for answer in sets)
    view = check(frequencies(labels), labels, "multi_label")
    assert view["constant_score"] == pytest.approx(best, abs=1e-6)


def test_the_constant_answer_of_soft_labels_is_the_answer_with_the_best_mean_score() -> None:
    labels = some_labels("soft_label", 60)
    best = max(
        metric_value(certain(np.full(60, index), 1.0), labels, "soft_label")
        for index in range(CLASSES)
    )
    view = check(frequencies(labels), labels, "soft_label")
    assert view["constant_score"] == pytest.approx(best, abs=1e-6)


def test_the_interval_of_the_gain_is_paired() -> None:
    """One of 400 decisions differs: unpaired, the interval would be 10 points wide."""
    labels = np.repeat([1, 0], [240, 160])
    decided = np.ones(400, np.int64)
    decided[-1] = 0
    gain = check(certain(decided, 4.0), labels, "single_label")["gain"]
    assert gain["value"] == 0.0025
    assert gain["interval"][1] - gain["interval"][0] < 0.01


def test_without_examples_there_is_no_comparison() -> None:
    none = np.zeros((0, CLASSES), np.float32)
    labels: NDArray[np.int64] = np.zeros(0, np.int64)
    assert check_single_views(dict.fromkeys(View, none), labels, "single_label") == {}


def of_texts(rows: int) -> tuple[PreparedData, dict[View, LogitArray]]:
    """Texts without images, and predictions of one class with confidence for both single views."""
    labels = some_labels("single_label", rows)
    split = PreparedSplit(
        np.zeros((1, 1, 1, 3), np.uint8),
        image_index=np.full(rows, -1),
        input_ids=np.zeros((rows, 2), np.int32),
        attention_mask=np.ones((rows, 2), np.int32),
        labels=labels,
        source_rows=np.arange(rows),
    )
    names = tuple(f"class {n}" for n in range(int(labels.max()) + 1))
    splits = dict.fromkeys(("train", "validation", "test"), split)
    wrong = certain((labels + 1) % len(names), 8.0)
    logits = {View.MULTIMODAL: certain(labels, 1.0), View.IMAGE: wrong, View.TEXT: wrong}
    return PreparedData(splits, DatasetInfo(names, "single_label"), "digest"), logits


def test_a_view_that_no_example_has_is_left_out() -> None:
    data, logits = of_texts(400)
    views = check_on_validation(logits, data)
    assert list(views) == ["text"]
    assert not views["text"]["is_sound"]


def test_of_many_examples_two_thousand_are_taken_from_all_of_the_split() -> None:
    data, logits = of_texts(6500)
    assert check_on_validation(logits, data)["text"]["examples"] == 1625  # every fourth


def test_nothing_is_checked_where_classes_have_weights() -> None:
    data, logits = of_texts(400)
    assert check_on_validation(logits, weigh_classes(data, "balanced")) == {}


def test_the_note_has_figures_interval_and_remedy() -> None:
    labels = np.repeat([1, 0], [280, 220])
    image = certain(np.ones(500, np.int64), 4.0)
    views = {"image": check(image, labels, "single_label")}
    assert unsound_views(views, "accuracy", split="test") == [
        "teacher's image view is unsound as a target of distillation: Accuracy 56.0 % on 500 test"
        " examples against 56.0 % of the best constant answer (difference +0.0 to +0.0 points),"
        " negative log-likelihood 3.52 against 0.69 of the class frequencies; adapt the teacher"
        " (--adapt-teacher 4), or train it with modality dropout"
    ]


def test_sound_views_have_no_note() -> None:
    labels = some_labels("single_label", 500)
    views = {"image": check(frequencies(labels), labels, "single_label")}
    assert unsound_views(views, "accuracy") == []
