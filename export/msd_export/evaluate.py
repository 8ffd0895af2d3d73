"""Evaluate a model, in any variant, on a data set."""

from pathlib import Path

from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.readers.spec import load_evaluation_source
from msd_deploy.data.source import EvaluationSplit, SourceOptions
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import (
    extra_metrics_as_json,
    metric_name,
    score_extra_metrics,
    score_views,
)
from msd_export.opened_model import open_model, prepare_for_model
from msd_export.parity import predict_every_view


def evaluate_model(
    model: Path,
    spec: str,
    *,
    options: SourceOptions,
    split: EvaluationSplit,
    threads: int,
    hooks: StageHooks | None = None,
) -> Json:
    """Score a model on one split of a data set, or all rows of a FILE.jsonl, under each view.

    Returns:
        metric, runtime, split, skipped rows, and per view the value, interval and examples; under
        further the same by metric, where the data set's paper reports others.

    Raises:
        DataError: The data cannot be read, or its classes are not the model's.
        ArtifactError: The model cannot be opened.
    """
    hooks = hooks or StageHooks()
    opened = open_model(model, threads=threads)
    hooks.on_stage(f"Reading {spec}")
    source = load_evaluation_source(spec, options=options, split=split, labels=opened.labels)
    data = prepare_for_model(opened, source, spec, options=options, hooks=hooks)
    rows = data.splits["test" if split == "all" else split]
    hooks.on_stage(f"Predicting with {model} in {opened.predictor.runtime}")
    by_view = predict_every_view(
        opened.predictor, rows, on_count=lambda done, total: hooks.on_count("examples", done, total)
    )
    labelled = rows.has_label()
    labels = rows.labels[labelled]
    logits = {view: values[labelled] for view, values in by_view.items()}
    scores = score_views(logits, labels, data.info.problem)
    further = score_extra_metrics(logits, labels, data.info.further_metrics)
    return {
        "model": str(model),
        "runtime": opened.predictor.runtime,
        "data": spec,
        "split": split,
        "skipped_rows": len(data.info.skipped),
        "metric": metric_name(data.info.problem),
        "views": {view.value: score.as_json() for view, score in scores.items()},
        **({"further": extra_metrics_as_json(further)} if further else {}),
    }
