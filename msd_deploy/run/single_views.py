"""Soundness of a teacher's single views as targets of distillation.

A student learns the answers that its teacher gives to one modality alone. A teacher that never saw
a missing modality answers arbitrarily there, often one class with a high probability. That a
modality holds no information is no fault: the class frequencies are then the right answer. So the
check rests on probabilities rather than decisions. Formula and measurements: docs/method.md.
"""

from collections.abc import Collection, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from msd_deploy.data.prepared import PreparedData
from msd_deploy.metrics import (
    LabelArray,
    LogitArray,
    bootstrap_rows,
    ratio_of_sums,
    row_counts,
    with_interval,
)
from msd_deploy.pages.formatting import Interval, in_points, metric_title, percent
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.run.calibration import best_temperature, negative_log_likelihoods
from msd_deploy.views import View

# Of the constant answer's loss: the lower end is .02 at most for 20 sound teachers, and .15 or more
# for the views that teach nothing. See docs/method.md.
_MARGIN = 0.05
# Of fewer, one confident answer decides the mean loss, and the interval does not show it.
_FEWEST_ERRORS = 20
_REMEDY = "adapt the teacher (--adapt-teacher 4), or train it with modality dropout"
# Spread over the split; of thousands of classes, more take minutes.
_MOST_EXAMPLES = 2000

_Values = NDArray[np.float64]


class SingleViewJson(TypedDict):
    """One view of a model beside the best constant answer.

    Scores are the problem's metric. nll is the mean negative log-likelihood in nats, of independent
    classes per class; scaled_nll is that at the view's best temperature from 1 to that of the
    multimodal view. The constant answer is the class frequencies of training; its decision is the
    most frequent class or, in multi-label problems, the set of classes with the best micro F1. gain
    is score - constant_score, excess is scaled_nll - constant_nll, both paired by example. is_sound
    is None where too few examples can show it.
    """

    examples: int
    score: float
    constant_score: float
    gain: Interval
    nll: float
    scaled_nll: float
    constant_nll: float
    excess: Interval
    is_sound: bool | None


def check_on_validation(
    logits: Mapping[View, LogitArray], data: PreparedData
) -> dict[str, SingleViewJson]:
    """Check the single views of a teacher on the validation split; see `check_single_views`.

    With class weights nothing is checked: the best constant answer is then not the class
    frequencies. A view that no example has is left out.

    Args:
        logits: Of the validation split, [examples, classes] for all three views.
        data: The data; its labelled training examples give the class frequencies.
    """
    if data.info.class_weights is not None:
        return {}
    validation, train = data.splits["validation"], data.splits["train"]
    labelled = validation.has_label()
    views = check_single_views(
        {view: values[labelled] for view, values in logits.items()},
        validation.labels[labelled],
        data.info.problem,
        training=train.labels[train.has_label()],
    )
    is_there = {View.IMAGE: validation.has_image(), View.TEXT: validation.has_text()}
    absent = {view.value for view, present in is_there.items() if not present.any()}
    return {name: view for name, view in views.items() if name not in absent}


