"""RunRecord: run.json read once per command and passed along, and the run's data read again."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.claim import read_finished
from msd_deploy.artifacts.manifest import RESTORE, Json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig, config_from_json
from msd_deploy.data.pixel_cache import OnCount
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import load_source, path_of_spec
from msd_deploy.data.source import DatasetInfo, SourceData, SourceOptions
from msd_deploy.errors import ConfigError, DataError, MsdError
from msd_deploy.models.folders import read_labels

_KEY = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of a run's run.json.

    Attributes:
        run: Where the run lies.
        config: The configuration that it was made with.
        content: The whole JSON object.
    """

    run: RunDirectory
    config: RunConfig
    content: Json

    @property
    def dataset_digest(self) -> object:
        """Digest of the run's data set."""
        return self.content.get("dataset_digest")

    def check_same_data(self, data: PreparedData) -> None:
        """Check that the data is the same as when the run was started.

        Raises:
            DataError: It has changed.
        """
        if data.digest != self.dataset_digest:
            raise DataError(
                "the data set has changed since the run was started",
                where=self.config.data.spec,
                fix="Restore the data, or start again with --overwrite",
            )


def read_run(run: RunDirectory) -> RunRecord:
    """Read run.json.

    Raises:
        ArtifactError: The folder is not a run.
        ConfigError: Its configuration does not suit this version.
    """
    return _record(run, run.read())


def read_finished_run(run: RunDirectory) -> RunRecord:
    """Read run.json of a run whose distillation went to its end.

    Raises:
        ArtifactError: The folder is not a run, or the run is unfinished.
        ConfigError: Its configuration does not suit this version.
    """
    return _record(run, read_finished(run))


def _record(run: RunDirectory, content: Json) -> RunRecord:
    with naming_run_json(run):
        return RunRecord(run, config_from_json(cast(Json, content["config"])), content)


def error_in_file(error: ConfigError, key: str, path: Path) -> ConfigError:
    """Return an error of settings that names their file, and their place under its key."""
    what = f"{key}.{error.where}: {error.what}" if error.where else error.what
    return ConfigError(what, where=path, fix=error.fix or RESTORE)


@contextmanager
def naming_run_json(
    run: RunDirectory,
    kinds: tuple[type[MsdError], ...] = (ConfigError, DataError),
    *,
    given: Collection[str] = (),
) -> Iterator[None]:
    """Name run.json in errors of the settings that come from it.

    Args:
        run: The run.
        kinds: Which errors are of settings in the block.
        given: Keys of settings that come from elsewhere, such as options.
    """
    try:
        yield
    except kinds as error:
        where = error.where or ""
        is_key = _KEY.fullmatch(where) is not None
        is_given = where in given if is_key else any(key.startswith("data.") for key in given)
        if is_given or str(run.run_json) in str(error) or where.startswith(str(run.root)):
            raise
        if isinstance(error, ConfigError) and (is_key or not where):
            raise error_in_file(error, "config", run.run_json) from error
        fix = f"{error.fix or 'Restore it'}, or correct config in {run.run_json}"
        raise type(error)(error.what, where=error.where, fix=fix) from error


def read_source(config: RunConfig, teacher: DatasetInfo | None = None) -> SourceData:
    """Read the data set of a configuration.

    Args:
        config: The configuration.
        teacher: See `SourceOptions`.

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
        teacher=teacher,
    )
    return load_source(data.spec, options=options)


def source_of_run(record: RunRecord, teacher: DatasetInfo | None = None) -> SourceData:
    """Read the data set of a started run.

    Args:
        record: The run.
        teacher: See `SourceOptions`; None: the classes of a finished run's student, if it learned
            from a given teacher.

    Raises:
        DataError: It is not where it was, or cannot be read.
    """
    path = path_of_spec(record.config.data.spec)
    if path is not None and not path.exists():
        run_json = record.run.run_json
        raise DataError(
            "the run's data set is missing",
            where=path,
            fix=f"Put it back, or set config.data.spec to its absolute path in {run_json}",
        )
    if teacher is None and learns_from_given(record.config):
        teacher = DatasetInfo(*read_labels(record.run.student))
    with naming_run_json(record.run):
        return read_source(record.config, teacher)


def learns_from_given(config: RunConfig) -> bool:
    """Return whether a run has a given teacher to learn from, so that its data needs no labels."""
    return config.teacher.path is not None and config.distill.method != "none"


def data_of_run(
    record: RunRecord,
    preprocessor: Preprocessor,
    *,
    on_count: OnCount = lambda what, done, total: None,
) -> PreparedData:
    """Read and prepare a run's data set again, for export and bench.

    Raises:
        DataError: It has changed since the run, or cannot be read.
    """
    return prepare_for_run(record, source_of_run(record), preprocessor, on_count=on_count)


def prepare_for_run(
    record: RunRecord,
    source: SourceData,
    preprocessor: Preprocessor,
    *,
    on_count: OnCount = lambda what, done, total: None,
) -> PreparedData:
    """Prepare a run's data set that was read again.

    Raises:
        DataError: It has changed since the run, or cannot be used.
    """
    data = prepare(source, preprocessor, strict=record.config.data.strict, on_count=on_count)
    record.check_same_data(data)
    return data
