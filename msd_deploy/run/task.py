"""Task: what the stages of a run share, and how it is read."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.images import ImageSpec
from msd_deploy.data.labels import hide_labels, weigh_classes
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import (
    Preprocessor,
    build_preprocessor,
    fitting_length,
    load_tokenizer,
    train_tokenizer,
)
from msd_deploy.data.source import SourceData, training_texts
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.models.folders import LoadedModel, load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained.text import open_text
from msd_deploy.models.sizes import DEFAULT_IMAGE_SIZE
from msd_deploy.run.record import read_source, source_of_run

# Of a tokenizer that is trained, where the user leaves their number open.
_MOST_PIECES = 2000
# Of a text whose length the user leaves open: attention over more costs a phone dearly.
_MOST_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Task:
    """What the stages share.

    Attributes:
        config: Of the run.
        run: Where results go; stages whose result is there are passed over.
        data: Prepared for the student.
        preprocessor: The student's.
        hooks: Of stages.
        training: Of trainings.
        name: What a tracker calls it.
        start_digest: Of the finished student that the student goes on from; None: it is new.
    """

    config: RunConfig
    run: RunDirectory
    data: PreparedData
    preprocessor: Preprocessor
    hooks: StageHooks
    training: Hooks
    name: str
    start_digest: str | None = None


def read_task(
    config: RunConfig,
    run: RunDirectory,
    hooks: StageHooks,
    training: Hooks,
    *,
    resume: bool = False,
) -> tuple[Task, SourceData]:
    """Read and prepare the data; return the task, and the source for a teacher of other inputs.

    Args:
        config: Of the run.
        run: Where results go.
        hooks: Of stages.
        training: Of trainings.
        resume: Whether the run was begun: its data set is one that was there.

    Raises:
        MsdError: The data cannot be read or used.
    """
    hooks.on_stage(f"Reading {config.data.spec}")
    source = source_of_run(config, run) if resume else read_source(config)
    start = None if config.student.start is None else load_model(config.student.start)
    preprocessor = (
        _build_preprocessor(config, source, hooks) if start is None else start.preprocessor
    )
    data = _prepare(source, preprocessor, config, hooks)
    data = hide_labels(data, config.data.labelled_share, seed=config.data.seed)
    data = weigh_classes(data, config.data.class_weights)
    name = run.root.resolve().name
    if start is not None:
        _refuse_other_task(start, data)
    digest = start.digest if start else None
    return Task(config, run, data, preprocessor, hooks, training, name, digest), source


def _refuse_other_task(start: LoadedModel[FusionForClassification], data: PreparedData) -> None:
    """Check that a finished student answers the question that the data asks."""
    if (start.labels, start.problem) != (data.labels, data.problem):
        raise ArtifactError(
            f"answers another question: {start.problem}, {len(start.labels)} classes; the data is"
            f" {data.problem}, {len(data.labels)} classes",
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
    """Return the student's tokenizer: the one it is given, a pretrained one cut, or a new one."""
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
        on_image=lambda done, total: hooks.on_count("pictures", done, total),
    )
