"""What `msd teacher` reads: the checkpoints or the teacher to start from, and the data."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.labels import hide_labels, weigh_classes
from msd_deploy.data.prepare import notes_of, prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import DatasetInfo, training_texts
from msd_deploy.errors import DataError
from msd_deploy.hooks import RunHooks
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.pretrained.fusion import open_fusion
from msd_deploy.models.pretrained.specialist import open_encoder
from msd_deploy.models.pretrained.teacher import PretrainedTeacher, check_freeze
from msd_deploy.models.pretrained.zero_shot import zero_shot_start
from msd_deploy.models.teachers import check_teacher, open_teacher
from msd_deploy.run.adaptation import TrainedStart
from msd_deploy.run.record import read_source
from msd_deploy.run.stages import check_adaptable, notes_of_training
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Values that the steps of a fine-tuning share.

    Attributes:
        config: Its settings, with absolute paths.
        folder: Folder of the result.
        start: The checkpoints or the teacher.
        start_digest: Its digest.
        preprocessor: The teacher's preprocessor.
        data: Data prepared by it.
        hooks: Progress and stopping.
    """

    config: TeachingConfig
    folder: Path
    start: PretrainedTeacher
    start_digest: str
    preprocessor: Preprocessor
    data: PreparedData
    hooks: RunHooks


def read_fine_tuning(config: TeachingConfig, folder: Path, hooks: RunHooks) -> FineTuning:
    """Open the start, and read and prepare the data; notes on the data go to the hooks.

    Raises:
        MsdError: The start or the data cannot be used, or they do not suit each other.
    """
    hooks.stages.on_stage(f"Reading {config.data.spec}")
    start = open_start(config.finetune)
    check_freeze(start, config.finetune.freeze)
    preprocessor_for = partial(
        start.preprocessor,
        tokenizer=config.data.tokenizer,
        max_length=config.data.max_length,
        image_size=config.data.image_size,
    )
    preprocessor_for([])  # what is wrong with tokenizer or sizes is found before the data is read
    answers = None
    if isinstance(start, TrainedStart):
        answers = DatasetInfo(start.loaded.labels, start.loaded.problem)
    elif config.finetune.zero_shot:
        answers = DatasetInfo((), "single_label")
    source = read_source(RunConfig(data=config.data), answers)
    if isinstance(start, TrainedStart):
        check_teacher(start.loaded, labels=source.info.labels, problem=source.info.problem)
    preprocessor = preprocessor_for(training_texts(source)).with_max_pixels(config.data.max_pixels)
    data = prepare(
        source,
        preprocessor,
        strict=config.data.strict,
        on_count=hooks.stages.on_count,
    )
    if config.finetune.view == "image":  # without notes on texts, which are not read
        data = replace(data, info=replace(data.info, notes=source.info.notes))
    data = hide_labels(data, config.data.labelled_share, seed=config.data.seed)
    data = weigh_classes(data, config.data.class_weights)
    if config.finetune.adapt is not None:
        check_adaptable(data)
    if config.finetune.view is not None and not labelled_examples(data, config.finetune).any():
        raise DataError(
            f"no labelled training example has {config.finetune.view} input",
            where=config.data.spec,
            fix="Add such examples, or use another --view",
        )
    is_trained = not config.finetune.zero_shot
    for note in notes_of_training(data) if is_trained else notes_of(data.info):
        hooks.stages.on_note(note)
    return FineTuning(config, folder, start, start.digest(), preprocessor, data, hooks)


def labelled_examples(data: PreparedData, settings: FineTuneConfig) -> NDArray[np.bool_]:
    """Return which training examples have a label, and with --view its modality."""
    train = data.splits["train"]
    present = {"image": train.has_image, "text": train.has_text}
    has_label = train.has_label()
    return has_label if settings.view is None else has_label & present[settings.view]()


def open_start(settings: FineTuneConfig) -> PretrainedTeacher:
    """Open the checkpoints, or the teacher, that a teacher starts from.

    Raises:
        ConfigError: Parts are missing, or there is one too many.
        ArtifactError: A checkpoint cannot be used.
    """
    if settings.adapt is not None:
        return TrainedStart(open_teacher(Path(settings.adapt)))
    if settings.view is not None:
        name = settings.vision if settings.view == "image" else settings.text
        assert name is not None  # the settings have been checked
        return open_encoder(View(settings.view), name)
    if settings.text is not None and settings.vision is not None:
        return open_fusion(
            vision=settings.vision,
            text=settings.text,
            layers=settings.text_layers,
            is_cut=settings.cut_vocabulary,
        )
    assert settings.model is not None  # the settings have been checked
    checkpoint = open_checkpoint(settings.model, vision=settings.vision)
    if settings.zero_shot:
        return zero_shot_start(checkpoint, settings.zero_shot, settings.prompt_temperature)
    return checkpoint
