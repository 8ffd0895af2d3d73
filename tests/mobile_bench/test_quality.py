"""Agreement of a student and a teacher with the teacher's cached predictions."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.metrics import probabilities
from msd_deploy.models.folders import load_model
from msd_deploy.operating_point import OperatingPoint
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.temperatures import CALIBRATION_NAME, Temperatures
from msd_deploy.views import View
from msd_mobile_bench.quality import evaluate
from msd_mobile_bench.variants import find_variants


def test_a_student_agrees_with_specialists_and_a_teacher_with_itself(
    untrained_run: RunDirectory,
) -> None:
    preprocessor = load_model(untrained_run.student).preprocessor
    data = data_of_run(read_run(untrained_run), preprocessor)
    own = torch.randn(len(data.splits["test"]), 3, len(data.info.labels))
    targets = own.clone()
    targets[:, 2] *= -1  # a specialist of texts decides the opposite
    predictions = TeacherPredictions({"test": targets, "test-teacher": own})
    variants = {one.model: one for one in find_variants(untrained_run) if one.target == "torch"}
    for model, logits in (("student", targets), ("teacher", own)):
        by_view = {view: logits[:, index].numpy() for index, view in enumerate(View)}
        quality = evaluate(variants[model], by_view, data, predictions)
        assert quality.agreement == {view.value: 1.0 for view in View}


def test_calibration_is_measured_over_the_temperatures_of_a_variants_folder(
    untrained_run: RunDirectory, tmp_path: Path
) -> None:
    preprocessor = load_model(untrained_run.student).preprocessor
    data = data_of_run(read_run(untrained_run), preprocessor)
    variants = {one.model: one for one in find_variants(untrained_run) if one.target == "torch"}
    folder = Path(shutil.copytree(variants["student"].folder, tmp_path / "student"))
    hot = Temperatures(dict.fromkeys(View, 4.0), dict.fromkeys(View, 100))
    write_json(folder / CALIBRATION_NAME, hot.as_json())
    generator = np.random.default_rng(0)
    rows, classes = len(data.splits["test"]), len(data.info.labels)
    logits = {view: generator.normal(size=(rows, classes)).astype(np.float32) for view in View}
    predictions = TeacherPredictions({"test": torch.randn(rows, 3, classes)})
    variant = replace(variants["student"], folder=folder)
    found = evaluate(variant, logits, data, predictions).confidence
    expected = probabilities(logits[View.TEXT] / 4, "single_label").max(axis=1).mean()
    assert found["text"]["confidence"] == pytest.approx(expected, abs=1e-6)


def test_decisions_are_measured_at_the_operating_point(untrained_run: RunDirectory) -> None:
    preprocessor = load_model(untrained_run.student).preprocessor
    data = data_of_run(read_run(untrained_run), preprocessor)
    variants = {one.model: one for one in find_variants(untrained_run) if one.target == "torch"}
    rows, classes = len(data.splits["test"]), len(data.info.labels)
    logits = torch.randn(rows, 3, classes)
    by_view = {view: logits[:, index].numpy() for index, view in enumerate(View)}
    predictions = TeacherPredictions({"test": logits})
    everything = dict.fromkeys(View, 0)
    point = OperatingPoint("abstain_below=0.9", dict.fromkeys(View, (0.9,)), everything, {})
    found = evaluate(variants["student"], by_view, data, predictions, point)
    confidence = probabilities(by_view[View.IMAGE], "single_label").max(axis=1)
    abstained = found.decisions["image"]["abstained"]["value"]
    assert abstained == pytest.approx((confidence < 0.9).mean(), abs=1e-6)
    assert evaluate(variants["student"], by_view, data, predictions).decisions == {}
