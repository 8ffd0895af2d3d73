"""The output folder of `msd teacher`, and its configuration with absolute paths or without paths.

The folder is either a fine-tuning that can be resumed (training.json, history.jsonl, checkpoints/,
encoded/) or, when it is done, a teacher's model folder.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import remove_stale_folders
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
    check_inputs_exist,
    check_output,
    check_same_settings,
    check_writable,
)
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.parsing import config_as_json, config_of
from msd_deploy.data.readers.spec import kind_of_spec, path_of_spec
from msd_deploy.errors import ArtifactError, ConfigError, DataError
from msd_deploy.run.fine_tuning_inputs import FineTuning
from msd_deploy.run.output import absolute_data, absolute_folder
from msd_deploy.run.record import error_in_file

_TRAINING_NAME = "training.json"


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


def teaching_with_absolute_paths(config: TeachingConfig) -> TeachingConfig:
    """Return a configuration with absolute paths."""
    finetune = _with_starts(config.finetune, absolute_folder)
    return replace(config, data=absolute_data(config.data), finetune=finetune)


def teaching_without_paths(config: TeachingConfig) -> TeachingConfig:
    """Return a configuration without paths; names on the hub and of tasks stay."""
    spec = kind_of_spec(config.data.spec)
    finetune = _with_starts(config.finetune, _name)
    return replace(config, data=replace(config.data, spec=spec, tokenizer=None), finetune=finetune)


def _with_starts(settings: FineTuneConfig, change: Callable[[str], str]) -> FineTuneConfig:
    """Return settings with each checkpoint name changed."""
    model, vision, text, adapt = (word and change(word) for word in _starts(settings).values())
    return replace(settings, model=model, vision=vision, text=text, adapt=adapt)


def _starts(settings: FineTuneConfig) -> dict[str, str | None]:
    return {key: getattr(settings, key) for key in ("model", "vision", "text", "adapt")}


def _name(name: str) -> str:
    """Return a folder's name without its path; a name on the hub stays."""
    return Path(name).name if Path(name).is_dir() else name


def check_fine_tuning_output(
    config: TeachingConfig, folder: Path, *, resume: bool, overwrite: bool
) -> bool:
    """Check, before any work, that a teacher may be written; return whether one is replaced."""
    if not config.finetune.has_start:
        raise ConfigError(
            "no checkpoint is named", where="finetune.model", fix="Use --model, --text or --adapt"
        )
    remove_stale_folders(folder.resolve().parent)
    starts = {f"finetune.{key}": name for key, name in _starts(config.finetune).items()}
    inputs = {
        "data.spec": path_of_spec(config.data.spec),
        "data.tokenizer": config.data.tokenizer,
        **{key: None if name is None else Path(name) for key, name in starts.items()},
    }
    if resume:
        before = fine_tuning_config(folder)
        now = teaching_without_paths(config) if is_finished(folder) else config
        fix = "Resume with the same options, or replace it with --overwrite"
        check_same_settings(folder, config_as_json(before), config_as_json(now), fix=fix)
        if not is_finished(folder):
            check_inputs_exist(inputs, folder / _TRAINING_NAME)
            check_writable(folder, fix=COPY_TO_RESUME)
        return False
    replaces = check_output(
        folder,
        "teacher of `msd teacher`",
        is_kind=(folder / _TRAINING_NAME).is_file() or _is_taught(folder),
        overwrite=overwrite,
        fix=RESUMABLE,
        inputs=inputs.values(),
    )
    if replaces and is_finished(folder):
        read_manifest(folder, "model")  # nothing that the user added is removed
    return replaces


def begin_fine_tuning(teaching: FineTuning, *, replaces: bool) -> None:
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


def result_of(folder: Path) -> Json:
    """Return the result of a finished teacher; see `fine_tune_teacher`.

    Raises:
        ArtifactError: There is none.
    """
    manifest = read_manifest(folder, "model")
    result, origin = manifest.get("result"), "adapted_from"
    if not isinstance(result, dict):
        raise ArtifactError("has no result", where=folder / MANIFEST_NAME)
    return {**result, origin: manifest[origin]} if origin in manifest else result
