"""Fine-tuning of a published checkpoint, or adaptation of a teacher: `fine_tune_teacher`.

The output folder is either a fine-tuning that can be resumed (training.json, history.jsonl,
checkpoints/, encoded/) or, when it is done, a teacher's model folder.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from msd_deploy import __version__, process_group
from msd_deploy.artifacts.atomic import remove_stale_folders
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Json,
    read_json,
    read_manifest,
    read_versioned_json,
    utc_now,
)
from msd_deploy.artifacts.output import (
    COPY_TO_RESUME,
    RESUMABLE,
    begin_folder,
    check_output,
    check_same_settings,
    check_writable,
)
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.parsing import config_as_json, config_of
from msd_deploy.config.run import RunConfig
from msd_deploy.data.augment.batches import build_augmentation
from msd_deploy.data.labels import class_weights_as_json, hide_labels, weigh_classes
from msd_deploy.data.prepare import notes_of, prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import kind_of_spec, path_of_spec
from msd_deploy.data.source import DatasetInfo, training_texts
from msd_deploy.distillation.encoded_cache import encode_data
from msd_deploy.distillation.history import History
from msd_deploy.distillation.losses import class_weight_tensor
from msd_deploy.distillation.objectives import AdaptationObjective, LabelObjective
from msd_deploy.distillation.plan import (
    Phase,
    TrainingPlan,
    TrainingResult,
    note_of_result,
    plan_key,
    watched_views,
)
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import ArtifactError, ConfigError, DataError
from msd_deploy.hooks import RunHooks
from msd_deploy.metrics import LogitsByView, metric_name
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import save_model
from msd_deploy.models.predict import predict_views
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.pretrained.fusion import open_fusion
from msd_deploy.models.pretrained.specialist import open_encoder
from msd_deploy.models.pretrained.teacher import PretrainedTeacher, check_freeze, freeze
from msd_deploy.models.pretrained.zero_shot import ZeroShotStart, zero_shot_start
from msd_deploy.models.teachers import check_teacher, open_teacher
from msd_deploy.run.adaptation import Adaptation, TrainedStart, begin_adaptation
from msd_deploy.run.output import absolute_data, absolute_folder
from msd_deploy.run.record import error_in_file, read_source
from msd_deploy.run.single_views import best_temperature, check_on_validation, unsound_views
from msd_deploy.run.stages import (
    check_adaptable,
    parameter_count,
    state_scores,
    without_validation,
)
from msd_deploy.views import View

_TRAINING_NAME, _HISTORY_NAME, _CHECKPOINTS_NAME = "training.json", "history.jsonl", "checkpoints"
_ENCODED_NAME = "encoded"
_FEWEST_FOR_TEMPERATURE = 50
_MOST_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class _FineTuning:
    """Values that the steps of a fine-tuning share."""

    config: TeachingConfig
    folder: Path
    start: PretrainedTeacher
    start_digest: str
    preprocessor: Preprocessor
    data: PreparedData
    hooks: RunHooks


def fine_tune_teacher(
    config: TeachingConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> Json:
    """Fine-tune a checkpoint on the labels, or adapt a teacher to single views, and write it.

    Under `accelerate launch` every process calls it; the main one writes.

    Args:
        config: Everything that decides the result.
        folder: Where it goes.
        resume: Continue an interrupted fine-tuning with the same configuration.
        overwrite: Replace an existing teacher.
        hooks: Progress and stopping.

    Returns:
        family, parameters, metric, per split and view the metric's value, and the data set's
        further metrics; of an adaptation also adapted_from, with those before it.

    Raises:
        MsdError: Bad input, or another process uses the folder; nothing is written then.
        StoppedError: Asked to stop; the fine-tuning can be resumed.
    """
    config = _absolute(config)
    process_group.begin()
    with claimed(folder) if process_group.is_main() else nullcontext():
        process_group.barrier()
        replaces = _check_output(config, folder, resume=resume, overwrite=overwrite)
        if resume and is_finished(folder):
            return _result(folder)
        with process_group.local_main_process_first():
            teaching = _read(config, folder, hooks or RunHooks())
        process_group.barrier()
        model = _build(teaching)
        if process_group.is_main():
            _begin(teaching, replaces=replaces)
        process_group.barrier()
        adaptation = None
        if config.finetune.adapt is not None:
            adaptation = begin_adaptation(
                model, teaching.start_digest, teaching.data, teaching.hooks.stages
            )
        training = None
        if not config.finetune.zero_shot:
            training = _train(teaching, model, adaptation)
        _save(teaching, model, training, adaptation)
        if process_group.is_main():
            remove_stale_folders(folder.resolve().parent)
        process_group.barrier()
        return _result(folder)


def is_finished(folder: Path) -> bool:
    """Return whether a folder is a model folder rather than a fine-tuning under way."""
    return (folder / MANIFEST_NAME).is_file()


def _is_taught(folder: Path) -> bool:
    """Return whether a folder is a finished teacher of `msd teacher`, and no other model."""
    return is_finished(folder) and isinstance(
        read_json(folder / MANIFEST_NAME).get("teaching"), dict
    )


def fine_tuning_config(folder: Path) -> TeachingConfig:
    """Return the configuration of a started fine-tuning or a finished teacher.

    Raises:
        ArtifactError: The folder is neither.
        ConfigError: The configuration does not suit this version; names its file.
    """
    path, key = folder / MANIFEST_NAME, "teaching"
    if is_finished(folder):
        recorded = read_manifest(folder, "model").get(key)
    elif (folder / _TRAINING_NAME).is_file():
        path, key = folder / _TRAINING_NAME, "config"
        recorded = read_versioned_json(path).get(key)
    else:
        raise ArtifactError(
            "there is no fine-tuning to resume", where=folder, fix="Start it without --resume"
        )
    if not isinstance(recorded, dict):
        raise ArtifactError("is not a teacher of `msd teacher`", where=folder)
    try:
        return config_of(TeachingConfig, recorded)
    except ConfigError as error:
        raise error_in_file(error, key, path) from error


def _absolute(config: TeachingConfig) -> TeachingConfig:
    """Return a configuration with absolute paths."""
    finetune = _with_starts(config.finetune, absolute_folder)
    return replace(config, data=absolute_data(config.data), finetune=finetune)


def _without_paths(config: TeachingConfig) -> TeachingConfig:
    """Return a configuration without paths; names on the hub and of tasks stay."""
    spec = kind_of_spec(config.data.spec)
    finetune = _with_starts(config.finetune, _name)
    return replace(config, data=replace(config.data, spec=spec, tokenizer=None), finetune=finetune)


def _with_starts(settings: FineTuneConfig, change: Callable[[str], str]) -> FineTuneConfig:
    """Return settings with each checkpoint name changed."""
    model, vision, text, adapt = (word and change(word) for word in _starts(settings))
    return replace(settings, model=model, vision=vision, text=text, adapt=adapt)


def _starts(settings: FineTuneConfig) -> tuple[str | None, ...]:
    return settings.model, settings.vision, settings.text, settings.adapt


def _name(name: str) -> str:
    """Return a folder's name without its path; a name on the hub stays."""
    return Path(name).name if Path(name).is_dir() else name


