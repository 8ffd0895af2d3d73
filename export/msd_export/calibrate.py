"""Calibrate a finished model: temperatures and operating point, in a folder written anew."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    RESTORE,
    Json,
    files_below,
    read_json,
    read_versioned_json,
    write_json,
    write_manifest,
)
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.decisions import DecisionConfig, Rule, rule_for, settings_of
from msd_deploy.data.labels import check_labelled
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source import SourceOptions, Split
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.errors import ArtifactError, DataError, MsdError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import (
    LABELS_NAME,
    LoadedModel,
    labels_as_json,
    load_classifier,
    read_operating_point,
)
from msd_deploy.models.predict import predict_views
from msd_deploy.operating_point import OperatingPoint
from msd_deploy.problem import decides_one_class
from msd_deploy.run.calibration import FEWEST_EXAMPLES, fit_on_split, state_confidence
from msd_deploy.run.operating_points import check_support, choose_point
from msd_deploy.run.record import RunRecord, read_finished_run
from msd_deploy.run.stages import state_at_point
from msd_deploy.temperatures import CALIBRATION_NAME, Temperatures, read_temperatures, rows_of_views
from msd_deploy.views import View
from msd_export.folder import KIND
from msd_export.opened_model import read_for_evaluation, split_name

CalibrationSplit = Literal["validation", "all"]
_OF_CALIBRATION = ("confidence", "operating_point", "decisions")
_WRITTEN_ANEW = frozenset({"schema_version", "kind", "msd_deploy", "created_utc", "files"})


def calibrate_model(
    model: Path,
    spec: str | None,
    *,
    options: SourceOptions,
    split: CalibrationSplit,
    decisions: DecisionConfig | None = None,
    hooks: StageHooks | None = None,
) -> Json:
    """Fit a model's temperatures, choose its operating point, and write its folder anew with them.

    The weights stay as they are. The folder's digest changes, so exports are made again.

    Args:
        model: A run, for its student, or a model folder.
        spec: The data set; None: that of the run, which must not have changed.
        options: How `spec` is read.
        split: Examples that the model was not trained on; "all" of a file that has no others.
        decisions: How the operating point is chosen; None or defaults: as the model's, whose
            thresholds are chosen anew, or the problem's.
        hooks: Progress and notes.

    Returns:
        folder, data, split, the views that were fitted, temperatures, biases and examples by view,
        under confidence the calibration on these examples before and after, and operating_point,
        None without one. A view without enough examples keeps its temperature, and its thresholds
        if the rule is the model's own.

    Raises:
        ConfigError: All rows of a data set were requested that has training rows.
        DataError: The data cannot be read, has other classes than the model, or too few labelled
            examples in the split: fewer than 50, or than the operating point needs.
        ArtifactError: It is an export, lies in a run, or cannot be opened; or another process uses
            it.
    """
    hooks = hooks or StageHooks()
    run = RunDirectory(model)
    is_run, is_own_data = run.run_json.is_file(), spec is None
    with claimed(model):
        record = read_finished_run(run) if is_run else None
        folder = run.student if is_run else _model_folder(model)
        loaded = load_classifier(folder)
        rule = _rule(loaded, decisions, record)
        data, spec, _ = read_for_evaluation(
            model, loaded, spec, options=options, split=split, hooks=hooks
        )
        name = split_name(split)
        check_labelled(data, name, "a calibration")
        if rule is not None:
            check_support(rule, data.splits[name], loaded.problem, loaded.labels)
        logits = _predict(loaded.model, data, name, hooks)
        temperatures = fit_on_split(logits, data.splits[name], loaded.problem)
        if not temperatures.is_fitted:
            raise DataError(
                f"the {split} split has {int(data.splits[name].has_label().sum())} labelled"
                f" examples, and a temperature needs {FEWEST_EXAMPLES} that have its modalities",
                fix="Name data with more labelled examples (--data SPEC)",
            )
        fitted = [view for view in View if temperatures.examples[view]]
        temperatures = temperatures.completed_by(loaded.temperatures)
        for view in (view for view in View if view not in fitted):
            hooks.on_note(
                f"the {view} view keeps its temperature of {temperatures.by_view[view]:g}: fewer"
                f" than {FEWEST_EXAMPLES} labelled examples have its modalities"
            )
        point = None
        if rule is not None:
            chosen = choose_point(
                rule,
                logits,
                data.splits[name],
                loaded.problem,
                classes=loaded.labels,
                temperatures=temperatures,
            )
            point = _completed(chosen.point, loaded.operating_point, data.splits[name])
            for note in chosen.notes:
                hooks.on_note(f"{rule}: {note}")
        measured: Json = {}
        state_confidence(measured, data, name, logits, temperatures)
        metrics = None
        if is_run:
            metrics = read_versioned_json(run.metrics)
            of_student = metrics.get("student")
            if not isinstance(of_student, dict):
                raise ArtifactError("has no student", where=run.metrics, fix=RESTORE)
            for key in _OF_CALIBRATION:
                of_student.pop(key, None)
            own = data if is_own_data else _own_data(run, loaded, hooks)
            predicted: dict[Split, LogitsByView] = {}
            if is_own_data:
                test = _predict(loaded.model, data, "test", hooks)
                state_confidence(measured, data, "test", test, temperatures)
                of_student["confidence"] = measured["confidence"]
                predicted = {name: logits, "test": test}
            elif own is not None:
                predicted = {
                    each: _predict(loaded.model, own, each, hooks)
                    for each in ("validation", "test")
                }
            if own is not None:
                for each, values in predicted.items():
                    state_at_point(
                        of_student, own, each, values, temperatures=temperatures, point=point
                    )
                _state_teacher(metrics, run, own, rule)
        _write_with(folder, temperatures, labels_as_json(loaded.labels, loaded.problem, point))
        if metrics is not None:
            write_json(run.metrics, metrics)
    confidence = measured["confidence"]
    assert isinstance(confidence, dict)  # `state_confidence` has made it
    return {
        "folder": str(folder),
        "data": spec,
        "split": split,
        "fitted": [view.value for view in fitted],
        "temperatures": temperatures.by_name(),
        "biases": {view.value: bias for view, bias in temperatures.biases.items()},
        "examples": {view.value: temperatures.examples[view] for view in View},
        "confidence": {"before": confidence["uncalibrated"][name], "after": confidence[name]},
        "operating_point": None if point is None else point.as_json(loaded.problem),
    }


def _completed(
    point: OperatingPoint, own: OperatingPoint | None, rows: PreparedSplit
) -> OperatingPoint:
    """Return a point with the model's own thresholds of views without examples.

    Where they are by another rule, they are not kept.
    """
    if own is None or own.rule != point.rule:
        return point
    kept = [view for view, used in rows_of_views(rows).items() if not used.any()]
    return replace(
        point,
        thresholds={**point.thresholds, **{view: own.thresholds[view] for view in kept}},
        examples={**point.examples, **{view: own.examples[view] for view in kept}},
        expected={
            **point.expected,
            **{view: own.expected[view] for view in kept if view in own.expected},
        },
    )


def _own_data(
    run: RunDirectory, loaded: LoadedModel[ViewClassifier], hooks: StageHooks
) -> PreparedData | None:
    """Return a run's own data, on which its metrics.json states what is decided; None: it is gone.

    Where one class is decided nothing that is stated depends on other data.
    """
    if decides_one_class(loaded.problem):
        return None
    try:
        own, *_ = read_for_evaluation(
            run.root, loaded, None, options=SourceOptions(), split="validation", hooks=hooks
        )
    except MsdError as error:
        hooks.on_note(f"metrics.json keeps the scores at the earlier thresholds: {error}")
        return None
    return own


def _state_teacher(metrics: Json, run: RunDirectory, data: PreparedData, rule: Rule | None) -> None:
    """Score the teacher of a multi-label run at thresholds of the student's rule too.

    At those of its own folder if it has any; at .5 without a rule, and where the rule is beyond it.
    """
    problem, folder = data.info.problem, run.distilled_teacher
    if decides_one_class(problem) or read_operating_point(folder) is not None:
        return
    facts = metrics.get("adapted_teacher", metrics.get("teacher"))
    assert isinstance(facts, dict)  # a finished run has it
    predictions, temperatures = read_predictions(run.teacher_predictions), read_temperatures(folder)
    point = None
    if rule is not None:
        try:
            point = choose_point(
                rule,
                predictions.of_teacher("validation"),
                data.splits["validation"],
                problem,
                classes=data.info.labels,
                temperatures=temperatures,
            ).point
        except DataError:
            point = None
    for key in ("operating_point", "decisions"):
        facts.pop(key, None)
    for name in ("validation", "test"):
        logits = predictions.of_teacher(name)
        state_at_point(facts, data, name, logits, temperatures=temperatures, point=point)


def _rule(
    loaded: LoadedModel[ViewClassifier], decisions: DecisionConfig | None, run: RunRecord | None
) -> Rule | None:
    """Return the rule of the settings, the model's own, the run's or the problem's."""
    own, settings = loaded.operating_point, decisions or DecisionConfig()
    if settings == DecisionConfig() and own is not None:
        settings = settings_of(own.rule)
    elif settings == DecisionConfig() and run is not None:
        settings = run.config.decisions
    return rule_for(settings, loaded.problem)


