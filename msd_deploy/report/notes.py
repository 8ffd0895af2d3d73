"""What a reader must know before the figures of a report are compared or trusted."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config import RunConfig
from msd_deploy.evaluation import LogitsByView, decisions
from msd_deploy.report.answers import RunAnswers, StudentAnswers
from msd_deploy.report.words import VIEW_NAMES
from msd_deploy.views import View

_COMPARED: Mapping[str, Callable[[RunConfig], object]] = {
    "data.labelled_share": lambda config: config.data.labelled_share,
    "student.size": lambda config: config.student.size,
    "seed": lambda config: config.seed,
}


def notes_of(answers: RunAnswers) -> list[str]:
    """Return the notes on a report, the widest in reach first."""
    return [*difference_notes(answers.students), *_constant_notes(answers)]


def difference_notes(students: Sequence[StudentAnswers]) -> list[str]:
    """Say in what, beside their methods, the runs differ."""
    notes = []
    for key, value_of in _COMPARED.items():
        values = {student.name: value_of(student.config) for student in students}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{json.dumps(value)} ({name})" for name, value in values.items())
            notes.append(f"The runs differ in {key}: {told}. That moves the figures too.")
    return notes


def _constant_notes(answers: RunAnswers) -> list[str]:
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
        if _is_constant(decisions(logits[view], answers.data.problem))
    ]


def _is_constant(decided: NDArray[np.int64]) -> bool:
    return bool((decided == decided[:1]).all())
