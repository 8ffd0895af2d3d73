"""`run_study`: one teacher, every method and seed, and the comparison of the results."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import remove_stale_folders, remove_stale_writes
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import (
    SCHEMA_VERSION,
    Json,
    json_text,
    read_versioned_json,
    utc_now,
    write_texts,
)
from msd_deploy.artifacts.output import (
    ANOTHER_OUT,
    begin_folder,
    check_output,
    check_same_settings,
)
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import config_from_json
from msd_deploy.data.batch import rows_by_image
from msd_deploy.data.labels import check_labelled
from msd_deploy.data.prepare import notes_of
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.readers.spec import name_of_spec
from msd_deploy.distillation.distances import check_distance
from msd_deploy.distillation.history import check_tracker
from msd_deploy.distillation.methods import METHODS
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.errors import ConfigError, StoppedError
from msd_deploy.hooks import Hooks, StageHooks
from msd_deploy.metrics import LogitsByView, metric_name, row_counts
from msd_deploy.problem import Problem
from msd_deploy.run.adaptation import teacher_of_run
from msd_deploy.run.output import inputs_of, with_absolute_paths
from msd_deploy.run.record import error_in_file, read_run
from msd_deploy.run.single_views import check_on_validation
from msd_deploy.run.stages import cached_predictions, given_teacher, ordinary_steps
from msd_deploy.run.task import Task, begin_run, open_models, read_task
from msd_deploy.study.cells import cell_directory, finished_cells, is_done, read_cell
from msd_deploy.study.compute import measure_flops, steps_by_method
from msd_deploy.study.config import StudyConfig
from msd_deploy.study.page import render_study
from msd_deploy.study.statistics import (
    Counts,
    PairedDifference,
    Spread,
    gap_closed,
    metric_of_counts,
    paired_difference,
    spread_of,
)
from msd_deploy.study.tables import study_markdown
from msd_deploy.study.workers import train_cells
from msd_deploy.views import View

RESULT_NAME = "compare.json"
TABLE_NAME, PAGE_NAME = "compare.md", "compare.html"
_BASELINES = ("none", "kd", "kd-dropout", "msd-fixed")

CountsByCell = dict[str, dict[int, dict[View, Counts]]]
"""Method to seed to view to counts [test images, 2]."""
SpreadsByMethod = dict[str, dict[View, Spread]]


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    overwrite: bool = False,
    facts: Mapping[str, object] | None = None,
    hooks: StageHooks | None = None,
    training: Hooks | None = None,
) -> Json:
    """Train the missing cells of a study, and write compare.json, compare.md and compare.html.

    An existing study is continued: methods and seeds may be added, all else must be the same.

    Args:
        study: The study.
        out: Its folder.
        overwrite: Start anew.
        facts: What the result should state besides, such as the command and the machine.
        hooks: Progress.
        training: Progress of the teacher's training, and stopping.

    Returns:
        The content of compare.json.

    Raises:
        MsdError: Bad input, or another process uses the study. See `msd_deploy.errors`.
        StoppedError: Asked to stop; run it again to go on.
    """
    hooks, training = hooks or StageHooks(), training or Hooks()
    study = replace(study, base=with_absolute_paths(study.base)).to_the_end()
    check_tracker(study.base.tracker)
    run = RunDirectory(out)
    with claimed(out):
        replaces = _check_output(study, run, overwrite=overwrite)
        record = read_run(run) if run.run_json.is_file() and not replaces else None
        opened = open_models(study.base, run, record)
        task, source = read_task(study.base, run, hooks, training, record=record, given=opened)
        check_labelled(task.data, "test", "a comparison of methods")
        if "none" in study.methods:
            check_labelled(task.data, "train", "the method none")
        for method in study.methods:
            check_distance(
                study.of_cell(method, 0).distill, task.data.info.problem, len(task.data.info.labels)
            )
        for note in notes_of(task.data.info):
            hooks.on_note(note)
        teacher_data, given = given_teacher(task, source, opened.teacher)
        # First: with run.json alone, an interrupted start would look like a run.
        begin_folder(out, run.study_json.name, _identity(study), replaces=replaces)
        begin_run(task, given)
        try:
            teacher = teacher_of_run(task, given, teacher_data)
        except StoppedError as error:
            raise StoppedError(error.what, fix="Run the same command again to continue") from error
        predictions = cached_predictions(task, teacher, teacher_data)
        hooks.on_stage("Counting the operations of a training step of each method")
        known = dict.fromkeys([*study.methods, *(method for method, _ in finished_cells(out))])
        whole = replace(study, methods=tuple(known))
        flops, reference = measure_flops(whole, task, predictions)
        steps = steps_by_method(whole, flops, reference, ordinary_steps(task))
        _train_missing(study, out, steps, hooks, training)
        hooks.on_stage("Comparing")
        result = {
            **_head(study, task, facts or {}),
            **_results(out, task, predictions),
            "steps": steps,
            "flops_per_step": {method: round(value) for method, value in flops.items()},
        }
        write_texts(
            {
                out / RESULT_NAME: json_text(result, indent=2),
                out / TABLE_NAME: study_markdown(result),
                out / PAGE_NAME: render_study(result),
            }
        )
        shutil.rmtree(task.run.checkpoints, ignore_errors=True)
        remove_stale_writes(out)
        return result


def _check_output(study: StudyConfig, run: RunDirectory, *, overwrite: bool) -> bool:
    """Check, before any work, that a study may be begun or continued.

    Returns:
        Whether an older study is replaced.
    """
    remove_stale_folders(run.root.resolve().parent)
    is_study = run.study_json.is_file()
    if is_study and not overwrite:
        before = _with_new_settings(read_versioned_json(run.study_json), run.study_json)
        fix = f"{ANOTHER_OUT}, or replace it with --overwrite"
        check_same_settings(run.root, before, _identity(study), fix=fix)
        return False
    return check_output(
        run.root,
        "study of `msd compare`",
        is_kind=is_study,
        overwrite=overwrite,
        fix=ANOTHER_OUT,
        inputs=inputs_of(study.base).values(),
    )


def _with_new_settings(before: Json, path: Path) -> Json:
    """Return study.json with what a study has for settings that an earlier version did not have."""
    if not isinstance(base := before.get("base"), dict):
        return before
    try:
        whole = StudyConfig(config_from_json(base)).to_the_end().base
        return {**before, "base": config_as_json(whole)}
    except ConfigError as error:
        raise error_in_file(error, "base", path) from error


def _identity(study: StudyConfig) -> Json:
    """Return the settings that must stay the same when a study is continued."""
    return {
        "schema_version": SCHEMA_VERSION,
        "base": config_as_json(replace(study.base, tracker=None)),
        "budget": study.budget,
        "dropout": study.dropout,
    }


def _train_missing(
    study: StudyConfig, out: Path, steps: Mapping[str, int], hooks: StageHooks, training: Hooks
) -> None:
    cells = study.cells()
    missing = [cell for cell in cells if not is_done(cell_directory(out, *cell))]
    before = len(cells) - len(missing)
    if not missing:
        return
    known = f", {before} are finished already" if before else ""
    hooks.on_stage(f"Distilling {len(cells)} students{known}")

    def on_done(cell: tuple[str, int], finished: int) -> None:
        hooks.on_count("students", before + finished, len(cells))

    hooks.on_count("students", before, len(cells))
    train_cells(study, out, missing, steps, on_done=on_done, should_stop=training.should_stop)


def _head(study: StudyConfig, task: Task, facts: Mapping[str, object]) -> Json:
    return {
        "schema_version": SCHEMA_VERSION,
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        "data": name_of_spec(study.base.data.spec),
        "dataset_digest": task.data.digest,
        "examples": {name: len(split) for name, split in task.data.splits.items()},
        "labelled": int(task.data.splits["train"].has_label().sum()),
        "student": study.base.student.size,
        "metric": metric_name(task.data.info.problem),
        "budget": study.budget,
        "settings": asdict(study.base.distill),
        "changed_settings": study.changed_settings(),
        **facts,
    }


def _results(out: Path, task: Task, predictions: TeacherPredictions) -> Json:
    """Return the results of all finished students of the folder, earlier calls included."""
    test = task.data.splits["test"]
    count = partial(_counts_by_view, test, _image_of_rows(test), task.data.info.problem)
    counts: CountsByCell = {}
    seconds: dict[str, list[float]] = {}
    for method, seed in finished_cells(out):
        metrics, logits = read_cell(cell_directory(out, method, seed))
        counts.setdefault(method, {})[seed] = count(logits)
        if isinstance(metrics["cpu_seconds"], float):
            seconds.setdefault(method, []).append(metrics["cpu_seconds"])
    targets = count(predictions.by_view("test"))
    teacher = {view: metric_of_counts(values) for view, values in targets.items()}
    own = {view: metric_of_counts(v) for view, v in count(predictions.of_teacher("test")).items()}
    specialists = {
        one.view.value: {"digest": one.teacher.digest, "test": round(teacher[one.view], 6)}
        for one in task.specialists
    }
    spreads = {
        method: {view: _spread(by_seed, view) for view in View}
        for method, by_seed in counts.items()
    }
    return {
        "teacher": {view.value: round(value, 6) for view, value in own.items()},
        **({"specialists": specialists} if specialists else {}),
        "single_views": check_on_validation(predictions.by_view("validation"), task.data),
        "methods": {
            method: {view.value: spread.as_json() for view, spread in views.items()}
            for method, views in spreads.items()
        },
        "paired": _paired(counts),
        "gap_closed": _gaps(spreads, teacher),
        "cpu_seconds": {m: round(float(np.mean(s)), 2) for m, s in seconds.items()},
    }


def _image_of_rows(split: PreparedSplit) -> NDArray[np.int64]:
    """Return the number of each example's image, int64 [examples]; its own where it has none."""
    image = np.empty(len(split), np.int64)
    for index, rows in enumerate(rows_by_image(split.image_index)):
        image[rows] = index
    return image


