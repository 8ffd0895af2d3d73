"""Specialists: teachers of one modality that give a run's targets of that view.

After G2D (ICCV 2025), where unimodal teachers teach a multimodal student. The targets of both
modalities together, and of the other one alone, stay those of the teacher.
"""

from collections.abc import Mapping
from dataclasses import replace

from msd_deploy.config.run import RunConfig, TeacherConfig
from msd_deploy.data.augment.batches import check_same_frame
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import DatasetInfo, SourceData
from msd_deploy.distillation.teacher_cache import Specialist
from msd_deploy.errors import ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel
from msd_deploy.models.teachers import check_teacher, open_specialist, teacher_for
from msd_deploy.views import View

LoadedSpecialists = Mapping[View, LoadedModel[ViewClassifier]]


def open_specialists(
    config: TeacherConfig, teacher: LoadedModel[ViewClassifier] | None
) -> LoadedSpecialists:
    """Load the teachers of single views; see `open_specialist`.

    Args:
        config: Their paths.
        teacher: The given teacher; None: the run trains one.

    Raises:
        ConfigError: One is the teacher, whose targets it would leave as they are.
    """
    specialists = {
        view: open_specialist(path, view) for view, path in config.specialist_paths.items()
    }
    for view, loaded in specialists.items():
        is_adapted = config.adapt_epochs > 0
        if teacher is not None and loaded.digest == teacher.digest and not is_adapted:
            raise ConfigError(
                f"is the teacher itself, which gives the targets of the {view} view anyway",
                where=f"teacher.{view}_path",
                fix=f"Remove it, or use another {view} teacher",
            )
    return specialists


def check_specialists(specialists: LoadedSpecialists, info: DatasetInfo) -> None:
    """Check that teachers of single views were trained for the task of the data.

    Raises:
        ArtifactError: See `check_teacher`.
    """
    for view, loaded in specialists.items():
        check_teacher(loaded, labels=info.labels, problem=info.problem, name=f"{view} teacher")


def prepare_specialists(
    specialists: LoadedSpecialists,
    source: SourceData,
    data: PreparedData,
    preprocessor: Preprocessor,
    *,
    config: RunConfig,
    hooks: StageHooks,
) -> tuple[Specialist, ...]:
    """Match teachers of single views with the data, and prepare it for each of them.

    Args:
        specialists: The teachers.
        source: The data set.
        data: The data set, prepared for the student.
        preprocessor: The student's; what it refuses as an image is refused for all.
        config: Settings of the run.
        hooks: Progress.

    Raises:
        MsdError: One was trained for a different task, or cuts images differently from the student.
    """
    prepared = []
    for view, loaded in specialists.items():
        teacher = teacher_for(loaded, labels=data.info.labels, problem=data.info.problem)
        own, image = teacher.preprocessor, preprocessor.image
        if view is View.IMAGE:
            if config.augment.views_per_picture:
                check_same_frame(preprocessor, own)
            image = replace(own.image, max_pixels=image.max_pixels)
        of_teacher = prepare(
            source,
            replace(own, image=image),  # a text is read without its image: no other size is decoded
            strict=config.data.strict,
            on_count=hooks.on_count,
        )
        prepared.append(Specialist(view, teacher, of_teacher))
        notes = of_teacher.info.notes if view is View.TEXT else ()
        for note in (note for note in notes if note not in data.info.notes):
            hooks.on_note(f"for the {view} teacher: {note}")
    return tuple(prepared)
