"""Whether a run may be written: new, resumed or overwritten; configurations with absolute paths."""

from dataclasses import replace
from pathlib import Path

from msd_deploy.artifacts.atomic import holds_something
from msd_deploy.artifacts.manifest import Json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data.readers.spec import kind_of_spec, path_of_spec, with_path
from msd_deploy.errors import ArtifactError
from msd_deploy.run.record import RunRecord, read_run


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a configuration that means the same from any folder.

    What is not there stays as it was stated, for the error that names it.
    """
    teacher, student = config.teacher, config.student
    return replace(
        config,
        data=absolute_data(config.data),
        teacher=replace(
            teacher, path=teacher.path and Path(absolute_folder(teacher.path.as_posix()))
        ),
        student=replace(
            student,
            vision=student.vision and absolute_folder(student.vision),
            text=student.text and absolute_folder(student.text),
            start=student.start and student.start.resolve(),
        ),
    )


def absolute_data(data: DataConfig) -> DataConfig:
    """Return settings of data that mean the same from any folder; see `with_absolute_paths`."""
    return replace(
        data,
        spec=_absolute_spec(data.spec),
        tokenizer=None if data.tokenizer is None else data.tokenizer.resolve(),
    )


def _absolute_spec(stated: str) -> str:
    """Return a SPEC with an absolute path; a link stays one, as rows name pictures beside it."""
    path = path_of_spec(stated)
    try:
        is_there = path is not None and path.exists()
    except OSError:  # too long for a name, for example
        return stated
    if path is None or not is_there:
        return stated
    return with_path(stated, path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def absolute_folder(stated: str) -> str:
    """Return a folder's absolute path; a name on the hub stays as it is."""
    path = Path(stated)
    return str(path.resolve()) if path.is_dir() else stated


def without_paths(config: RunConfig) -> RunConfig:
    """Return what decides a result, not where it lies, nor who watches.

    Digests stand for the files' contents.
    """
    return replace(
        config,
        data=replace(config.data, spec=kind_of_spec(config.data.spec), tokenizer=None),
        teacher=replace(config.teacher, path=None),
        student=replace(config.student, start=None),
        tracker=None,
    )


def check_output(
    config: RunConfig, run: RunDirectory, *, resume: bool, overwrite: bool
) -> RunRecord | None:
    """Check, before any work, that a run may be written.

    Returns:
        What is resumed; None: the run will be new.

    Raises:
        ArtifactError: It exists and is neither resumed nor overwritten; there is nothing to resume;
            it was started with other settings; or the folder to overwrite is no run, or holds
            what the new run reads.
    """
    if resume:
        return _check_same_config(config, run)
    if not holds_something(run.root):
        return None
    if not overwrite:
        raise ArtifactError(
            "already exists",
            where=run.root,
            fix="Use another --out, --resume it, or --overwrite it",
        )
    if run.study_json.is_file():
        raise ArtifactError(
            "is a study of `msd compare`, so it is not overwritten",
            where=run.root,
            fix="Use another --out",
        )
    if not run.run_json.is_file():
        raise ArtifactError(
            "is not a run, so it is not overwritten", where=run.root, fix="Use another --out"
        )
    refuse_overwriting_input(config, run)
    return None


def refuse_overwriting_input(config: RunConfig, run: RunDirectory) -> None:
    """Refuse to overwrite a folder that holds what is to be read.

    Raises:
        ArtifactError: It does.
    """
    read = (config.data.tokenizer, config.teacher.path, config.student.start)
    for path in (path_of_spec(config.data.spec), *read):
        if path is not None and path.resolve().is_relative_to(run.root.resolve()):
            raise ArtifactError(
                "lies in the run that would be overwritten",
                where=path,
                fix="Copy it elsewhere first, or use another --out",
            )


def _check_same_config(config: RunConfig, run: RunDirectory) -> RunRecord:
    record = read_run(run)
    stated = config_as_json(replace(with_absolute_paths(record.config), tracker=None))
    ours = config_as_json(replace(config, tracker=None))
    if stated != ours:
        raise ArtifactError(
            f"was started with other settings ({first_difference(stated, ours)})",
            where=run.root,
            fix="Resume with the same options, or --overwrite it",
        )
    return record


def first_difference(stated: Json, ours: Json, prefix: str = "") -> str:
    """Return the first key in which two configurations differ, and both values."""
    for key in sorted(stated.keys() | ours.keys()):
        before, now = stated.get(key), ours.get(key)
        if isinstance(before, dict) and isinstance(now, dict) and before != now:
            return first_difference(before, now, f"{prefix}{key}.")
        if before != now:
            return f"{prefix}{key}: {before!r} then, {now!r} now"
    return "none found"
