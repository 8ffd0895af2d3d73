"""Test vectors in the layouts of the runtimes' own tools, read by those runtimes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

from msd_deploy.artifacts.manifest import read_manifest
from msd_export.bundle.runtime_vectors import FLAGS_NAME
from msd_export.bundle.vectors_folder import KIND, write_vectors
from msd_export.folder import ExportFolder
from msd_export.formats import Target

pytestmark = pytest.mark.slow


@pytest.fixture
def vectors(
    request: pytest.FixtureRequest,
    decided_exports: Callable[..., list[ExportFolder]],
    tmp_path: Path,
) -> Path:
    """The folder for the tools of an export's runtime."""
    target = cast(Target, request.param)
    (export,) = decided_exports((target, "fp32"))
    counts = write_vectors(export.folder, tmp_path / "vectors", spec_of(export))
    assert counts["cases"] == 15
    assert read_manifest(tmp_path / "vectors", KIND)
    return tmp_path / "vectors" / "runtime"


def spec_of(export: ExportFolder) -> str:
    run: Any = json.loads((export.folder.parents[1] / "run.json").read_text())
    return str(run["config"]["data"]["spec"])


@pytest.mark.parametrize("vectors", ["onnx"], indirect=True)
def test_onnx_runtime_answers_its_test_data_as_stated(vectors: Path) -> None:
    session = onnxruntime.InferenceSession(vectors / "model.onnx")
    folders = sorted(vectors.glob("test_data_set_*"))
    assert len(folders) == 15
    texts = 0
    for folder in folders:
        feed = dict(tensors_of(folder, "input"))
        assert list(feed) == [each.name for each in session.get_inputs()]
        texts += int(feed["image_present"][0] == 0)
        stated = tensors_of(folder, "output")
        found = session.run([name for name, _ in stated], feed)
        for (_, expected), answer in zip(stated, found, strict=True):
            np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert texts == 5


def tensors_of(folder: Path, kind: str) -> list[tuple[str, Any]]:
    tensors = []
    for place in range(len(list(folder.glob(f"{kind}_*.pb")))):
        content = (folder / f"{kind}_{place}.pb").read_bytes()
        tensor = onnx.TensorProto.FromString(content)
        tensors.append((tensor.name, numpy_helper.to_array(tensor)))
    return tensors


@pytest.mark.parametrize("vectors", ["litert"], indirect=True)
def test_litert_takes_the_files_that_the_flags_name(vectors: Path) -> None:
    interpreter = Interpreter(str(vectors / "model.tflite"))
    interpreter.allocate_tensors()
    inputs = {each["name"]: each for each in interpreter.get_input_details()}
    for folder in sorted(vectors.glob("example_*")):
        lines = (folder / FLAGS_NAME).read_text().splitlines()
        flags = dict(line.removeprefix("--").split("=", 1) for line in lines)
        names = flags["input_layer"].split(",")
        assert names == list(inputs)  # the tool takes them by their place
        shapes = [list(map(int, each.split(","))) for each in flags["input_layer_shape"].split(":")]
        assert shapes == [inputs[name]["shape"].tolist() for name in names]
        given = dict(each.rsplit(":", 1) for each in flags["input_layer_value_files"].split(","))
        assert list(given) == names
        for name, file in given.items():
            array = np.fromfile(vectors / file, inputs[name]["dtype"])
            interpreter.set_tensor(inputs[name]["index"], array.reshape(inputs[name]["shape"]))
        interpreter.invoke()
        answers = [
            interpreter.get_tensor(each["index"]).tobytes()
            for each in interpreter.get_output_details()
        ]
        assert (folder / "logits.bin").read_bytes() in answers


@pytest.mark.parametrize("vectors", ["executorch"], indirect=True)
def test_executorch_verifies_its_bundled_program(vectors: Path) -> None:
    from executorch.extension.pybindings.portable_lib import _load_bundled_program_from_buffer

    (path,) = vectors.iterdir()
    assert path.name == "model.bpte"
    program = _load_bundled_program_from_buffer(path.read_bytes())
    for method, cases in {"forward": 15, "text": 5}.items():
        for case in range(cases):
            assert program.verify_result_with_bundled_expected_output(method, case, 1e-5, 1e-5)
    with pytest.raises(RuntimeError):  # it does compare: nothing is nearer than that
        program.verify_result_with_bundled_expected_output("forward", 0, -1.0, -1.0)
