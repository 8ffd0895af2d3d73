"""Notes on a report: limits of its figures that a reader must know."""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.distillation.plan import note_of_result
from msd_deploy.metrics import LogitsByView, has_constant_decisions, metric_name
from msd_deploy.pages.formatting import VIEW_NAMES
from msd_deploy.report.predictions import RunOutputs, StudentOutputs
from msd_deploy.report.run_files import specialists_in, trainings_of
from msd_deploy.run.single_views import check_on_validation, unsound_views
from msd_deploy.views import View

_COMPARED: Mapping[str, Callable[[RunConfig], object]] = {
    "data.labelled_share": lambda config: config.data.labelled_share,
    "student.size": lambda config: config.student.size,
    "seed": lambda config: config.seed,
}


def notes_of(outputs: RunOutputs) -> list[str]:
    """Return the notes on a report, the most general first."""
    return [
        *difference_notes(outputs.students),
        *validation_notes(outputs.students),
        *training_notes(outputs.students),
        *_unsound_view_notes(outputs),
        *shared_image_notes(outputs.rows.image_index),
        *_constant_notes(outputs),
    ]


def difference_notes(students: Sequence[StudentOutputs]) -> list[str]:
    """Note settings other than the method in which the runs differ."""
    notes = []
    for key, value_of in _COMPARED.items():
        values = {student.name: value_of(student.config) for student in students}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{json.dumps(value)} ({name})" for name, value in values.items())
            notes.append(f"The runs differ in {key}: {listed}. This affects the figures, too.")
    return notes


def validation_notes(students: Sequence[StudentOutputs]) -> list[str]:
    """Note runs whose training used the validation split, of which pages always show figures."""
    notes = []
    for student in students:
        uses = " and ".join(_uses_of_validation(student.config.distill))
        if uses:
            notes.append(
                f"The training of {student.name} used the validation split: {uses}. Its figures on"
                " validation are therefore too optimistic."
            )
    return notes


def _uses_of_validation(config: DistillConfig) -> list[str]:
    uses = []
    if config.weighting == "meta" and config.meta_rows == "validation":
        uses.append("to learn the views' weights")
    if config.keep != "last" or config.patience:
        uses.append("to choose the epoch")
    return uses


def training_notes(students: Sequence[StudentOutputs]) -> list[str]:
    """Note trainings that ended early, or of which another epoch than the last was kept."""
    models = {
        "The teacher": students[0].metrics["teacher"],
        "The adapted teacher": students[0].metrics.get("adapted_teacher", {}),
        **{f"The student of {student.name}": student.metrics["student"] for student in students},
    }
    return [
        f"{name}: {note}."
        for name, facts in models.items()
        for note in map(note_of_result, trainings_of(facts))
        if note is not None
    ]


def shared_image_notes(image_index: NDArray[np.int64]) -> list[str]:
    """Note examples that share an image and so are not independent.

    Args:
        image_index: Image of each row, int64 [rows]; negative where it has none.
    """
    with_image = image_index[image_index >= 0]
    images = len(np.unique(with_image))
    if images == len(with_image):
        return []
    return [
        f"{len(with_image):,} examples share {images:,} images, and examples of one image are not"
        " independent. The intervals resample examples, so they are too narrow."
    ]


def _unsound_view_notes(outputs: RunOutputs) -> list[str]:
    """Note single views of the teacher that a student should not learn."""
    views = check_on_validation(outputs.predictions.by_view("validation"), outputs.data)
    metric = metric_name(outputs.data.info.problem)
    notes = unsound_views(views, metric, specialists=specialists_in(outputs.students[0].metrics))
    return [f"The {note}." for note in notes]


def _constant_notes(outputs: RunOutputs) -> list[str]:
    """Note models with the same decision for every example."""
    models: Mapping[str, LogitsByView] = {
        "The teacher": outputs.predictions.of_teacher(outputs.split),
        **{f"The student of {student.name}": student.logits for student in outputs.students},
    }
    return [
        f"{name} makes the same decision for every example of the view “{VIEW_NAMES[view]}”:"
        " agreement is not informative there."
        for name, logits in models.items()
        for view in View
        if has_constant_decisions(logits[view], outputs.data.info.problem)
    ]
