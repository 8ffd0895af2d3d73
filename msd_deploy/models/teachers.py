"""Trained teachers: a model folder whose classes are matched by name to those of the task."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, load_classifier
from msd_deploy.models.pretrained.location import checkpoint_folder
from msd_deploy.problem import Problem


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained teacher.

    Attributes:
        model: The model, in eval mode.
        preprocessor: Prepares its inputs; may differ from the student's.
        digest: SHA-256 of its folder's files.
        class_order: int64 [classes], the index of each of the task's classes in its logits.
        folder: The folder that it was loaded from.
    """

    model: ViewClassifier
    preprocessor: Preprocessor
    digest: str
    class_order: NDArray[np.int64]
    folder: Path


def open_teacher(name: Path) -> LoadedModel[ViewClassifier]:
    """Load a teacher before its task is known.

    Args:
        name: A model folder, for example a run's `teacher` or an output of `msd teacher`, or the
            name of such a folder on the hub.

    Raises:
        ArtifactError: The folder cannot be loaded.
    """
    return load_classifier(checkpoint_folder(name.as_posix()))


def load_teacher(name: Path, *, labels: tuple[str, ...], problem: Problem) -> Teacher:
    """Load a teacher for a task; see `open_teacher` and `teacher_for`.

    Raises:
        ArtifactError: See there.
    """
    return teacher_for(open_teacher(name), labels=labels, problem=problem)


def teacher_for(
    loaded: LoadedModel[ViewClassifier], *, labels: tuple[str, ...], problem: Problem
) -> Teacher:
    """Return a loaded teacher for a task.

    Args:
        loaded: The teacher.
        labels: Classes of the task.
        problem: Kind of the task.

    Raises:
        ArtifactError: The teacher was trained for a different task.
    """
    check_teacher(loaded, labels=labels, problem=problem)
    order = np.array([loaded.labels.index(label) for label in labels], np.int64)
    return Teacher(loaded.model, loaded.preprocessor, loaded.digest, order, loaded.folder)


def check_teacher(
    loaded: LoadedModel[ViewClassifier], *, labels: tuple[str, ...], problem: Problem
) -> None:
    """Check that a loaded teacher was trained for a task; see `teacher_for`."""
    folder = loaded.folder
    if loaded.problem != problem:
        raise ArtifactError(
            f"is a {loaded.problem} teacher, but the data is {problem}",
            where=folder,
            fix="Use a teacher that was trained for this task",
        )
    if set(loaded.labels) != set(labels):
        missing = sorted(set(labels) - set(loaded.labels)) or sorted(
            set(loaded.labels) - set(labels)
        )
        raise ArtifactError(
            f"the classes of teacher and data differ ({', '.join(missing[:5])})",
            where=folder,
            fix="Use the data that it was trained on, or name its classes with --labels",
        )
