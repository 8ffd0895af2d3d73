"""The content of distillation.json."""

from typing import cast

import torch

from msd_deploy import __version__
from msd_deploy.artifacts.manifest import SCHEMA_VERSION, utc_now
from msd_deploy.confidence import confidence_of_views
from msd_deploy.config.describe import changed_settings
from msd_deploy.data.readers.spec import name_of_spec
from msd_deploy.decision_quality import decisions_of_views
from msd_deploy.distillation.distances import kl_distance
from msd_deploy.distillation.methods import method_name
from msd_deploy.distillation.saliency import teacher_saliency
from msd_deploy.metrics import LogitArray, LogitsByView, agreement, metric_name, score_logits
from msd_deploy.pages.formatting import ScoreJson
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.report.densities import (
    EDGES,
    GRID,
    Output,
    density,
    histogram,
    output_of,
    output_values,
    total_variation,
)
from msd_deploy.report.examples import choose_examples
from msd_deploy.report.notes import notes_of
from msd_deploy.report.predictions import Decisions, RunOutputs, StudentOutputs
from msd_deploy.report.run_files import read_training, read_weights, specialists_in
from msd_deploy.report.schema import (
    CalibrationJson,
    Closeness,
    DistillationJson,
    OperatingPointJson,
    OutputJson,
    StudentJson,
    TeacherJson,
    ViewJson,
    WeightsJson,
)
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View

_TEMPERATURE = 1.0  # distances of the probabilities, comparable between runs of any temperature


def figures_of(outputs: RunOutputs, *, command: str) -> DistillationJson:
    """Build the content of distillation.json.

    Args:
        outputs: Outputs of teacher and students.
        command: Command that reproduces the report.

    Raises:
        ArtifactError: A run's history or weights cannot be read.
    """
    data = outputs.data
    spec = outputs.students[0].config.data.spec
    output = output_of(data.info.labels, data.info.problem)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "distillation",
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        "command": command,
        "data": {
            "name": name_of_spec(spec),
            "split": outputs.split,
            "examples": len(outputs.rows),
            "digest": data.digest,
            "notes": list(data.info.notes),
        },
        "problem": data.info.problem,
        "labels": list(data.info.labels),
        "metric": metric_name(data.info.problem),
        "output": _output_json(output, outputs),
        "teacher": _teacher(outputs, output),
        "students": [_student(student, outputs, output) for student in outputs.students],
        "examples": choose_examples(outputs),
        "notes": notes_of(outputs),
    }


def _output_json(output: Output, outputs: RunOutputs) -> OutputJson:
    index = output.class_index
    return {
        "of": output.of,
        "label": None if index is None else outputs.data.info.labels[index],
        "grid": [round(float(point), 4) for point in GRID],
        "histogram_edges": [round(float(edge), 4) for edge in EDGES],
    }


def _teacher(outputs: RunOutputs, output: Output) -> TeacherJson:
    metrics = outputs.students[0].metrics
    facts, before = metrics["teacher"], None
    if "adapted_teacher" in metrics:
        of_split = facts[outputs.split]
        before = {view.value: of_split[view.value]["value"] for view in View}
        facts = metrics["adapted_teacher"]
    specialists, own = specialists_in(metrics), outputs.predictions.of_teacher(outputs.split)
    scores = {view.value: specialists.get(view, facts).get("validation", {}) for view in View}
    validation = {view: of_views[view] for view, of_views in scores.items() if view in of_views}
    return {
        "digest": outputs.teacher_digest,
        "parameters": facts["parameters"],
        "size_bytes": facts["size_bytes"],
        "views": _views(
            outputs.predictions.by_view(outputs.split), outputs.teacher_decisions, outputs, output
        ),
        "validation": {view: score["value"] for view, score in validation.items()},
        "before_adaptation": before,
        "specialists": {
            view: {
                "parameters": one["parameters"],
                "size_bytes": one["size_bytes"],
                "teacher_score": _score(own[View(view)], outputs),
            }
            for view, one in specialists.items()
        },
        "calibration": _calibration(own, outputs.teacher_temperatures, outputs),
        "decisions": _decisions(outputs.teacher_scaled, outputs.teacher_decisions, outputs),
    }


