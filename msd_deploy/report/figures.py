"""The figures of a report on distillations: all that stands in distillation.json."""

from typing import cast

import torch

from msd_deploy.artifacts.manifest import SCHEMA_VERSION, utc_now
from msd_deploy.config.describe import changed_settings
from msd_deploy.data.readers.spec import name_of_spec
from msd_deploy.distill.distances import kl_distance
from msd_deploy.distill.methods import method_name
from msd_deploy.distill.saliency import teacher_saliency
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
from msd_deploy.report.predictions import RunOutputs, StudentOutputs
from msd_deploy.report.run_files import read_training, read_weights
from msd_deploy.report.schema import (
    Closeness,
    DistillationJson,
    OutputJson,
    StudentJson,
    TeacherJson,
    ViewJson,
    WeightsJson,
)
from msd_deploy.version import __version__
from msd_deploy.views import View

_TEMPERATURE = 1.0  # distances of the probabilities themselves, alike for runs of any temperature


def figures_of(answers: RunOutputs, *, command: str) -> DistillationJson:
    """Return the content of distillation.json.

    Args:
        answers: What teacher and students say.
        command: Writes the report again.

    Raises:
        ArtifactError: A run's history or weights cannot be read.
    """
    data = answers.data
    spec = answers.students[0].config.data.spec
    output = output_of(data.info.labels, data.info.problem)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "distillation",
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        "command": command,
        "data": {
            "name": name_of_spec(spec),
            "split": answers.split,
            "examples": len(answers.rows),
            "digest": data.digest,
            "notes": list(data.info.notes),
        },
        "problem": data.info.problem,
        "labels": list(data.info.labels),
        "metric": metric_name(data.info.problem),
        "output": _output_json(output, answers),
        "teacher": _teacher(answers, output),
        "students": [_student(student, answers, output) for student in answers.students],
        "examples": choose_examples(answers),
        "notes": notes_of(answers),
    }


def _output_json(output: Output, answers: RunOutputs) -> OutputJson:
    index = output.class_index
    return {
        "of": output.of,
        "label": None if index is None else answers.data.info.labels[index],
        "grid": [round(float(place), 4) for place in GRID],
        "histogram_edges": [round(float(edge), 4) for edge in EDGES],
    }


def _teacher(answers: RunOutputs, output: Output) -> TeacherJson:
    facts = answers.students[0].metrics["teacher"]
    return {
        "digest": answers.teacher_digest,
        "parameters": facts["parameters"],
        "size_bytes": facts["size_bytes"],
        "views": _views(answers.predictions.by_view(answers.split), answers, output),
        "validation": {view.value: facts["validation"][view.value]["value"] for view in View},
    }


def _student(student: StudentOutputs, answers: RunOutputs, output: Output) -> StudentJson:
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
        "views": _views(student.logits, answers, output),
        "closeness": {view.value: _closeness(student, answers, output, view) for view in View},
        "training": read_training(
            student.run.history, metric=metric_name(answers.data.info.problem)
        ),
        "weights": _weights(student, answers),
    }


def _views(logits: LogitsByView, answers: RunOutputs, output: Output) -> dict[str, ViewJson]:
    return {view.value: _view(logits[view], answers, output) for view in View}


def _view(logits: LogitArray, answers: RunOutputs, output: Output) -> ViewJson:
    labels, problem = answers.rows.labels, answers.data.info.problem
    values = output_values(logits, labels, problem, output)
    return {
        "score": cast(ScoreJson, score_logits(logits, labels, problem).as_json()),
        "density": [round(float(value), 5) for value in density(values)],
        "histogram": [round(float(share), 6) for share in histogram(values)],
    }


def _closeness(
    student: StudentOutputs, answers: RunOutputs, output: Output, view: View
) -> Closeness:
    labels, problem = answers.rows.labels, answers.data.info.problem
    expected, found = answers.predictions.of_view(answers.split, view), student.logits[view]
    shares = [
        histogram(output_values(logits, labels, problem, output)) for logits in (expected, found)
    ]
    return {
        "agreement": round(agreement(expected, found, problem), 6),
        "distance": round(mean_distance(found, expected, problem), 6),
        "total_variation": round(total_variation(*shares), 6),
    }


def mean_distance(student: LogitArray, teacher: LogitArray, problem: Problem) -> float:
    """Return the mean over rows of KL(teacher || student) of the probabilities, nats.

    Of independent classes: of each row, the mean over classes of two Bernoulli distributions' KL.

    Args:
        student: Logits [rows, classes].
        teacher: As the student's.
        problem: Decides between softmax and sigmoids.
    """
    distances = kl_distance(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature=_TEMPERATURE,
        multi_label=has_independent_classes(problem),
    )
    return float(distances.double().mean())


def _weights(student: StudentOutputs, answers: RunOutputs) -> WeightsJson | None:
    """Return the weights against the saliency they were made from: of the run's temperature."""
    saliency = teacher_saliency(
        answers.predictions,
        "train",
        problem=answers.data.info.problem,
        temperature=student.config.distill.temperature,
    )
    return read_weights(student.run, saliency)
