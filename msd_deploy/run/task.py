"""Task: what the stages of a run share; reading it, and writing run.json."""

import importlib.metadata
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenizers import Tokenizer

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import SCHEMA_VERSION, Json, utc_now
from msd_deploy.artifacts.output import begin_folder
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import RunConfig
from msd_deploy.data.labels import class_weights_as_json, hide_labels, weigh_classes
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import (
    Preprocessor,
    build_preprocessor,
    fitting_length,
    load_tokenizer,
    train_tokenizer,
)
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import DatasetInfo, SourceData, training_texts
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.distillation.teacher_cache import Specialist
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, load_model, read_labels
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained.text import open_text
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE, check_starts
from msd_deploy.models.teachers import Teacher, check_teacher, open_teacher
from msd_deploy.run.record import RunRecord, learns_from_given, read_source, source_of_run
from msd_deploy.run.specialists import (
    LoadedSpecialists,
    check_specialists,
    open_specialists,
    prepare_specialists,
)

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")

# Of a tokenizer that is trained, where the user leaves their number open.
_MOST_PIECES = 2000
# Of a text whose length the user leaves open: attention over more costs a phone dearly.
_MOST_TOKENS = 32


@dataclass(frozen=True, slots=True)
class GivenModels:
    """Trained models whose predictions a run distils.

    Attributes:
        teacher: The teacher; None: the run trains one.
        specialists: Teachers of single views.
    """

    teacher: LoadedModel[ViewClassifier] | None = None
    specialists: LoadedSpecialists = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """Values that the stages of a run share.

    Attributes:
        config: Settings of the run.
        run: Folder of the results; stages whose result exists are skipped.
        data: Data prepared for the student.
        preprocessor: The student's preprocessor.
        hooks: Callbacks of stages.
        training: Callbacks of training steps.
        name: Name of the run in experiment trackers.
        specialists: Teachers of single views.
        start_digest: Digest of the finished student that training starts from; None: a new one.
        record: run.json of a run that is resumed; None: the run is new.
    """

    config: RunConfig
    run: RunDirectory
    data: PreparedData
    preprocessor: Preprocessor
    hooks: StageHooks
    training: Hooks
    name: str
    specialists: tuple[Specialist, ...] = ()
    start_digest: str | None = None
    record: RunRecord | None = None


def read_task(
    config: RunConfig,
    run: RunDirectory,
    hooks: StageHooks,
    training: Hooks,
    *,
    record: RunRecord | None = None,
    given: GivenModels | None = None,
) -> tuple[Task, SourceData]:
    """Read and prepare the data; return the task, and the source for a teacher of other inputs.

    Args:
        config: Settings of the run.
        run: Folder of the results.
        hooks: Callbacks of stages.
        training: Callbacks of training steps.
        record: run.json of a run that is resumed; None: the run is new.
        given: Result of `open_models`; None for a study's students, which read cached predictions.

    Raises:
        MsdError: The data cannot be read or used, or a model was trained for a different task.
    """
    start = None if config.student.start is None else load_model(config.student.start)
    given = given or GivenModels()
    teacher = given.teacher
    hooks.on_stage(f"Reading {config.data.spec}")
    record = record and replace(record, config=config)  # with absolute paths
    answers = None
    if learns_from_given(config):
        answers = DatasetInfo(
            *(read_labels(run.teacher) if teacher is None else (teacher.labels, teacher.problem))
        )
    source = source_of_run(record, answers) if record else read_source(config, answers)
    # Before images are decoded, which may take hours.
    if start is not None:
        _check_same_task(start, source)
    if teacher is not None:
        check_teacher(teacher, labels=source.info.labels, problem=source.info.problem)
    check_specialists(given.specialists, source.info)
    preprocessor = (
        _build_preprocessor(config, source, hooks) if start is None else start.preprocessor
    ).with_max_pixels(config.data.max_pixels)
    data = _prepare(source, preprocessor, config, hooks)
    data = hide_labels(data, config.data.labelled_share, seed=config.data.seed)
    data = weigh_classes(data, config.data.class_weights)
    specialists = prepare_specialists(
        given.specialists, source, data, preprocessor, config=config, hooks=hooks
    )
    name = run.root.resolve().name
    digest = start.digest if start else None
    task = Task(config, run, data, preprocessor, hooks, training, name, specialists, digest, record)
    return task, source


def _check_same_task(start: LoadedModel[FusionForClassification], data: SourceData) -> None:
    """Check that a finished student was trained for the task of the data."""
    if (start.labels, start.problem) != (data.info.labels, data.info.problem):
        raise ArtifactError(
            f"was trained for a different task: {start.problem}, {len(start.labels)} classes;"
            f" the data is {data.info.problem}, {len(data.info.labels)} classes",
            where=start.folder,
            fix="Use the data that it was trained on, or name its classes with --labels",
        )