def _student(student: StudentOutputs, outputs: RunOutputs, output: Output) -> StudentJson:
    settings, facts = student.config.distill, student.metrics["student"]
    return {
        "run": student.name,
        "method": method_name(settings),
        "alpha": settings.alpha,
        "temperature": settings.temperature,
        "loss": settings.loss,
        "settings": changed_settings(student.config),
        "parameters": facts["parameters"],
        "size_bytes": facts["size_bytes"],
        "views": _views(student.logits, student.decisions, outputs, output),
        "calibration": _calibration(student.logits, student.temperatures, outputs),
        "decisions": _decisions(student.scaled, student.decisions, outputs),
        "closeness": {view.value: _closeness(student, outputs, output, view) for view in View},
        "training": read_training(
            student.run.history,
            metric=metric_name(outputs.data.info.problem),
            epochs=(facts.get("training") or {}).get("student", {}).get("epochs"),
            has_validation=bool(outputs.data.splits["validation"].has_label().any()),
        ),
        "weights": _weights(student, outputs),
    }


def _views(
    logits: LogitsByView, decided: Decisions, outputs: RunOutputs, output: Output
) -> dict[str, ViewJson]:
    return {v.value: _view(logits[v], decided.logits[v], outputs, output) for v in View}


def _score(logits: LogitArray, outputs: RunOutputs) -> ScoreJson:
    score = score_logits(logits, outputs.rows.labels, outputs.data.info.problem)
    return cast(ScoreJson, score.as_json())


def _view(
    logits: LogitArray, deciding: LogitArray, outputs: RunOutputs, output: Output
) -> ViewJson:
    values = output_values(logits, outputs.rows.labels, outputs.data.info.problem, output)
    return {
        "score": _score(deciding, outputs),
        "density": [round(float(value), 5) for value in density(values)],
        "histogram": [round(float(share), 6) for share in histogram(values)],
    }


def _closeness(
    student: StudentOutputs, outputs: RunOutputs, output: Output, view: View
) -> Closeness:
    labels, problem = outputs.rows.labels, outputs.data.info.problem
    teacher, own = outputs.predictions.of_view(outputs.split, view), student.logits[view]
    shares = [
        histogram(output_values(logits, labels, problem, output)) for logits in (teacher, own)
    ]
    return {
        "agreement": round(agreement(teacher, own, problem), 6),
        "distance": round(mean_distance(own, teacher, problem), 6),
        "total_variation": round(total_variation(*shares), 6),
    }


def mean_distance(student: LogitArray, teacher: LogitArray, problem: Problem) -> float:
    """Compute the mean KL(teacher || student) of the probabilities over rows, in nats.

    For independent classes, the KL of Bernoulli distributions, averaged over classes too.

    Args:
        student: Logits [rows, classes].
        teacher: Logits [rows, classes].
        problem: Kind of the task, for softmax or sigmoids.
    """
    distances = kl_distance(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature=_TEMPERATURE,
        multi_label=has_independent_classes(problem),
    )
    return float(distances.double().mean())


def _calibration(
    logits: LogitsByView, temperatures: Temperatures, outputs: RunOutputs
) -> CalibrationJson:
    rows, problem = outputs.rows, outputs.data.info.problem
    scaled = temperatures.scaled(logits, rows)
    is_fitted = temperatures.is_fitted
    return {
        "views": confidence_of_views(scaled, rows.labels, problem),
        "uncalibrated": confidence_of_views(logits, rows.labels, problem) if is_fitted else None,
        "temperatures": temperatures.by_name() if is_fitted else None,
    }


def _decisions(
    scaled: LogitsByView, decided: Decisions, outputs: RunOutputs
) -> OperatingPointJson | None:
    """Return what a model's operating point gives on the reported split."""
    rows, info = outputs.rows, outputs.data.info
    if decided.point is None:
        return None
    measured = decisions_of_views(
        scaled, rows.labels, info.problem, point=decided.point, rows=rows, classes=info.labels
    )
    expected = decided.point.expected_by_name()
    return {"rule": decided.point.rule, "views": measured, "expected": expected}


def _weights(student: StudentOutputs, outputs: RunOutputs) -> WeightsJson | None:
    """Return the weights against saliency, at the temperature of the run as in training."""
    saliency = teacher_saliency(
        outputs.predictions,
        "train",
        problem=outputs.data.info.problem,
        temperature=student.config.distill.temperature,
    )
    return read_weights(student.run, saliency)