def _predict(
    model: ViewClassifier, data: PreparedData, split: Split, hooks: StageHooks
) -> LogitsByView:
    hooks.on_stage(f"Predicting the {split} examples")
    on_count = hooks.on_count
    return predict_views(
        model,
        data.splits[split],
        on_batch=lambda done, total: on_count("examples", done, total),
    )


def refuse_export(folder: Path) -> None:
    """Check that a folder is no export, whose temperatures cannot be changed.

    Raises:
        ArtifactError: It is one.
    """
    manifest = folder / MANIFEST_NAME
    if manifest.is_file() and read_json(manifest).get("kind") == KIND:
        raise ArtifactError(
            "is an export, whose probabilities are part of its graph",
            where=folder,
            fix="Calibrate the run or model folder, and export it again",
        )


def _model_folder(folder: Path) -> Path:
    """Return the path of a model folder that may be replaced.

    Raises:
        ArtifactError: It is an export, whose graph has temperatures of its own, or lies in a run,
            which records the digest of its teacher.
    """
    refuse_export(folder)
    around = RunDirectory(folder.resolve().parent)
    if around.run_json.is_file():
        is_student = folder.resolve() == around.student.resolve()
        raise ArtifactError(
            f"belongs to the run {folder.parent}",
            where=folder,
            fix="Name the run" if is_student else "Copy the folder, and calibrate the copy",
        )
    return folder


def _write_with(folder: Path, temperatures: Temperatures, labels: Json) -> None:
    """Write a model folder anew with other temperatures and labels.json; its facts stay."""
    facts = {
        key: value
        for key, value in read_json(folder / MANIFEST_NAME).items()
        if key not in _WRITTEN_ANEW
    }
    with new_folder(folder) as building:
        for path in files_below(folder):
            copy = building / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        write_json(building / CALIBRATION_NAME, temperatures.as_json())
        write_json(building / LABELS_NAME, labels)
        write_manifest(building, "model", facts)
