"""The class that a Core ML package names, as Xcode expects of a classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.models.folders import load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.quiet import quiet_python
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.package import Spec, add_class_label, read_spec
from msd_export.folder import ExportFolder
from msd_export.inspection import inspect_export
from msd_export.signature import single_example

LABELS = ("chat", "gros chien", "été")


class Classifier(nn.Module):
    """Logits and probabilities of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.linear(x)
        return logits, torch.softmax(logits, dim=-1)


def converted(path: Path, *, outputs: bool, classifier: bool) -> Path:
    """Convert with or without names of the outputs, and with coremltools' own classifier."""
    with quiet_python():
        import coremltools as ct

        program = torch.export.export(Classifier().eval(), (torch.zeros(1, 4),))
        names = [ct.TensorType(name, dtype=np.float32) for name in ("logits", "probabilities")]
        model = ct.convert(
            program.run_decompositions({}),
            inputs=[ct.TensorType("x", shape=(1, 4), dtype=np.float32)],
            outputs=names if outputs else None,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            classifier_config=ct.ClassifierConfig(list(LABELS)) if classifier else None,
        )
        model.save(str(path))
    return path


def classify_of(spec: Spec) -> Spec:
    (function,) = spec.mlProgram.functions.values()
    (operation,) = (
        op
        for op in function.block_specializations[function.opset].operations
        if op.type == "classify"
    )
    return operation


def test_it_is_what_coremltools_adds(tmp_path: Path) -> None:
    theirs = read_spec(converted(tmp_path / "a.mlpackage", outputs=False, classifier=True))
    package = converted(tmp_path / "b.mlpackage", outputs=True, classifier=False)
    add_class_label(package, LABELS)
    ours = read_spec(package)
    own, its = classify_of(ours), classify_of(theirs)
    assert own.inputs["classes"] == its.inputs["classes"]
    assert list(own.outputs) == list(its.outputs)
    for field in ("predictedFeatureName", "predictedProbabilitiesName"):
        assert getattr(ours.description, field) == getattr(theirs.description, field)
    types = [
        {output.name: output.type for output in spec.description.output} for spec in (ours, theirs)
    ]
    for name in ("classLabel", "classLabel_probs"):
        assert types[0][name] == types[1][name]
    assert {"logits", "probabilities"} < types[0].keys()


def test_the_evaluator_reads_both_classifiers(tmp_path: Path) -> None:
    ours = converted(tmp_path / "b.mlpackage", outputs=True, classifier=False)
    add_class_label(ours, LABELS)
    theirs = converted(tmp_path / "a.mlpackage", outputs=False, classifier=True)
    for package in (ours, theirs):
        evaluator = MilEvaluator.load(package)
        assert evaluator.classifier is not None
        assert evaluator.classifier.classes == LABELS
        found = evaluator.run({"x": np.ones((1, 4), np.float32)})
        assert "classLabel" not in found  # tensors alone


@pytest.mark.slow
def test_a_saved_package_names_the_class_that_pytorch_decides(
    decided_run: RunDirectory, decided_export: ExportFolder
) -> None:
    folder, student = decided_export.folder, load_model(decided_run.student)
    rows = data_of_run(read_run(decided_run), student.preprocessor).splits["test"]
    logits = predict_views(student.model, rows)
    evaluator = MilEvaluator.load(folder / "model.mlpackage")
    classifier = evaluator.classifier
    assert classifier is not None
    for view in View:
        inputs = rows.inputs(slice(0, len(rows)), view)
        named = []
        for row in range(len(rows)):
            outputs = evaluator.run(single_example(inputs, row))
            named.append(classifier.classes[int(outputs[classifier.probabilities].argmax())])
        expected = [student.labels[place] for place in logits[view].argmax(axis=1)]
        lead = np.abs(np.diff(np.sort(logits[view], axis=1)[:, -2:], axis=1))[:, 0]
        differing = [row for row in range(len(rows)) if named[row] != expected[row]]
        assert all(lead[row] < 0.005 for row in differing), view  # ties in float16
    signature = read_json(folder / "manifest.json")["signature"]
    assert isinstance(signature, dict)
    assert signature["outputs"]["classLabel"] == {"dtype": "string"}
    shown = {tensor.name: tensor.dtype for tensor in inspect_export(folder).facts.outputs}
    assert shown["classLabel"] == "string"
    assert shown["classLabel_probs"] == "dictionary"