def check_single_views(
    logits: Mapping[View, LogitArray],
    labels: LabelArray,
    problem: Problem,
    *,
    training: LabelArray | None = None,
) -> dict[str, SingleViewJson]:
    """Compare each single view of a teacher with the best constant answer.

    A view is unsound if its loss is above the class frequencies' by more than 5 %, at the lower
    end of the interval. The loss is taken after as much temperature scaling as the multimodal view
    needs: overconfidence in all views is another fault. Where the constant answer errs on fewer
    than 20 examples, it is unknown. Of more than 2,000 examples, every nth is taken.

    Args:
        logits: [examples, classes] for all three views.
        labels: See `score_logits`; every example has one.
        problem: Kind of the task.
        training: Labels that the class frequencies are counted on; None or empty: `labels`.

    Returns:
        By view, image and text; empty without examples.
    """
    if not len(labels):
        return {}
    counted = labels if training is None or not len(training) else training
    nth = -(-len(labels) // _MOST_EXAMPLES)
    logits, labels = {view: values[::nth] for view, values in logits.items()}, labels[::nth]
    rows, classes = logits[View.MULTIMODAL].shape
    constant, decision = _constant_answer(counted, classes, problem)
    most = best_temperature(logits[View.MULTIMODAL], labels, problem)
    of_constant = [
        row_counts(np.tile(decision, (rows, 1)), labels, problem),
        negative_log_likelihoods(np.tile(constant, (rows, 1)), labels, problem),
    ]
    views = {}
    for view in (View.IMAGE, View.TEXT):
        temperature = best_temperature(logits[view], labels, problem, most=most)
        columns = [
            row_counts(logits[view], labels, problem),
            negative_log_likelihoods(logits[view] / temperature, labels, problem),
            *of_constant,
            negative_log_likelihoods(logits[view], labels, problem),
        ]
        views[view.value] = _compare(np.column_stack(columns))
    return views


def unsound_views(
    views: Mapping[str, SingleViewJson],
    metric: str,
    *,
    model: str = "teacher",
    specialists: Collection[str] = (),
    split: str = "validation",
) -> list[str]:
    """Describe each unsound view with the model's name, figures and remedy, to follow "the".

    Args:
        views: See `check_single_views`.
        metric: Name of the problem's metric.
        model: Name of the model.
        specialists: Views that a teacher of that view alone gives.
        split: Name of the examples.
    """
    notes = []
    for name, view in views.items():
        if view["is_sound"] is not False:
            continue
        owner, remedy = model, _REMEDY
        if name in specialists:
            owner, remedy = f"{name} teacher", f"use another {name} teacher, or none"
        notes.append(
            f"{owner}'s {name} view is unsound as a target of distillation:"
            f" {metric_title(metric)} {percent(view['score'])} on {view['examples']:,} {split}"
            f" examples against {percent(view['constant_score'])} of the best constant answer"
            f" (difference {in_points(view['gain'])}), negative log-likelihood {view['nll']:.2f}"
            f" against {view['constant_nll']:.2f} of the class frequencies; {remedy}"
        )
    return notes


def _constant_answer(
    labels: LabelArray, classes: int, problem: Problem
) -> tuple[LogitArray, LogitArray]:
    """Return the logits [classes] of the class frequencies, and those of the best decision.

    One example is spread over all classes, so that no class has probability 0.
    """
    if not has_independent_classes(problem):
        counts = np.bincount(labels.astype(np.int64), minlength=classes)
        constant = np.log((counts + 1 / classes) / (len(labels) + 1))
    else:
        counts = labels.sum(axis=0, dtype=np.float64)
        constant = np.log((counts + 0.5) / (len(labels) - counts + 0.5))
    decision = constant
    if problem == "multi_label":
        order = np.argsort(-counts, kind="stable")
        predicted = len(labels) * np.arange(1, classes + 1)
        f1 = 2 * np.cumsum(counts[order]) / (predicted + counts.sum())
        decision = np.full(classes, -1.0)
        decision[order[: f1.argmax() + 1]] = 1.0
    return constant.astype(np.float32), decision.astype(np.float32)


def _compare(rows: _Values) -> SingleViewJson:
    """Compare one view.

    Args:
        rows: [examples, 7]: score counts and scaled loss of the view, score counts and loss of the
            constant answer, loss of the view.
    """
    resampled = np.stack([rows[drawn].sum(axis=0) for drawn in bootstrap_rows(len(rows))])
    whole = rows.sum(axis=0)
    scaled_nll, constant_nll, nll = (whole[[2, 5, 6]] / len(rows)).tolist()
    gain = with_interval(
        float(_score(whole[:2]) - _score(whole[3:5])),
        _score(resampled[:, :2]) - _score(resampled[:, 3:5]),
    )
    excess = with_interval(
        (whole[2] - whole[5]) / len(rows), (resampled[:, 2] - resampled[:, 5]) / len(rows)
    )
    errors = int((rows[:, 3] < rows[:, 4]).sum())
    return {
        "examples": len(rows),
        "score": round(float(_score(whole[:2])), 6),
        "constant_score": round(float(_score(whole[3:5])), 6),
        "gain": gain,
        "nll": round(nll, 6),
        "scaled_nll": round(scaled_nll, 6),
        "constant_nll": round(constant_nll, 6),
        "excess": excess,
        "is_sound": None
        if errors < _FEWEST_ERRORS
        else excess["interval"][0] <= _MARGIN * constant_nll,
    }


def _score(counts: _Values) -> _Values:
    return ratio_of_sums(counts.astype(np.int64))