def _check_output(config: TeachingConfig, folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Check, before any work, that a teacher may be written; return whether one is replaced."""
    if not config.finetune.has_start:
        raise ConfigError(
            "no checkpoint is named", where="finetune.model", fix="Use --model, --text or --adapt"
        )
    remove_stale_folders(folder.resolve().parent)
    if resume:
        before = fine_tuning_config(folder)
        now = _without_paths(config) if is_finished(folder) else config
        fix = "Resume with the same options, or replace it with --overwrite"
        check_same_settings(folder, config_as_json(before), config_as_json(now), fix=fix)
        if not is_finished(folder):
            check_writable(folder, fix=COPY_TO_RESUME)
        return False
    starts = [Path(start) for start in _starts(config.finetune) if start is not None]
    replaces = check_output(
        folder,
        "teacher of `msd teacher`",
        is_kind=(folder / _TRAINING_NAME).is_file() or _is_taught(folder),
        overwrite=overwrite,
        fix=RESUMABLE,
        inputs=(path_of_spec(config.data.spec), config.data.tokenizer, *starts),
    )
    if replaces and is_finished(folder):
        read_manifest(folder, "model")  # nothing that the user added is removed
    return replaces


def _read(config: TeachingConfig, folder: Path, hooks: RunHooks) -> _FineTuning:
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
    if config.finetune.view is not None and not _labelled(data, config.finetune).any():
        raise DataError(
            f"no labelled training example has {config.finetune.view} input",
            where=config.data.spec,
            fix="Add such examples, or use another --view",
        )
    for note in notes_of(data.info):
        hooks.stages.on_note(note)
    return _FineTuning(config, folder, start, start.digest(), preprocessor, data, hooks)


def _labelled(data: PreparedData, settings: FineTuneConfig) -> NDArray[np.bool_]:
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


def _begin(teaching: _FineTuning, *, replaces: bool) -> None:
    """Write training.json, or check it against the current inputs.

    Raises:
        DataError: The data set has changed.
        ArtifactError: The checkpoint or the tokenizer has changed.
    """
    path = teaching.folder / _TRAINING_NAME
    facts: Json = {
        "dataset_digest": teaching.data.digest,
        "preprocess_digest": teaching.preprocessor.digest(),
        "checkpoint_digest": teaching.start_digest,
    }
    if replaces or not path.is_file():
        training: Json = {
            "schema_version": SCHEMA_VERSION,
            "msd_deploy": __version__,
            "created_utc": utc_now(),
            "config": config_as_json(teaching.config),
            **facts,
        }
        begin_folder(teaching.folder, _TRAINING_NAME, training, replaces=replaces)
        return
    before = read_versioned_json(path)
    fix = "Restore it, or start again with --overwrite"
    if before.get("dataset_digest") != facts["dataset_digest"]:
        where = teaching.config.data.spec
        what = "the data set has changed since the fine-tuning was started"
        raise DataError(what, where=where, fix=fix)
    for name in ("checkpoint", "preprocess"):
        if before.get(f"{name}_digest") != facts[f"{name}_digest"]:
            start = "checkpoint" if teaching.config.finetune.adapt is None else "teacher"
            what = start if name == "checkpoint" else "tokenizer"
            raise ArtifactError(
                f"the {what} has changed since the fine-tuning was started",
                where=teaching.folder,
                fix=fix,
            )


def _build(teaching: _FineTuning) -> ViewClassifier:
    """Build the model from the seed; training continues from the same generator state."""
    torch.manual_seed(teaching.config.seed)
    return teaching.start.build(
        teaching.preprocessor,
        labels=teaching.data.info.labels,
        problem=teaching.data.info.problem,
        dropout=teaching.config.finetune.dropout,
    )


def _train(
    teaching: _FineTuning, model: ViewClassifier, adaptation: Adaptation | None
) -> TrainingResult:
    config, data = teaching.config, teaching.data
    objective: LabelObjective | AdaptationObjective
    if adaptation is None:
        view, weights = config.finetune.view, class_weight_tensor(data.info.class_weights)
        objective = LabelObjective(0.0 if view else config.finetune.modality_dropout, weights)
        used = _labelled(data, config.finetune)
        what = teaching.start.family if view is None else f"the {view} encoder"
        how = f"Fine-tuning {what} on the labels"
    else:
        objective, used = adaptation.objective, adaptation.used
        how = f"Adapting the {teaching.start.family} teacher to single views"
    if config.finetune.gradient_checkpointing:
        model.checkpoint_activations()
    if config.finetune.encodes_once:
        freeze(model, config.finetune.freeze)
        data = _encoded(teaching, model, used)
    teaching.hooks.stages.on_stage(how)
    result = train(
        TrainingJob(
            model,
            objective,
            data,
            _plan(teaching),
            checkpoints=teaching.folder / _CHECKPOINTS_NAME,
            history=History(teaching.folder / _HISTORY_NAME),
            hooks=teaching.hooks.training,
            used=used,
            augment=build_augmentation(
                config.augment, data.splits["train"], teaching.preprocessor, seed=config.seed
            ),
        )
    )
    if note := note_of_result(result):
        teaching.hooks.stages.on_note(note)
    return result


def _encoded(teaching: _FineTuning, model: ViewClassifier, used: NDArray[np.bool_]) -> PreparedData:
    """Return the data with the outputs of the model's frozen parts; see `encode_data`."""
    return encode_data(
        model,
        teaching.data,
        teaching.folder / _ENCODED_NAME,
        used=used,
        key={
            "checkpoint": teaching.start_digest,
            "data": teaching.data.digest,
            "preprocess": teaching.preprocessor.digest(),
            "freeze": teaching.config.finetune.freeze,
        },
        hooks=teaching.hooks.stages,
    )


def _plan(teaching: _FineTuning) -> TrainingPlan:
    settings = teaching.config.finetune
    phase: Phase = "teacher" if settings.adapt is None else "adaptation"
    plan = TrainingPlan(
        phase=phase,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate * settings.fresh_rate,
        pretrained_rate=1 / settings.fresh_rate,
        weight_decay=settings.weight_decay,
        warmup_share=settings.warmup_share,
        seed=teaching.config.seed,
        log_every=settings.log_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        keep=settings.keep,
        patience=settings.patience,
        watched=(View(settings.view),)
        if settings.view
        else watched_views(settings.keep, phase, trains_single_views=settings.modality_dropout > 0),
        parts=settings.accumulate,
        precision=settings.precision,
        key=plan_key(
            config_as_json(_without_paths(teaching.config)),
            teaching.data.digest,
            teaching.preprocessor.digest(),
            teaching.start_digest,
        ),
    )
    return without_validation(plan, teaching.data)


def _save(
    teaching: _FineTuning,
    model: ViewClassifier,
    training: TrainingResult | None,
    adaptation: Adaptation | None,
) -> None:
    """Evaluate the teacher, and replace the fine-tuning by its model folder."""
    data = teaching.data
    teaching.hooks.stages.on_stage("Evaluating the teacher")
    parameters = parameter_count(model)
    result: Json = {
        "family": teaching.start.family,
        "parameters": parameters,
        "metric": metric_name(data.info.problem),
    }
    view = teaching.config.finetune.view
    for name in ("validation", "test"):
        logits = predict_views(model, data.splits[name])
        own = logits if view is None else {View(view): logits[View(view)]}
        state_scores(result, data, name, own)
        if name == "validation":
            checked = check_on_validation(logits, data)
            views = {key: checked[key] for key in checked if key in own}
            result["single_views"] = views
            specialists = () if view is None else (view,)
            for note in unsound_views(views, str(result["metric"]), specialists=specialists):
                teaching.hooks.stages.on_note(f"the {note}")
            if isinstance(teaching.start, ZeroShotStart):
                for note in _notes_on_temperature(teaching.start, data, logits):
                    teaching.hooks.stages.on_note(note)
    if not process_group.is_main():
        return
    origin: Json = (
        {"checkpoint_digest": teaching.start_digest}
        if adaptation is None
        else {"adapted_from": adaptation.facts}
    )
    if isinstance(teaching.start, ZeroShotStart):
        origin["zero_shot"] = teaching.start.facts()
    if training is not None:
        origin["training"] = {_plan(teaching).phase: asdict(training)}
    save_model(
        teaching.folder,
        model,
        teaching.preprocessor,
        labels=data.info.labels,
        problem=data.info.problem,
        facts={
            "dataset_digest": data.digest,
            "parameters": parameters,
            **origin,
            "teaching": config_as_json(_without_paths(teaching.config)),
            **class_weights_as_json(data.info),
            "result": result,
        },
    )


def _notes_on_temperature(
    start: ZeroShotStart, data: PreparedData, logits: LogitsByView
) -> list[str]:
    """Return which temperature suits the labels of validation best, if they are enough."""
    split = data.splits["validation"]
    labelled = split.has_label()
    if labelled.sum() < _FEWEST_FOR_TEMPERATURE:
        return []
    factor = best_temperature(
        logits[View.MULTIMODAL][labelled],
        split.labels[labelled],
        data.info.problem,
        least=1 / _MOST_FACTOR,
        most=_MOST_FACTOR,
    )
    if not 1.05 / _MOST_FACTOR < factor < _MOST_FACTOR / 1.05:  # without an optimum in the range
        return []
    used = start.used_temperature
    return [
        f"the temperature is {used:.3g}; on {labelled.sum():,} validation examples the negative"
        f" log-likelihood is lowest with --prompt-temperature {factor * used:.3g}"
    ]


def _result(folder: Path) -> Json:
    manifest = read_manifest(folder, "model")
    result, origin = manifest.get("result"), "adapted_from"
    if not isinstance(result, dict):
        raise ArtifactError("has no result", where=folder / MANIFEST_NAME)
    return {**result, origin: manifest[origin]} if origin in manifest else result
