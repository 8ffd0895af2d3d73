"""Trained teachers: a model folder whose classes are matched by name to those of the task."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.configs import OUR_TYPES
from msd_deploy.models.folders import LoadedModel, load_classifier
from msd_deploy.models.loading import CONFIG_NAME
from msd_deploy.models.pretrained.classifiers import open_published
from msd_deploy.models.pretrained.location import checkpoint_folder
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.problem import Problem
from msd_deploy.views import View


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
        ArtifactError: The folder cannot be loaded, or holds a teacher of one view.
    """
    loaded = load_classifier(checkpoint_folder(name.as_posix()))
    if isinstance(loaded.model, SpecialistForClassification):
        view = loaded.model.view
        raise ArtifactError(
            f"is a teacher of the {view} alone, which has no answer to image and text together",
            where=loaded.folder,
            fix=f"Use it with --{view}-teacher",
        )
    return loaded


def open_specialist(name: Path, view: View) -> LoadedModel[ViewClassifier]:
    """Load a teacher of one view before its task is known.

    Args:
        name: A published classifier of this modality, or a model folder, of which only this view is
            used; or the name of either on the hub.
        view: View.IMAGE or View.TEXT.

    Raises:
        ArtifactError: It cannot be loaded, or has no such view.
        ConfigError: See `open_published`.
    """
    folder = checkpoint_folder(name.as_posix())
    config = folder / CONFIG_NAME
    if config.is_file() and read_json(config).get("model_type") not in OUR_TYPES:
        return open_published(folder, view)
    loaded = load_classifier(folder)
    if isinstance(loaded.model, SpecialistForClassification) and loaded.model.view is not view:
        raise ArtifactError(
            f"is a teacher of the {loaded.model.view} alone, not of the {view}",
            where=folder,
            fix=f"Use it with --{loaded.model.view}-teacher",
        )
    return loaded


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
    loaded: LoadedModel[ViewClassifier],
    *,
    labels: tuple[str, ...],
    problem: Problem,
    name: str = "teacher",
) -> None:
    """Check that a loaded teacher was trained for a task; see `teacher_for`.

    Args:
        loaded: The teacher.
        labels: Classes of the task.
        problem: Kind of the task.
        name: Its name in errors.
    """
    folder = loaded.folder
    if loaded.problem != problem:
        raise ArtifactError(
            f"is a {loaded.problem} {name}, but the data is {problem}",
            where=folder,
            fix="Use one that was trained for this task",
        )
    if set(loaded.labels) != set(labels):
        of_teacher, of_data = set(loaded.labels) - set(labels), set(labels) - set(loaded.labels)
        sides = [
            f"the {owner} alone has {', '.join(sorted(classes)[:5])}"
            for owner, classes in ((name, of_teacher), ("data", of_data))
            if classes
        ]
        unnamed = all(label.startswith("LABEL_") for label in loaded.labels)
        raise ArtifactError(
            f"the classes of {name} and data differ ({'; '.join(sides)})",
            where=folder,
            fix="Write its class names into id2label of config.json"
            if unnamed
            else "Use the data that it was trained on, or name its classes with --labels",
        )
