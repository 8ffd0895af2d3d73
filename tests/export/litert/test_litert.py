import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.views import View
from msd_export.formats import Precision
from msd_export.inspection import inspect_export
from msd_export.model_file import TensorFacts
from msd_export.signature import INPUT_NAMES, ModelInputs
from msd_export.source import ExportSource

# Before the imports that need them.
pytest.importorskip("ai_edge_litert", reason="needs the extra [litert]")
pytest.importorskip("litert_torch", reason="needs the extra [litert]")

from ai_edge_litert.interpreter import Interpreter

from msd_export.litert.converter import LiteRTConverter
from msd_export.litert.layers import scope_of
from msd_export.litert.predictor import LiteRTPredictor
from tests.export.written_forms import (
    INTEGER,
    PRECISIONS,
    Ask,
    Forms,
    check_decisions,
    write_form,
    write_forms,
)


@pytest.fixture(scope="module")
def forms(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    folder = tmp_path_factory.mktemp("litert")
    converter = LiteRTConverter(replace(source, scratch=folder))
    paths = {precision: folder / f"{precision}.tflite" for precision in PRECISIONS}
    return write_forms(converter, paths)


@pytest.mark.parametrize("view", [*(view.value for view in View), "nothing"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-2)])
def test_logits_equal_pytorchs_whatever_lies_where_nothing_is_shown(
    source: ExportSource,
    forms: Forms,
    hard_inputs: dict[str, ModelInputs],
    torch_logits: Ask,
    view: str,
    precision: Precision,
    tolerance: float,
) -> None:
    inputs = hard_inputs[view]
    found = LiteRTPredictor(forms[precision][0]).predict(inputs)
    np.testing.assert_allclose(found, torch_logits(source, inputs), atol=tolerance)


@pytest.mark.parametrize("precision", INTEGER)
def test_integer_variants_decide_as_pytorch_where_it_is_confident(
    source: ExportSource,
    forms: Forms,
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    precision: Precision,
) -> None:
    predictor = LiteRTPredictor(forms[precision][0])
    check_decisions(predictor, source, torch_logits, memes[0].splits["test"].head(100))


def test_the_entry_for_texts_answers_whatever_images_are_given(
    forms: Forms, hard_inputs: dict[str, ModelInputs]
) -> None:
    entry = LiteRTPredictor(forms["fp32"][0]).text_entry
    assert entry is not None
    with_images = entry.predict(hard_inputs["multimodal"])
    np.testing.assert_array_equal(with_images, entry.predict(hard_inputs["text"]))