def _build_preprocessor(config: RunConfig, source: SourceData, hooks: StageHooks) -> Preprocessor:
    side = config.data.image_size or DEFAULT_IMAGE_SIZE[config.student.size]
    spec = ImageSpec((side, side), config.data.image_mode)
    texts = training_texts(source)
    tokenizer = _tokenizer(config, texts, hooks)
    max_length = config.data.max_length or fitting_length(tokenizer, texts, most=_MOST_TOKENS)
    return build_preprocessor(tokenizer, spec, max_length=max_length)


def _tokenizer(config: RunConfig, texts: list[str], hooks: StageHooks) -> Tokenizer:
    """Return the student's tokenizer: given, cut from a pretrained one, or trained."""
    if config.data.tokenizer is not None:
        return load_tokenizer(config.data.tokenizer)
    most = config.data.vocabulary_size
    if config.student.text is not None:
        cut = cut_vocabulary(open_text(config.student.text).tokenizer, texts, most=most)
        hooks.on_note(cut.note)
        return cut.tokenizer
    return train_tokenizer(texts, vocabulary_size=most or _MOST_PIECES)


def _prepare(
    source: SourceData, preprocessor: Preprocessor, config: RunConfig, hooks: StageHooks
) -> PreparedData:
    return prepare(
        source,
        preprocessor,
        strict=config.data.strict,
        on_count=hooks.on_count,
    )


def begin_run(task: Task, given: Teacher | None, *, replaces: bool = False) -> None:
    """Write run.json, and a copy of a given teacher, so that the run is complete in itself.

    Args:
        task: The run's.
        given: The teacher, unless the run trains one.
        replaces: Whether the run takes the place of an older one.

    Raises:
        DataError: The run is resumed, and its data set is not what it was.
        ArtifactError: The run is resumed, and its tokenizer, a teacher or the student that it goes
            on from is not what it was.
    """
    digests: Json = {
        "preprocess_digest": task.preprocessor.digest(),
        "teacher_digest": given.digest if given else None,
        "start_digest": task.start_digest,
        **{f"{one.key}_digest": one.teacher.digest for one in task.specialists},
    }
    if task.record is not None:
        task.record.check_same_data(task.data)
        _check_same_inputs(task, task.record.content, digests)
    else:
        content = _run_json(task, digests)
        begin_folder(task.run.root, task.run.run_json.name, content, replaces=replaces)
    if given is not None and not task.run.teacher.is_dir():
        with new_folder(task.run.teacher) as building:
            shutil.copytree(given.folder, building, dirs_exist_ok=True)


def open_models(config: RunConfig, run: RunDirectory, record: RunRecord | None) -> GivenModels:
    """Open a run's tokenizer and models before its data set is read: faults are found in seconds.

    Args:
        config: Settings of the run.
        run: Folder of the results.
        record: run.json of a run that is resumed; None: the run is new.

    Raises:
        MsdError: One of them cannot be used.
    """
    if config.data.tokenizer is not None:
        load_tokenizer(config.data.tokenizer)
    if config.student.start is None and not run.student.is_dir():
        check_starts(config.student)
    folder = _given_teacher_folder(config, run, record)
    teacher = None if folder is None else open_teacher(folder)
    return GivenModels(teacher, open_specialists(config.teacher, teacher))


def _given_teacher_folder(
    config: RunConfig, run: RunDirectory, record: RunRecord | None
) -> Path | None:
    """Return the folder of a given teacher: the run's own copy once it exists."""
    path = config.teacher.path
    is_copied = path is not None and record is not None and run.teacher.is_dir()
    return run.teacher if is_copied else path


def _check_same_inputs(task: Task, recorded: Json, digests: Json) -> None:
    start = task.config.student.start
    tokenizer = task.config.data.tokenizer or start or task.run.root
    inputs = {  # the student before its tokenizer, which it brings
        "start_digest": ("student that it starts from", start),
        "preprocess_digest": ("tokenizer", tokenizer),
        "teacher_digest": (
            "teacher",
            _given_teacher_folder(task.config, task.run, task.record),
        ),
        **{
            f"{one.key}_digest": (f"{one.view} teacher", one.teacher.folder)
            for one in task.specialists
        },
    }
    for key, (what, where) in inputs.items():
        # Runs of 0.1.0 do not record their preprocessing; a teacher that is trained has no digest.
        if digests[key] is not None and recorded.get(key) not in (None, digests[key]):
            raise ArtifactError(
                f"the {what} has changed since the run was started",
                where=where,
                fix="Restore it, or start again with --overwrite",
            )


def _run_json(task: Task, digests: Json) -> Json:
    """Return the content of run.json."""
    data = task.data
    return {
        "schema_version": SCHEMA_VERSION,
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        "seed": task.config.seed,
        "config": config_as_json(task.config),
        "dataset_digest": data.digest,
        **digests,
        "examples": {name: len(split) for name, split in data.splits.items()},
        "skipped_rows": [str(row) for row in data.info.skipped],
        **class_weights_as_json(data.info),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
