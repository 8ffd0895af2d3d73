"""A student as a Core ML package, float16 and int8, read back by the MIL evaluator."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.quiet import quiet_python
from msd_export.coreml.export import export_coreml
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.mil.operations import OPERATIONS
from msd_export.coreml.mil.program import ProgramOperation, read_program
from msd_export.coreml.package import SPEC_PATH, Spec, read_spec
from msd_export.coreml.spec import count_weights
from msd_export.coreml.weights import quantize_weights_int8
from msd_export.graph import ExportGraph
from msd_export.signature import INPUT_NAMES, ModelInputs, ModelSignature

HEIGHT, WIDTH, LENGTH, WORDS = 16, 24, 6, 50
SIGNATURE = ModelSignature((HEIGHT, WIDTH), LENGTH, ("chat", "chien", "été"), "single_label")
METADATA = {
    "description": "memes: 3 classes",
    "author": "msd-deploy",
    "license": "Apache-2.0",
    "version": "0.1.0",
    "source_digest": "abc",
}
# float16 keeps 11 bits: about .0005 of a value an operation, over some 80 operations in a row with
# logits of order 3. Measured here .003.
FP16_TOLERANCE = 0.01
# int8 weights are off by up to 1/254 of their channel's largest, at random. Measured here .05.
INT8_TOLERANCE = 0.1


@pytest.fixture(scope="module")
def graph() -> ExportGraph:
    torch.manual_seed(0)
    config = FusionConfig(
        vision={"kind": "conv_stem", "channels": [8, 16]},
        image_size=(HEIGHT, WIDTH),
        vocab_size=WORDS,
        max_text_length=LENGTH,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    model = FusionForClassification(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(model.word_embeddings.weight)
    return ExportGraph(model, problem="single_label", image_layout="nchw")


@pytest.fixture(scope="module")
def package(graph: ExportGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "model.mlpackage"
    export_coreml(graph, SIGNATURE, METADATA, path)
    return path


@pytest.fixture(scope="module")
def int8_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "int8.mlpackage"
    quantize_weights_int8(package, path)
    return path


@pytest.fixture(scope="module")
def spec(package: Path) -> Spec:
    return read_spec(package)


def _examples(count: int) -> list[ModelInputs]:
    """Return examples of both modalities, the picture alone and the text alone, in turn."""
    rng = np.random.default_rng(3)
    return [
        {
            "image": rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8),
            "image_present": np.array([row % 3 != 2], np.int32),
            "input_ids": rng.integers(0, WORDS, (1, LENGTH)).astype(np.int32),
            "attention_mask": (np.arange(LENGTH) < (1 if row % 3 == 1 else 4))[None].astype(
                np.int32
            ),
        }
        for row in range(count)
    ]


def _reference(graph: ExportGraph, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
    image, *rest = (torch.from_numpy(inputs[name]) for name in INPUT_NAMES)
    with torch.inference_mode():
        return graph(image.permute(0, 3, 1, 2).float(), *rest)


@pytest.mark.parametrize(
    ("form", "tolerance"), [("package", FP16_TOLERANCE), ("int8_package", INT8_TOLERANCE)]
)
def test_a_written_file_gives_the_logits_of_its_source(
    graph: ExportGraph, form: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    evaluator = MilEvaluator.load(request.getfixturevalue(form))
    for inputs in _examples(30):
        outputs = evaluator.run(inputs)
        logits, probabilities = _reference(graph, inputs)
        np.testing.assert_allclose(outputs["logits"], logits, atol=tolerance)
        np.testing.assert_allclose(outputs["probabilities"], probabilities, atol=tolerance)


def test_withheld_image_does_not_matter(package: Path) -> None:
    evaluator = MilEvaluator.load(package)
    inputs = _examples(3)[2]
    other = inputs | {"image": 255 - inputs["image"]}
    np.testing.assert_array_equal(evaluator.run(inputs)["logits"], evaluator.run(other)["logits"])


def test_row_without_any_token_stays_finite_in_float16(package: Path, int8_package: Path) -> None:
    nothing = {name: np.zeros_like(value) for name, value in _examples(1)[0].items()}
    for path in (package, int8_package):
        outputs = MilEvaluator.load(path).run(nothing)
        assert all(np.isfinite(values).all() for values in outputs.values())


def test_inputs_and_outputs_are_the_signatures(spec: Spec) -> None:
    image, *others = spec.description.input
    assert [image.name, *(feature.name for feature in others)] == list(INPUT_NAMES)
    pixels = image.type.imageType
    assert (pixels.height, pixels.width) == (HEIGHT, WIDTH)
    assert pixels.colorSpace == pixels.ColorSpace.Value("RGB")
    arrays = [feature.type.multiArrayType for feature in [*others, *spec.description.output]]
    kinds = [array.ArrayDataType.Name(array.dataType) for array in arrays]
    assert kinds == ["INT32"] * 3 + ["FLOAT32"] * 2
    assert [list(array.shape) for array in arrays] == [[1], [1, 6], [1, 6], [1, 3], [1, 3]]
    assert [feature.name for feature in spec.description.output] == ["logits", "probabilities"]


def test_package_runs_from_ios_16_on_in_float16(spec: Spec, package: Path) -> None:
    assert spec.specificationVersion == 7
    operations = read_program(package, known_types=OPERATIONS).operations
    weights = [op.arguments["weight"] for op in operations if "weight" in op.arguments]
    assert {np.asarray(weight).dtype for weight in weights} == {np.dtype(np.float16)}


@pytest.mark.parametrize("form", ["package", "int8_package"])
def test_a_package_states_its_source_and_inputs(form: str, request: pytest.FixtureRequest) -> None:
    description = read_spec(request.getfixturevalue(form)).description
    own, metadata = description.metadata.userDefined, description.metadata
    assert metadata.shortDescription == METADATA["description"]
    assert (metadata.author, metadata.license) == (METADATA["author"], METADATA["license"])
    assert metadata.versionString == METADATA["version"]
    assert json.loads(own["labels"]) == list(SIGNATURE.labels)
    assert (own["problem"], own["source_digest"]) == ("single_label", "abc")
    features = [*description.input, *description.output]
    assert all(feature.shortDescription for feature in features)


def test_same_model_gives_the_same_bytes(
    graph: ExportGraph, package: Path, int8_package: Path, tmp_path: Path
) -> None:
    again, again_int8 = tmp_path / "again.mlpackage", tmp_path / "again8.mlpackage"
    export_coreml(graph, SIGNATURE, METADATA, again)
    quantize_weights_int8(again, again_int8)
    assert _bytes(again) == _bytes(package)
    assert _bytes(again_int8) == _bytes(int8_package)


def _bytes(package: Path) -> dict[str, bytes]:
    files = (path for path in package.rglob("*") if path.is_file())
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in files}


def test_package_holds_nothing_but_manifest_program_and_weights(package: Path) -> None:
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert _bytes(package).keys() == {"Manifest.json", SPEC_PATH.as_posix(), weights}


@pytest.mark.slow
def test_package_is_read_quietly_by_a_fresh_process(package: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from msd_export.coreml.mil.evaluator import MilEvaluator;"
        "print(MilEvaluator.load(Path(sys.argv[1])).operation_count)"
    )
    paths = [str(Path(__file__).parents[3] / name) for name in (".", "export")]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}", str(package)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) == MilEvaluator.load(package).operation_count
    assert result.stderr == ""


class _Branching(nn.Module):
    def forward(
        self, image: Tensor, present: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        logits = image.mean((2, 3))
        return (logits, logits) if bool(present[0] > 0) else (-logits, logits)


class _Exotic(nn.Module):
    def forward(
        self, image: Tensor, present: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        logits = torch.special.bessel_j0(image.mean((2, 3)))
        return logits, logits


@pytest.mark.parametrize(
    ("model", "message"),
    [(_Branching(), "GuardOnDataDependent"), (_Exotic(), "Unsupported fx node special_bessel_j0")],
    ids=["branch on data", "unknown operation"],
)
def test_what_cannot_be_converted_is_one_quiet_error(
    model: nn.Module, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=rf"the conversion to Core ML failed \(.*{message}"):
        export_coreml(model, SIGNATURE, {}, tmp_path / "model.mlpackage")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def _weights(package: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the constant matrices and kernels by the name of the operation's output."""
    operations = read_program(package, known_types=OPERATIONS).operations
    return {
        op.outputs[0][0]: np.asarray(value, np.float32)
        for op in operations
        if (value := _weight(op)) is not None
    }


