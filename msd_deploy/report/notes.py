"""What a reader must know before the figures of a report are compared or trusted."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.metrics import LogitsByView, has_constant_decisions
from msd_deploy.pages.formatting import VIEW_NAMES
from msd_deploy.report.predictions import RunOutputs, StudentOutputs
from msd_deploy.views import View

_COMPARED: Mapping[str, Callable[[RunConfig], object]] = {
    "data.labelled_share": lambda config: config.data.labelled_share,
    "student.size": lambda config: config.student.size,
    "seed": lambda config: config.seed,
}


def notes_of(answers: RunOutputs) -> list[str]:
    """Return the notes on a report, the widest in reach first."""
    return [
        *difference_notes(answers.students),
        *validation_notes(answers.students),
        *shared_image_notes(answers.rows.image_index),
        *_constant_notes(answers),
    ]


def difference_notes(students: Sequence[StudentOutputs]) -> list[str]:
    """Say in what, beside their methods, the runs differ."""
    notes = []
    for key, value_of in _COMPARED.items():
        values = {student.name: value_of(student.config) for student in students}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{json.dumps(value)} ({name})" for name, value in values.items())
            notes.append(f"The runs differ in {key}: {told}. That moves the figures too.")
    return notes


def validation_notes(students: Sequence[StudentOutputs]) -> list[str]:
    """Say whose training saw the validation split, whose figures a page shows in any case."""
    notes = []
    for student in students:
        told = " and ".join(_uses_of_validation(student.config.distill))
        if told:
            notes.append(
                f"The validation split took part in the training of {student.name}: {told}."
                " Its figures on validation flatter it."
            )
    return notes


def _uses_of_validation(config: DistillConfig) -> list[str]:
    uses = []
    if config.weighting == "meta" and config.meta_rows == "validation":
        uses.append("it judged the views' weights")
    if config.keep == "best" or config.patience is not None:
        uses.append("it chose the epoch that was kept")
    return uses


def shared_image_notes(image_index: NDArray[np.int64]) -> list[str]:
    """Say that rows of one picture are no independent examples, where there are such rows.

    Args:
        image_index: Each row's picture, int64 [rows]; negative where it has none.
    """
    shown = image_index[image_index >= 0]
    pictures = len(np.unique(shown))
    if pictures == len(shown):
        return []
    return [
        f"{len(shown):,} examples share {pictures:,} pictures, and those of one picture are not"
        " independent. The intervals are taken over examples, so they are too narrow."
    ]


def _constant_notes(answers: RunOutputs) -> list[str]:
    """Name the models that say the same of every example."""
    models: Mapping[str, LogitsByView] = {
        "The teacher": answers.predictions.by_view(answers.split),
        **{f"The student of {student.name}": student.logits for student in answers.students},
    }
    return [
        f"{name} decides every example alike from the view “{VIEW_NAMES[view]}”: agreement there"
        " says nothing."
        for name, logits in models.items()
        for view in View
        if has_constant_decisions(logits[view], answers.data.info.problem)
    ]
