"""Teachers: a trained model folder, its classes matched by name to those of the task."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import load_classifier
from msd_deploy.models.pretrained.location import checkpoint_folder
from msd_deploy.problem import Problem


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained teacher.

    Attributes:
        model: In eval mode.
        preprocessor: Makes its inputs; may differ from the student's.
        digest: SHA-256 of what it is.
        class_order: int64 [classes], the position of each of the task's classes in its logits.
        folder: Where it was read.
    """

    model: ViewClassifier
    preprocessor: Preprocessor
    digest: str
    class_order: NDArray[np.int64]
    folder: Path


def load_teacher(stated: Path, *, labels: tuple[str, ...], problem: Problem) -> Teacher:
    """Load a teacher for a task.

    Args:
        stated: A model folder, for example a run's `teacher` or what `msd teacher` wrote, or the
            name on the hub of such a folder.
        labels: The task's classes.
        problem: The task's kind.

    Raises:
        ArtifactError: The folder cannot be loaded, or the teacher answers another question.
    """
    folder = checkpoint_folder(stated.as_posix())
    loaded = load_classifier(folder)
    if loaded.problem != problem:
        raise ArtifactError(f"is a {loaded.problem} teacher, the data is {problem}", where=folder)
    if set(loaded.labels) != set(labels):
        missing = sorted(set(labels) - set(loaded.labels)) or sorted(
            set(loaded.labels) - set(labels)
        )
        raise ArtifactError(
            f"teacher and data disagree about the classes ({', '.join(missing[:5])})",
            where=folder,
            fix="Use the data that it was trained on, or name its classes with --labels",
        )
    order = np.array([loaded.labels.index(label) for label in labels], np.int64)
    return Teacher(loaded.model, loaded.preprocessor, loaded.digest, order, folder)
