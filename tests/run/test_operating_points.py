"""How operating points are chosen: by brute force, and refused where validation is too small."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msd_deploy.config.decisions import DecisionConfig, Rule, rule_for, settings_of
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ConfigError, DataError
from msd_deploy.problem import Problem
from msd_deploy.run.operating_points import Chosen, choose_point, examples_needed
from msd_deploy.temperatures import UNCALIBRATED
from msd_deploy.views import View

NAMES = ("a", "b", "c")


def split_of(labels: NDArray[Any]) -> PreparedSplit:
    """Return examples with an image and a text each."""
    rows = np.arange(len(labels))
    tokens = np.ones((len(labels), 2), np.int32)
    return PreparedSplit(np.zeros((1, 2, 2, 3), np.uint8), rows * 0, tokens, tokens, labels, rows)


def drawn(rows: int, problem: Problem, *, seed: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return calibrated logits [rows, 3] and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = (2 * generator.normal(size=(rows, 3))).astype(np.float32)
    if problem == "multi_label":
        logits -= np.array([0, 1, 3], np.float32)
        return logits, (generator.random((rows, 3)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (generator.random((rows, 1)) > each.cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(labels, 2)


def choose(rule: str, problem: Problem, rows: int = 2000, **changes: Any) -> Chosen:
    logits, labels = drawn(rows, problem)
    by_view = dict.fromkeys(View, logits) | changes
    settings = settings_of(rule)
    found = rule_for(settings, problem)
    assert found is not None
    return choose_point(
        found, by_view, split_of(labels), problem, classes=NAMES, temperatures=UNCALIBRATED
    )


def micro_f1(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(2 * (decided * labels).sum() / (decided.sum() + labels.sum()))


def test_f1_thresholds_lie_between_the_best_of_a_class_and_of_all() -> None:
    logits, labels = drawn(2000, "multi_label")
    found = 1 / (1 + np.exp(-logits.astype(np.float64)))
    grid = np.unique(found)[1:-1:7]

    def best(scores: NDArray[Any], truth: NDArray[Any]) -> float:
        return float(grid[np.argmax([micro_f1(scores >= limit, truth) for limit in grid])])

    thresholds = choose("f1", "multi_label").point.thresholds[View.MULTIMODAL]
    shared = best(found, labels)
    for place, threshold in enumerate(thresholds):
        own, positives = best(found[:, place], labels[:, place]), labels[:, place].sum()
        expected = (positives * own + 30 * shared) / (positives + 30)
        assert threshold == pytest.approx(expected, abs=0.02)


def test_f1_thresholds_find_rare_classes_that_a_half_misses() -> None:
    chosen = choose("f1", "multi_label").point
    logits, labels = drawn(4000, "multi_label", seed=2)
    found = 1 / (1 + np.exp(-logits.astype(np.float64)))
    at_point = found >= np.array(chosen.thresholds[View.MULTIMODAL])
    assert micro_f1(at_point, labels) > micro_f1(found >= 0.5, labels) + 0.005
    assert chosen.examples == dict.fromkeys(View, 2000)


def test_a_few_examples_give_f1_no_thresholds() -> None:
    assert choose("f1", "multi_label", rows=49).point.thresholds[View.TEXT] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_a_precision_holds_on_other_examples(problem: Problem) -> None:
    chosen = choose("precision=0.8", problem, rows=20000).point
    expected = chosen.expected[View.MULTIMODAL]["precision"]
    assert expected is not None
    assert expected["value"] == pytest.approx(0.8, abs=0.02)
    logits, labels = drawn(20000, problem, seed=2)
    if problem == "multi_label":
        found = 1 / (1 + np.exp(-logits.astype(np.float64)))
        decided = found >= np.array(chosen.thresholds[View.MULTIMODAL])
        precisions = (decided * labels).sum(axis=0) / decided.sum(axis=0)
    else:
        each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        decided = each.max(axis=1) >= chosen.thresholds[View.MULTIMODAL][0]
        precisions = (each.argmax(axis=1) == labels)[decided].mean()[None]
    assert precisions.tolist() == pytest.approx([0.8] * len(precisions), abs=0.03)


def test_the_lowest_threshold_that_reaches_a_precision_is_chosen() -> None:
    """Of each 50 examples 0, 0, 1, 5 and 25 are wrong: .97 of the first 200 are right, .876 of all.

    Within the third 50 the share reaches .95 by chance more often, at no step of the regression.
    """
    scores = np.linspace(4, 1, 250, dtype=np.float32)
    logits = np.stack([scores, -scores], axis=1)
    wrong = [np.arange(50) < count for count in (0, 0, 1, 5, 25)]
    labels = np.concatenate(wrong).astype(np.int64)
    chosen = choose_point(
        Rule("precision", 0.95),
        dict.fromkeys(View, logits),
        split_of(labels),
        "single_label",
        classes=("a", "b"),
        temperatures=UNCALIBRATED,
    ).point
    low, high = 1 / (1 + np.exp(-2 * scores[[200, 199]].astype(np.float64)))
    assert low < chosen.thresholds[View.TEXT][0] < high
    expected = chosen.expected[View.TEXT]
    assert expected["precision"] is not None
    assert expected["precision"]["value"] == 0.97


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_a_recall_is_reached_with_the_highest_threshold(problem: Problem) -> None:
    chosen = choose("recall=0.6", problem).point
    logits, labels = drawn(2000, problem)
    expected = chosen.expected[View.MULTIMODAL]["recall"]
    assert expected is not None
    assert expected["value"] == pytest.approx(0.6, abs=0.002)
    if problem == "multi_label":
        found = 1 / (1 + np.exp(-logits.astype(np.float64)))
        for place, threshold in enumerate(chosen.thresholds[View.MULTIMODAL]):
            decided = found[:, place] >= threshold
            right = (decided * labels[:, place]).sum()
            assert right == np.ceil(0.6 * int(labels[:, place].sum()))


def test_a_threshold_is_taken_as_it_is() -> None:
    point = choose("threshold=0.3", "multi_label").point
    assert point.thresholds == dict.fromkeys(View, (0.3, 0.3, 0.3))
    assert point.examples == dict.fromkeys(View, 0)
    assert set(point.expected) == set(View)
    assert choose("abstain_below=0.9", "single_label").point.thresholds[View.TEXT] == (0.9,)


@pytest.mark.parametrize(("share", "needed"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_the_examples_needed_exclude_a_lower_share(share: float, needed: int) -> None:
    assert examples_needed(share) == needed
    assert share**needed <= 0.05 < share ** (needed - 1)


def test_too_few_examples_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(DataError, match=r"view has 58 labelled examples, and 59 are needed"):
        choose("precision=0.95", "single_label", rows=58)


def test_too_few_true_examples_of_a_class_are_refused_with_its_name() -> None:
    _, labels = drawn(300, "multi_label")
    few = int(labels[:, 2].sum())
    assert few < 59 <= labels[:, 1].sum()
    message = rf"each class needs 59 true examples, and these have fewer: c \({few}\)"
    for rule in ("precision=0.95", "recall=0.95"):
        with pytest.raises(DataError, match=message):
            choose(rule, "multi_label", rows=300)


def test_a_precision_out_of_reach_is_refused_with_the_best_that_there_is() -> None:
    with pytest.raises(DataError, match=r"cannot be met: at most 9\d.\d% right of the 299 most"):
        choose("precision=0.99", "single_label", rows=600)


def test_a_recall_out_of_reach_is_refused_with_the_best_that_there_is() -> None:
    with pytest.raises(DataError, match=r"cannot be met: only 7\d.\d% of all examples"):
        choose("recall=0.95", "single_label")


@pytest.mark.parametrize(
    ("rule", "threshold", "words"),
    [("precision=0.8", 1.0, "nothing is decided"), ("recall=0.6", 0.0, "all is decided")],
)
def test_a_single_view_that_cannot_meet_a_rule_does_no_harm(
    rule: str, threshold: float, words: str
) -> None:
    noise = np.random.default_rng(9).normal(size=(2000, 3)).astype(np.float32)
    logits, _ = drawn(2000, "single_label")
    chosen = choose(rule, "single_label", **{View.IMAGE: noise, View.TEXT: logits})
    assert chosen.point.thresholds[View.IMAGE] == (threshold,)
    assert 0 < chosen.point.thresholds[View.TEXT][0] < 1
    (note,) = chosen.notes
    assert note.startswith("on the image view it cannot be met")
    assert words in note


def test_examples_without_a_label_are_not_counted() -> None:
    logits, labels = drawn(2000, "single_label")
    hidden = labels.copy()
    hidden[1000:] = -100
    rule = Rule("recall", 0.6)
    points = [
        choose_point(
            rule,
            dict.fromkeys(View, values),
            split_of(truth),
            "single_label",
            classes=NAMES,
            temperatures=UNCALIBRATED,
        ).point
        for values, truth in ((logits, hidden), (logits[:1000], labels[:1000]))
    ]
    assert points[0] == points[1]


def test_a_view_is_chosen_on_the_examples_that_have_its_modalities() -> None:
    logits, labels = drawn(400, "single_label")
    split = split_of(labels)
    image = split.image_index.copy()
    image[:100] = -1
    chosen = choose_point(
        Rule("recall", 0.5),
        dict.fromkeys(View, logits),
        replace(split, image_index=image),
        "single_label",
        classes=NAMES,
        temperatures=UNCALIBRATED,
    ).point
    assert [chosen.examples[view] for view in View] == [300, 300, 400]


def test_what_is_expected_counts_the_examples_that_it_was_chosen_on() -> None:
    """Examples without an image have noise in its place, which must not count for its view."""
    logits, labels = drawn(1200, "single_label")
    split = split_of(labels)
    image = split.image_index.copy()
    image[:800] = -1
    noise = logits.copy()
    noise[:800] = np.random.default_rng(3).normal(size=(800, 3))
    chosen = choose_point(
        Rule("precision", 0.75),
        {View.MULTIMODAL: logits, View.IMAGE: noise, View.TEXT: logits},
        replace(split, image_index=image),
        "single_label",
        classes=NAMES,
        temperatures=UNCALIBRATED,
    ).point
    expected = chosen.expected[View.IMAGE]["precision"]
    assert expected is not None
    assert expected["value"] >= 0.75


@pytest.mark.parametrize("rule", ["precision=0.5", "recall=0.5"])
def test_data_of_one_modality_has_one_view_that_counts(rule: str) -> None:
    logits, labels = drawn(600, "single_label")
    split = split_of(labels)
    chosen = choose_point(
        settings_of(rule).rule or Rule("none"),
        dict.fromkeys(View, logits),
        replace(split, attention_mask=np.array([[1, 0]] * 600, np.int32)),
        "single_label",
        classes=NAMES,
        temperatures=UNCALIBRATED,
    )
    assert chosen.notes == ()
    assert [chosen.point.examples[view] for view in View] == [0, 600, 0]
    assert set(chosen.point.expected) == {View.IMAGE}


def test_thresholds_keep_every_digit() -> None:
    """Confident logits: all probabilities are within 1e-6 of 1 or of 0."""
    generator = np.random.default_rng(2)
    lead = generator.uniform(15, 22, 400)
    labels = (np.arange(400) % 5 == 0).astype(np.int64)
    lead[labels == 1] -= 8
    logits = np.stack([lead, 0 * lead], axis=1).astype(np.float32)
    chosen = choose_point(
        Rule("precision", 0.95),
        dict.fromkeys(View, logits),
        split_of(labels),
        "single_label",
        classes=("a", "b"),
        temperatures=UNCALIBRATED,
    ).point
    assert 0 < 1 - chosen.thresholds[View.TEXT][0] < 1e-5
    expected = chosen.expected[View.TEXT]
    assert expected["precision"] is not None
    assert expected["precision"]["value"] >= 0.95


@pytest.mark.parametrize(
    "text", ["", "F1", "precision", "precision=", "precision=1", "recall=0", "threshold=x", "f1=1"]
)
def test_a_rule_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\(--decide\): must be none, f1, precision=P"):
        DecisionConfig(decide=text)


def test_rules_for_another_kind_of_problem_are_refused() -> None:
    for rule in ("f1", "threshold=0.5"):
        with pytest.raises(ConfigError, match="is for multi-label tasks"):
            rule_for(DecisionConfig(decide=rule), "single_label")
    with pytest.raises(ConfigError, match="every class has a threshold of its own"):
        rule_for(DecisionConfig(abstain_below=0.5), "multi_label")
    with pytest.raises(ConfigError, match="excludes decide"):
        DecisionConfig(decide="f1", abstain_below=0.5)


def test_by_default_multi_label_tasks_have_f1_thresholds_and_others_none() -> None:
    assert rule_for(DecisionConfig(), "multi_label") == Rule("f1")
    assert rule_for(DecisionConfig(decide="none"), "multi_label") is None
    assert rule_for(DecisionConfig(), "single_label") is None
    assert rule_for(DecisionConfig(), "soft_label") is None


@pytest.mark.parametrize(("value", "meaning"), [(0.0, "never abstain"), (1.0, "never decide")])
def test_a_threshold_that_decides_all_or_nothing_is_refused(value: float, meaning: str) -> None:
    with pytest.raises(ConfigError, match=f"--abstain-below.*would {meaning}"):
        DecisionConfig(abstain_below=value)
