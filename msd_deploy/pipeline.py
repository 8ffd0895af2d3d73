"""The pipeline from a data set to a distilled student: `run_distillation`."""

import shlex
import shutil

from msd_deploy import process_group
from msd_deploy.artifacts.atomic import remove_stale_writes
from msd_deploy.artifacts.manifest import Json, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.prepare import notes_of
from msd_deploy.distillation.distances import check_distance
from msd_deploy.distillation.history import check_tracker
from msd_deploy.errors import StoppedError
from msd_deploy.hooks import RunHooks
from msd_deploy.run.output import check_run_output, with_absolute_paths
from msd_deploy.run.stages import cached_predictions, given_teacher, measure, trained_teacher
from msd_deploy.run.student import check_student, distilled_student
from msd_deploy.run.task import begin_run, read_task


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
        MsdError: Bad input; nothing is written then. See `msd_deploy.errors`.
        StoppedError: Asked to stop; the run can be resumed.
    """
    watching, config = hooks or RunHooks(), with_absolute_paths(config)
    stages = watching.stages
    process_group.begin()
    check_tracker(config.tracker)
    record, replaces = check_run_output(config, run, resume=resume, overwrite=overwrite)
    with process_group.local_main_process_first():
        task, source = read_task(config, run, stages, watching.training, record=record)
        check_distance(config.distill, task.data.info.problem, len(task.data.info.labels))
        for note in notes_of(task.data.info):
            stages.on_note(note)
        teacher_data, given = given_teacher(task, source)
        check_student(task)
    process_group.barrier()
    if process_group.is_main():
        begin_run(task, given, replaces=replaces)
    process_group.barrier()
    try:
        teacher = given or trained_teacher(task)
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