def _weight(op: ProgramOperation) -> np.ndarray[Any, Any] | None:
    value = op.arguments.get("x" if op.op_type == "gather" else "weight")
    return value if isinstance(value, np.ndarray) else None


def test_int8_weights_are_within_half_a_step_of_their_channel(
    package: Path, int8_package: Path
) -> None:
    weights, quantized = _weights(package), _weights(int8_package)
    assert weights.keys() == quantized.keys()
    for name, weight in weights.items():
        if weight.size <= 512:
            np.testing.assert_array_equal(quantized[name], weight)
            continue
        rows, stored = weight.reshape(len(weight), -1), quantized[name].reshape(len(weight), -1)
        step = np.abs(rows).max(1, keepdims=True) / 127
        # Half a step, and float16's rounding of the scale and of the product, 2^-11 each.
        assert (np.abs(stored - rows) <= 0.5 * step + 2**-10 * np.abs(rows)).all()


def test_count_is_that_of_the_weights_above_the_threshold(
    package: Path, int8_package: Path
) -> None:
    large = [weight.size for weight in _weights(package).values() if weight.size > 512]
    assert count_weights(int8_package)["int8"] == sum(large) > 0
    assert count_weights(package).keys() == {"fp16"}


def test_int8_package_is_smaller(package: Path, int8_package: Path) -> None:
    weights = Path("Data/com.apple.CoreML/weights/weight.bin")
    # Of this tiny student's parameters a good part are biases and norms, which stay float16.
    assert (int8_package / weights).stat().st_size < 0.75 * (package / weights).stat().st_size


def test_quantizing_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is not an \.mlpackage"):
        quantize_weights_int8(tmp_path, tmp_path / "int8.mlpackage")
    with pytest.raises(ArtifactError, match=r"is not an \.mlpackage"):
        count_weights(tmp_path / "absent.mlpackage")


def test_broken_package_is_refused(package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mlpackage"
    (broken / SPEC_PATH).parent.mkdir(parents=True)
    (broken / "Manifest.json").write_bytes((package / "Manifest.json").read_bytes())
    (broken / SPEC_PATH).write_bytes(b"no protobuf")
    with pytest.raises(ArtifactError, match="cannot be read as a Core ML model"):
        quantize_weights_int8(broken, tmp_path / "int8.mlpackage")


def test_quantizing_a_package_without_weights_is_refused(package: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.mlpackage"
    shutil.copytree(package, bare, ignore=shutil.ignore_patterns("weights"))
    with pytest.raises(ExportError, match="the quantization to int8 failed"):
        quantize_weights_int8(bare, tmp_path / "int8.mlpackage")


def test_core_mls_own_library_opens_the_package_and_leaves_it_as_it_was(package: Path) -> None:
    before = _bytes(package)
    with quiet_python():
        from coremltools.models import MLModel

        MLModel(str(package), skip_model_load=True)
    assert _bytes(package) == before
