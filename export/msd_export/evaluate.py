"""Evaluate a model, in any variant, on a data set."""

from pathlib import Path

from msd_deploy.artifacts.manifest import Json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.confidence import confidence_of_views
from msd_deploy.data.labels import check_labelled
from msd_deploy.data.source import EvaluationSplit, SourceOptions
from msd_deploy.decision_quality import decisions_of_views
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import (
    extra_metrics_as_json,
    metric_name,
    score_extra_metrics,
    score_views,
)
from msd_deploy.models.folders import SINGLE_VIEW, family_of
from msd_deploy.operating_point import deciding_logits
from msd_deploy.run.single_views import check_single_views, unsound_views
from msd_deploy.temperatures import modalities_of
from msd_export.opened_model import open_model, read_for_evaluation, split_name
from msd_export.parity import predict_every_view
from msd_export.predictors import TorchPredictor


def evaluate_model(
    model: Path,
    spec: str | None,
    *,
    options: SourceOptions,
    split: EvaluationSplit,
    threads: int,
    hooks: StageHooks | None = None,
) -> Json:
    """Score a model on one split of a data set, or all rows of a FILE.jsonl, under each view.

    Args:
        model: A run, a model folder, or an export folder.
        spec: The data set; None: that of the run, which must not have changed.
        options: How `spec` is read.
        split: What is scored; "all" of a file of which the model saw nothing in training.
        threads: Number of CPU threads.
        hooks: Progress and notes.

    Returns:
        metric, runtime, split, skipped rows, and per view the value, interval and examples; under
        single_views the comparison of each with a constant answer; under confidence the calibration
        of each; of a model with an operating point this point, and under decisions what it gives;
        under further the same as views by metric, where the data set's paper reports
        others.

    Raises:
        ConfigError: All rows of a data set were requested that has training rows.
        DataError: The data cannot be read, or has other classes than the model.
        ArtifactError: The model cannot be opened.
    """
    hooks = hooks or StageHooks()
    opened = open_model(model, threads=threads)
    data, spec, _ = read_for_evaluation(
        model, opened, spec, options=options, split=split, hooks=hooks
    )
    rows = data.splits[split_name(split)]
    check_labelled(data, split_name(split), "an evaluation")
    hooks.on_stage(f"Predicting with {model} in {opened.predictor.runtime}")
    by_view = predict_every_view(
        opened.predictor, rows, on_count=lambda done, total: hooks.on_count("examples", done, total)
    )
    labelled = rows.has_label()
    labels = rows.labels[labelled]
    logits = {view: values[labelled] for view, values in by_view.items()}
    problem, point = data.info.problem, opened.operating_point
    deciding = {
        view: values[labelled]
        for view, values in deciding_logits(
            by_view, rows, problem, temperatures=opened.temperatures, point=point
        ).items()
    }
    scores = score_views(deciding, labels, problem)
    further = score_extra_metrics(deciding, labels, data.info.further_metrics)
    metric = metric_name(problem)
    scaled = opened.temperatures.scaled(by_view, rows)
    scaled = {view: values[labelled] for view, values in scaled.items()}
    confidence = confidence_of_views(scaled, labels, problem)
    decided = {}
    if point is not None:
        of_rows = modalities_of(rows, labelled)
        measured = decisions_of_views(
            scaled, labels, problem, point=point, rows=of_rows, classes=opened.labels
        )
        decided = {"operating_point": point.as_json(problem), "decisions": measured}
    single_views = check_single_views(logits, labels, problem)
    # Of a run its student is evaluated, and an export is a student's as a rule.
    is_model = isinstance(opened.predictor, TorchPredictor) and family_of(model) != SINGLE_VIEW
    if is_model and not RunDirectory(model).run_json.is_file():
        for note in unsound_views(single_views, metric, model="model", split=split):
            hooks.on_note(f"as a teacher, the {note}")
    return {
        "model": str(model),
        "runtime": opened.predictor.runtime,
        "data": spec,
        "split": split,
        "skipped_rows": len(data.info.skipped),
        "metric": metric,
        "views": {view.value: score.as_json() for view, score in scores.items()},
        "single_views": single_views,
        "confidence": confidence,
        **decided,
        **({"further": extra_metrics_as_json(further)} if further else {}),
    }
