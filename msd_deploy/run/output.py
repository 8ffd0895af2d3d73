"""The output folder of a run, and configurations with absolute paths or without paths."""

from dataclasses import replace
from pathlib import Path

from msd_deploy.artifacts.atomic import remove_stale_folders
from msd_deploy.artifacts.output import (
    COPY_TO_RESUME,
    RESUMABLE,
    check_inputs_exist,
    check_output,
    check_same_settings,
    check_writable,
)
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data.readers.spec import kind_of_spec, path_of_spec, with_path
from msd_deploy.run.record import RunRecord, read_run


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a configuration with absolute paths.

    A path that does not exist stays as it was given, for the error that names it.
    """
    teacher, student = config.teacher, config.student
    return replace(
        config,
        data=absolute_data(config.data),
        teacher=replace(
            teacher,
            path=_absolute_model(teacher.path),
            image_path=_absolute_model(teacher.image_path),
            text_path=_absolute_model(teacher.text_path),
        ),
        student=replace(
            student,
            vision=student.vision and absolute_folder(student.vision),
            text=student.text and absolute_folder(student.text),
            start=student.start and student.start.resolve(),
        ),
    )


def absolute_data(data: DataConfig) -> DataConfig:
    """Return data settings with absolute paths; see `with_absolute_paths`."""
    return replace(
        data,
        spec=_absolute_spec(data.spec),
        tokenizer=None if data.tokenizer is None else data.tokenizer.resolve(),
    )


def _absolute_spec(spec: str) -> str:
    """Return a SPEC with an absolute path; a link stays one, as its rows name images beside it."""
    path = path_of_spec(spec)
    try:
        is_there = path is not None and path.exists()
    except OSError:  # too long for a name, for example
        return spec
    if path is None or not is_there:
        return spec
    return with_path(spec, path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def _absolute_model(path: Path | None) -> Path | None:
    return path and Path(absolute_folder(path.as_posix()))


def absolute_folder(name: str) -> str:
    """Return a folder's absolute path; a name on the hub stays as it is."""
    path = Path(name)
    return str(path.resolve()) if path.is_dir() else name


def without_paths(config: RunConfig) -> RunConfig:
    """Return a configuration without paths and without the experiment tracker.

    Digests stand for the files' contents.
    """
    return replace(
        config,
        data=replace(config.data, spec=kind_of_spec(config.data.spec), tokenizer=None),
        teacher=replace(config.teacher, path=None, image_path=None, text_path=None),
        student=replace(config.student, start=None),
        tracker=None,
    )


def check_run_output(
    config: RunConfig, run: RunDirectory, *, resume: bool, overwrite: bool
) -> tuple[RunRecord | None, bool]:
    """Check, before any work, that a run may be written.

    Returns:
        What is resumed, if anything, and whether an older run is replaced.

    Raises:
        ArtifactError: See `msd_deploy.artifacts.output`; or there is nothing to resume.
    """
    remove_stale_folders(run.root.resolve().parent)
    if resume:
        record = read_run(run)
        before = config_as_json(replace(with_absolute_paths(record.config), tracker=None))
        now = config_as_json(replace(config, tracker=None))
        fix = "Resume with the same options, or replace it with --overwrite"
        check_same_settings(run.root, before, now, fix=fix)
        copied = {"teacher.path": None} if run.teacher.is_dir() else {}
        check_inputs_exist(inputs_of(config) | copied, run.run_json)
        if not run.metrics.is_file():
            check_writable(run.root, fix=COPY_TO_RESUME)
        return record, False
    return None, check_output(
        run.root,
        "run of `msd distill`",
        is_kind=run.run_json.is_file() and not run.study_json.is_file(),
        overwrite=overwrite,
        fix=RESUMABLE,
        inputs=inputs_of(config).values(),
    )


def inputs_of(config: RunConfig) -> dict[str, Path | None]:
    """Return the paths that a run reads by key of the configuration; None where it has none."""
    return {
        "data.spec": path_of_spec(config.data.spec),
        "data.tokenizer": config.data.tokenizer,
        "teacher.path": config.teacher.path,
        "teacher.image_path": config.teacher.image_path,
        "teacher.text_path": config.teacher.text_path,
        "student.start": config.student.start,
    }