def _counts_by_view(
    split: PreparedSplit, image: NDArray[np.int64], problem: Problem, logits: LogitsByView
) -> dict[View, Counts]:
    """Return counts [images, 2]: examples that share an image are not independent."""
    by_view = {}
    for view in View:
        by_view[view] = np.zeros((image.max() + 1, 2), np.int64)
        np.add.at(by_view[view], image, row_counts(logits[view], split.labels, problem))
    return by_view


def _spread(by_seed: Mapping[int, Mapping[View, Counts]], view: View) -> Spread:
    return spread_of({seed: metric_of_counts(views[view]) for seed, views in by_seed.items()})


def _paired(counts: CountsByCell) -> Json:
    """Compare every method with each earlier baseline, by view."""
    order = list(METHODS)
    pairs = [
        (method, baseline)
        for baseline in _BASELINES
        for method in counts
        if baseline in counts and order.index(method) > order.index(baseline)
    ]
    return {
        f"{method} - {baseline}": {
            view.value: difference.as_json()
            for view in View
            if (difference := _difference(counts, method, baseline, view)) is not None
        }
        for method, baseline in pairs
    }


def _difference(
    counts: CountsByCell, first: str, second: str, view: View
) -> PairedDifference | None:
    return paired_difference(
        {seed: views[view] for seed, views in counts[first].items()},
        {seed: views[view] for seed, views in counts[second].items()},
    )


def _gaps(spreads: SpreadsByMethod, teacher: Mapping[View, float]) -> Json:
    """Return the share of the gap between undistilled student and teacher closed by each method."""
    if "none" not in spreads:
        return {}
    without = spreads["none"]
    return {
        method: {
            view.value: None if gap is None else round(gap, 4)
            for view in View
            for gap in [gap_closed(views[view].mean, without[view].mean, teacher[view])]
        }
        for method, views in spreads.items()
        if method != "none"
    }
