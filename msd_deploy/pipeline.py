"""The pipeline from a data set to a distilled student: `run_distillation`, and its dry run."""

import shlex
import shutil
from contextlib import nullcontext

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import remove_stale_writes
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import Json, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.prepared import PreparedData
from msd_deploy.distillation.distances import check_distance
from msd_deploy.distillation.history import check_tracker
from msd_deploy.distillation.student_objective import check_held_out
from msd_deploy.errors import ConfigError, MsdError, StoppedError
from msd_deploy.hooks import RunHooks
from msd_deploy.models.teachers import Teacher
from msd_deploy.run.adaptation import teacher_of_run
from msd_deploy.run.dry_run import describe_run
from msd_deploy.run.operating_points import check_decisions
from msd_deploy.run.output import check_run_output, with_absolute_paths
from msd_deploy.run.record import RunRecord, naming_run_json
from msd_deploy.run.stages import cached_predictions, given_teacher, measure, notes_of_training
from msd_deploy.run.student import check_student, distilled_student
from msd_deploy.run.task import Task, begin_run, open_models, read_task


def run_distillation(
    config: RunConfig,
    run: RunDirectory,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> Json:
    """Train or load a teacher, cache its predictions, distil a student, and evaluate both.

    Under `accelerate launch` every process calls it; the main one writes.

    Args:
        config: Everything that decides the result.
        run: Where it goes.
        resume: Continue an interrupted run with the same configuration.
        overwrite: Replace an existing run.
        hooks: Progress and stopping.

    Returns:
        The content of metrics.json.

    Raises:
        MsdError: Bad input, or another process uses the run; nothing is written then. See
            `msd_deploy.errors`.
        StoppedError: Asked to stop; the run can be resumed.
    """
    watching, config = hooks or RunHooks(), with_absolute_paths(config)
    stages = watching.stages
    process_group.begin()
    check_tracker(config.tracker)
    with claimed(run.root) if process_group.is_main() else nullcontext():
        process_group.barrier()
        record, replaces = check_run_output(config, run, resume=resume, overwrite=overwrite)
        with process_group.local_main_process_first():
            task, teacher_data, given = _read_inputs(config, run, watching, record)
        process_group.barrier()
        if process_group.is_main():
            begin_run(task, given, replaces=replaces)
        process_group.barrier()
        try:
            teacher = teacher_of_run(task, given, teacher_data)
            predictions = cached_predictions(task, teacher, teacher_data)
            student = distilled_student(task, predictions)
            stages.on_stage("Evaluating teacher and student")
            metrics = measure(task, predictions, teacher.model, student)
        except StoppedError as error:
            command = f"msd distill --resume --out {shlex.quote(str(run.root))}"
            raise StoppedError(error.what, fix=f"Continue with `{command}`") from error
        if process_group.is_main():
            write_json(run.metrics, metrics)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            remove_stale_writes(run.root)
        process_group.barrier()
        return metrics


def dry_run_distillation(
    config: RunConfig,
    run: RunDirectory,
    *,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> Json:
    """Read and check all that a run reads, and return what it would train; see `describe_run`.

    Nothing is written but the cache of decoded images.

    Args:
        config: Everything that decides the result.
        run: Where the run would go.
        overwrite: Whether it would replace an existing run.
        hooks: Progress and stopping.

    Raises:
        MsdError: The run would fail in the same way.
        StoppedError: Asked to stop.
    """
    watching, config = hooks or RunHooks(), with_absolute_paths(config)
    process_group.begin()
    if process_group.world_size() > 1:
        raise ConfigError(
            "is for one process", where="--dry-run", fix="Run it without accelerate launch"
        )
    check_tracker(config.tracker)
    check_run_output(config, run, resume=False, overwrite=overwrite)
    return describe_run(*_read_inputs(config, run, watching, None))


def _read_inputs(
    config: RunConfig, run: RunDirectory, watching: RunHooks, record: RunRecord | None
) -> tuple[Task, PreparedData, Teacher | None]:
    """Read data and teacher, and check them with the settings; return also the teacher's data."""
    with naming_run_json(run, (MsdError,)) if record else nullcontext():
        opened = open_models(config, run, record)
    task, source = read_task(
        config, run, watching.stages, watching.training, record=record, given=opened
    )
    with naming_run_json(run) if record else nullcontext():
        check_distance(config.distill, task.data.info.problem, len(task.data.info.labels))
        check_held_out(config.distill, task.data, seed=config.seed)
        check_student(task)
        check_decisions(config.decisions, task.data)
    for note in notes_of_training(task.data):
        watching.stages.on_note(note)
    teacher_data, given = given_teacher(task, source, opened.teacher)
    return task, teacher_data, given