def test_what_is_integer_is_counted_from_the_file(source: ExportSource, forms: Forms) -> None:
    layers = [m for m in source.loaded.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    for precision in INTEGER:
        assert forms[precision][1]["int8_weights"] == weights + 300 * 16
        assert forms[precision][0].stat().st_size < forms["fp32"][0].stat().st_size
    assert forms["fp32"][1]["int8_weights"] == forms["fp16"][1]["int8_weights"] == 0


def test_the_file_states_names_shapes_types_and_metadata(
    source: ExportSource, forms: Forms
) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    for path, _ in forms.values():
        runner = Interpreter(str(path)).get_signature_runner("serving_default")
        inputs = runner.get_input_details()
        shapes = {name: tuple(details["shape"]) for name, details in inputs.items()}
        assert shapes["image"] == (1, 48, 48, 3)
        assert {name: shapes[name] for name in INPUT_NAMES[1:]} == {
            "image_present": (1,),
            "input_ids": (1, 16),
            "attention_mask": (1, 16),
        }
        assert [inputs[name]["dtype"] for name in INPUT_NAMES] == [np.uint8] + [np.int32] * 3
        outputs = runner.get_output_details()
        assert {name: details["dtype"] for name, details in outputs.items()} == dict.fromkeys(
            ("logits", "probabilities"), np.float32
        )
        model = flatbuffer_utils.read_model(str(path))
        stated = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
        assert stated["labels"].decode() == source.metadata()["labels"]
        assert model.description.decode() == source.metadata()["description"]


@pytest.mark.slow
def test_same_model_gives_the_same_bytes_without_a_trace_of_the_machine(
    own_source: ExportSource, forms: Forms, tmp_path: Path
) -> None:
    for precision in PRECISIONS:
        content = forms[precision][0].read_bytes()
        LiteRTConverter(own_source).convert(precision, tmp_path / "again.tflite")
        assert (tmp_path / "again.tflite").read_bytes() == content
        for trace in (str(Path.cwd()), "site-packages", str(tmp_path.parent)):
            assert trace.encode() not in content


def test_inspect_shows_signature_operators_and_metadata(source: ExportSource, forms: Forms) -> None:
    for path, described in forms.values():
        facts = inspect_export(path).facts
        assert facts.inputs == (
            TensorFacts("image", (1, 48, 48, 3), "uint8"),
            TensorFacts("image_present", (1,), "int32"),
            TensorFacts("input_ids", (1, 16), "int32"),
            TensorFacts("attention_mask", (1, 16), "int32"),
        )
        assert [tensor.name for tensor in facts.outputs] == ["logits", "probabilities"]
        assert sum(facts.int8_operators.values()) == described["operators"]["int8"]  # type: ignore[index,call-overload]
        assert facts.operators["CONV_2D"] == 3
        assert facts.metadata["labels"] == source.metadata()["labels"]
        assert facts.metadata["source_digest"] == "0" * 64
        assert facts.storage().get("int8", 0) == described["int8_weights"]
    assert inspect_export(forms["int8"][0]).facts.int8_operators["CONV_2D"] == 3


def test_inspect_shows_bytes_by_layer(source: ExportSource, forms: Forms) -> None:
    model = source.loaded.model
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    sizes = {
        precision: inspect_export(path).facts.layers() for precision, (path, _) in forms.items()
    }
    for found in sizes.values():
        assert layers | {"word_embeddings"} <= found.keys()
        others = set(found) - {name for name, _ in model.named_modules()}
        assert all(name.isupper() for name in others)  # types of operators
        assert sum(found[name] for name in others) < 0.2 * sum(found.values())
    # Shapes of its results are a layer's constants too.
    assert sizes["fp32"]["word_embeddings"] == pytest.approx(4 * 300 * 16, abs=64)
    assert sizes["fp16"]["word_embeddings"] == pytest.approx(2 * 300 * 16, abs=64)
    assert sizes["fp32"]["layers.0.attention.query"] >= 4 * (16 * 16 + 16)


def test_inspect_takes_a_file_without_names(forms: Forms, tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(forms["fp32"][0]))
    model.signatureDefs, model.metadata, model.description = None, None, None
    for tensor in model.subgraphs[0].tensors:
        tensor.name = None
    model.subgraphs[0].tensors[0].shapeSignature = [-1, 48, 48, 3]
    flatbuffer_utils.write_model(model, str(tmp_path / "nameless.tflite"))
    facts = inspect_export(tmp_path / "nameless.tflite").facts
    assert facts.inputs[0] == TensorFacts("", ("?", 48, 48, 3), "uint8")
    assert facts.metadata == {}
    assert facts.layers()["EMBEDDING_LOOKUP"] == 4 * 300 * 16


def test_the_command_takes_a_file_alone(forms: Forms) -> None:
    answer = CliRunner().invoke(app, ["inspect", str(forms["int8"][0]), "--json"])
    found = json.loads(answer.stdout)
    assert (found["target"], found["provenance"]) == ("litert", None)
    assert found["groups"]["layers"] > 0


def test_a_scope_is_found_in_whatever_graph_was_exported() -> None:
    """Teachers of other families stand in a graph of another class."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])})

    scope = scope_of(Other(), "layers.0")
    name = f"a.StudentSignature/{Other.__module__}.{Other.__qualname__}_exported/"
    assert re.search(scope, f"{name}torch.nn.modules.linear.Linear_0;1")
    assert not re.search(scope, f"{name}torch.nn.modules.linear.Linear_01;1")


def test_groups_can_stay_in_float(own_source: ExportSource, forms: Forms, tmp_path: Path) -> None:
    converter = LiteRTConverter(own_source)
    model = own_source.loaded.model
    assert converter.groups("fp16") == ()
    for group in converter.groups("int8"):
        mixed = write_form(converter, "int8", tmp_path / "mixed.tflite", kept=(group,))
        module = model.get_submodule(group)
        layers = [
            m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)
        ]
        weights = sum(layer.weight.numel() for layer in layers)
        assert mixed["int8_weights"] == forms["int8"][1]["int8_weights"] - weights, group
    with pytest.raises(ExportError, match="left every weight in float"):
        write_form(converter, "int8", tmp_path / "float.tflite", kept=converter.groups("int8"))


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_efficientnet")
def test_efficientnet_converts_and_each_block_can_stay_in_float(
    make_source: Callable[[dict[str, object]], ExportSource],
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    tmp_path: Path,
) -> None:
    source = make_source({"kind": "efficientnet_lite", "variant": "lite0"})
    converter = LiteRTConverter(source)
    inputs = memes[0].splits["test"].inputs(slice(0, 6))
    whole: dict[str, Json] = {}
    for precision, most in (("fp32", 1e-3), ("int8", 0.5)):
        whole[precision] = write_form(converter, precision, tmp_path / "model.tflite")
        error = LiteRTPredictor(tmp_path / "model.tflite").predict(inputs)
        error -= torch_logits(source, inputs)
        assert np.abs(error).max() < most
    mixed = write_form(converter, "int8", tmp_path / "m.tflite", kept=("vision.blocks.1",))
    block = source.loaded.model.get_submodule("vision.blocks.1")
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert mixed["int8_weights"] == whole["int8"]["int8_weights"] - weights


def test_the_predictor_needs_no_torch_in_a_fresh_process(
    source: ExportSource,
    forms: Forms,
    hard_inputs: dict[str, ModelInputs],
    torch_logits: Ask,
    tmp_path: Path,
) -> None:
    inputs = hard_inputs["multimodal"]
    for name in INPUT_NAMES:
        np.save(tmp_path / f"{name}.npy", inputs[name], allow_pickle=False)
    code = (
        "import sys; sys.path[:0] = sys.argv[3].split(',')\n"
        "import numpy as np; from pathlib import Path\n"
        "from msd_export.litert.predictor import LiteRTPredictor\n"
        "from msd_export.signature import INPUT_NAMES\n"
        "inputs = {n: np.load(f'{sys.argv[2]}/{n}.npy') for n in INPUT_NAMES}\n"
        "np.save(f'{sys.argv[2]}/logits', LiteRTPredictor(Path(sys.argv[1])).predict(inputs))\n"
        "assert not {'torch', 'jax', 'litert_torch'} & set(sys.modules)\n"
    )
    roots = ",".join(str(Path(__file__).parents[3] / name) for name in (".", "export"))
    command = [sys.executable, "-c", code, str(forms["fp32"][0]), str(tmp_path), roots]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("", "")
    found = np.load(tmp_path / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(found, torch_logits(source, inputs), atol=1e-4)


def test_prepared_calls_predict_each_for_its_own_inputs(
    forms: Forms, hard_inputs: dict[str, ModelInputs]
) -> None:
    predictor = LiteRTPredictor(forms["fp32"][0])
    calls = [predictor.prepare(hard_inputs[view]) for view in ("multimodal", "text")]
    for call in (*calls, *calls):
        call()
    found = predictor.predict(hard_inputs["multimodal"])
    assert not np.array_equal(found, predictor.predict(hard_inputs["text"]))


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.98])
def test_a_damaged_file_is_one_clear_and_quiet_error(
    forms: Forms, tmp_path: Path, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = forms["int8"][0].read_bytes()
    cut = keep if keep >= 1 else int(len(content) * keep)
    (tmp_path / "model.tflite").write_bytes(content[: int(cut)])
    with pytest.raises(ArtifactError, match=r"model\.tflite: LiteRT cannot load it"):
        LiteRTPredictor(tmp_path / "model.tflite")
    with pytest.raises(ArtifactError, match=r"model\.tflite: cannot be read as LiteRT \("):
        inspect_export(tmp_path / "model.tflite")
    assert capfd.readouterr() == ("", "")


def test_a_failed_conversion_is_one_quiet_error(
    exotic_source: ExportSource, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"the conversion to LiteRT failed \(.*bessel_j0"):
        LiteRTConverter(exotic_source).convert("fp32", tmp_path / "model.tflite")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
