"""Agreement of a student and a teacher with the teacher's cached predictions."""

import torch

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.models.folders import load_model
from msd_deploy.run.record import data_of_run, read_run
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
