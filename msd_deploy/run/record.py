"""run.json: written when a run begins, checked when it is resumed, read again with its data."""

import importlib.metadata
import shutil
from pathlib import Path

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import SCHEMA_VERSION, Json, utc_now, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import RunConfig, config_from_json
from msd_deploy.data.labels import class_weights_as_json
from msd_deploy.data.pixel_cache import OnImage
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import load_source, path_of_spec
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.errors import ArtifactError, DataError
from msd_deploy.models.teachers import Teacher

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "pillow")


def read_source(config: RunConfig) -> SourceData:
    """Read the data set that a configuration names, as it says.

    Raises:
        DataError: It cannot be read.
    """
    data = config.data
    options = SourceOptions(
        seed=data.seed,
        examples=data.examples,
        label_noise=data.label_noise,
        labels=data.labels,
        strict=data.strict,
        image_column=data.image_column,
        text_column=data.text_column,
        label_column=data.label_column,
    )
    return load_source(data.spec, options=options)


def begin_run(
    config: RunConfig,
    run: RunDirectory,
    data: PreparedData,
    preprocessor: Preprocessor,
    given: Teacher | None,
    *,
    start_digest: str | None = None,
) -> None:
    """Write run.json, and a copy of a given teacher, so that the run is complete in itself.

    Args:
        config: Of the run.
        run: The run.
        data: Prepared for the student.
        preprocessor: The student's.
        given: The teacher, unless the run trains one.
        start_digest: Of the finished student that it goes on from, if it does.

    Raises:
        DataError: The run is resumed, and its data set is not what it was.
        ArtifactError: The run is resumed, and its tokenizer, teacher or the student that it goes on
            from is not what it was.
    """
    digests: Json = {
        "preprocess_digest": preprocessor.digest(),
        "teacher_digest": given.digest if given else None,
        "start_digest": start_digest,
    }
    if run.run_json.is_file():
        _check_same_data(config, run, data)
        _check_same_inputs(config, run, digests)
    else:
        _write_run_json(config, run, data, digests)
    if given is not None and not run.teacher.is_dir():
        with new_folder(run.teacher) as building:
            shutil.copytree(given.folder, building, dirs_exist_ok=True)


def given_teacher_folder(config: RunConfig, run: RunDirectory, *, resume: bool) -> Path | None:
    """Return where a given teacher is read: once the run has its own copy, there."""
    if config.teacher.path is not None and resume and run.teacher.is_dir():
        return run.teacher
    return config.teacher.path


def _check_same_inputs(config: RunConfig, run: RunDirectory, digests: Json) -> None:
    stated = run.read()
    start = config.student.start
    inputs = {  # the student before its tokenizer, which it brings
        "start_digest": ("student that it goes on from", start),
        "preprocess_digest": ("tokenizer", config.data.tokenizer or start or run.root),
        "teacher_digest": ("teacher", given_teacher_folder(config, run, resume=True)),
    }
    for key, (what, where) in inputs.items():
        # Runs of 0.1.0 do not state their preprocessing; a teacher that is trained has no digest.
        if digests[key] is not None and stated.get(key) not in (None, digests[key]):
            raise ArtifactError(
                f"the {what} has changed since the run was begun",
                where=where,
                fix="Restore it, or distil again with --overwrite",
            )


def _write_run_json(
    config: RunConfig, run: RunDirectory, data: PreparedData, digests: Json
) -> None:
    is_new = not run.root.exists()
    stated: Json = {
        "schema_version": SCHEMA_VERSION,
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        "seed": config.seed,
        "config": config_as_json(config),
        "dataset_digest": data.digest,
        **digests,
        "examples": {name: len(split) for name, split in data.splits.items()},
        "skipped_rows": [str(row) for row in data.skipped],
        **class_weights_as_json(data),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    try:
        write_json(run.run_json, stated)
    except OSError:
        if is_new:
            shutil.rmtree(run.root, ignore_errors=True)
        raise


def config_of_run(run: RunDirectory) -> RunConfig:
    """Return the configuration that a run was made with.

    Raises:
        ArtifactError: The folder is not a run.
        ConfigError: Its configuration does not suit this version.
    """
    stated = run.read().get("config")
    if not isinstance(stated, dict):
        raise ArtifactError("states no config", where=run.run_json)
    return config_from_json(stated)


def data_of_run(
    run: RunDirectory, preprocessor: Preprocessor, *, on_image: OnImage = lambda done, total: None
) -> PreparedData:
    """Read and prepare a run's data set again, for export and bench.

    Raises:
        DataError: It has changed since the run, or cannot be read.
    """
    source = source_of_run(config_of_run(run), run)
    return prepare_for_run(run, source, preprocessor, on_image=on_image)


def prepare_for_run(
    run: RunDirectory,
    source: SourceData,
    preprocessor: Preprocessor,
    *,
    on_image: OnImage = lambda done, total: None,
) -> PreparedData:
    """Prepare a run's data set that was read again.

    Raises:
        DataError: It has changed since the run, or cannot be used.
    """
    config = config_of_run(run)
    data = prepare(source, preprocessor, strict=config.data.strict, on_image=on_image)
    _check_same_data(config, run, data)
    return data


def source_of_run(config: RunConfig, run: RunDirectory) -> SourceData:
    """Read the data set of a run that was begun.

    Raises:
        DataError: It is not where it was, or cannot be read.
    """
    spec = config.data.spec
    path = path_of_spec(spec)
    if path is not None and not path.exists():
        raise DataError(
            "the run's data set is not there",
            where=path,
            fix=f"Put it back, or state its absolute path as config.data.spec in {run.run_json}",
        )
    return read_source(config)


def _check_same_data(config: RunConfig, run: RunDirectory, data: PreparedData) -> None:
    if data.digest != run.read().get("dataset_digest"):
        raise DataError(
            "the data set has changed since the run was begun",
            where=config.data.spec,
            fix="Restore the data, or distil again with --overwrite",
        )
