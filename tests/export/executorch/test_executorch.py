import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.views import View
from msd_export.formats import Precision
from msd_export.inspection import inspect_export
from msd_export.model_file import TensorFacts
from msd_export.signature import INPUT_NAMES, ModelInputs
from msd_export.source import ExportSource

# Before the imports that need it.
pytest.importorskip("executorch", reason="needs the extra [executorch]")

from msd_export.executorch.converter import ExecutorchConverter
from msd_export.executorch.predictor import ExecutorchPredictor
from msd_export.executorch.quantize import Int8Embedding
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
    folder = tmp_path_factory.mktemp("executorch")
    converter = ExecutorchConverter(replace(source, scratch=folder))
    paths = {precision: folder / f"{precision}.pte" for precision in PRECISIONS}
    return write_forms(converter, paths)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.1)])
@pytest.mark.parametrize("view", [*(view.value for view in View), "nothing"])
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
    found = ExecutorchPredictor(forms[precision][0]).predict(inputs)
    if (precision, view) == ("fp16", "nothing"):
        # -1e4 swallows a score in half precision: attention is even where all tokens are masked.
        assert np.isfinite(found).all()
    else:
        np.testing.assert_allclose(found, torch_logits(source, inputs), atol=tolerance)


@pytest.mark.parametrize("precision", INTEGER)
def test_integer_variants_decide_as_pytorch_where_it_is_confident(
    source: ExportSource,
    forms: Forms,
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    precision: Precision,
) -> None:
    predictor = ExecutorchPredictor(forms[precision][0])
    check_decisions(predictor, source, torch_logits, memes[0].splits["test"].head(100))


def test_the_entry_for_texts_answers_whatever_images_are_given(
    forms: Forms, hard_inputs: dict[str, ModelInputs]
) -> None:
    entry = ExecutorchPredictor(forms["fp32"][0]).text_entry
    assert entry is not None
    with_images = entry.predict(hard_inputs["multimodal"])
    np.testing.assert_array_equal(with_images, entry.predict(hard_inputs["text"]))


def test_what_is_integer_is_counted_from_the_file(source: ExportSource, forms: Forms) -> None:
    model = source.loaded.model
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert forms["fp32"][1]["int8_weights"] == forms["fp16"][1]["int8_weights"] == 0
    for precision in INTEGER:
        facts = forms[precision][1]
        assert facts["int8_weights"] == weights + 300 * 16
        assert forms[precision][0].stat().st_size < forms["fp32"][0].stat().st_size


def test_signature_has_small_integers_at_the_border(forms: Forms) -> None:
    from executorch.runtime import Runtime

    for path, _ in forms.values():
        metadata = Runtime.get().load_program(path).metadata("forward")
        inputs = [metadata.input_tensor_meta(index) for index in range(metadata.num_inputs())]
        assert [tuple(tensor.sizes()) for tensor in inputs] == [(1, 48, 48, 3), (1,)] + [
            (1, 16)
        ] * 2
        byte, int32 = 0, 3
        assert [tensor.dtype() for tensor in inputs] == [byte, int32, int32, int32]


def test_inspect_shows_signature_operators_and_metadata(source: ExportSource, forms: Forms) -> None:
    for path, described in forms.values():
        facts = inspect_export(path).facts
        assert facts.inputs == (
            TensorFacts("input 0", (1, 48, 48, 3), "uint8"),
            TensorFacts("input 1", (1,), "int32"),
            TensorFacts("input 2", (1, 16), "int32"),
            TensorFacts("input 3", (1, 16), "int32"),
        )
        assert facts.outputs[0] == TensorFacts("output 0", (1, 2), "float32")
        assert sum(facts.int8_operators.values()) == described["operators"]["int8"]  # type: ignore[index,call-overload]
        assert facts.operators["XNNConv2d"] == 3
        assert facts.operators["aten::native_layer_norm.out"] > 0
        assert facts.operators["delegate XnnpackBackend"] > 1
        assert facts.metadata == source.metadata()
        assert facts.storage().get("int8", 0) == described["int8_weights"]
    assert inspect_export(forms["int8"][0]).facts.int8_operators["XNNConv2d"] == 3


def test_inspect_shows_bytes_by_layer(source: ExportSource, forms: Forms) -> None:
    modules = source.loaded.model.named_modules()
    weighted = {name: m for name, m in modules if isinstance(m, nn.Conv2d | nn.Linear)}
    for precision, (path, _) in forms.items():
        layers = inspect_export(path).facts.layers()
        assert weighted.keys() <= layers.keys()
        assert sum(layers.values()) < path.stat().st_size
        if precision == "fp32":
            for name, module in weighted.items():  # a bias each
                assert layers[name] == 4 * (module.weight.numel() + module.weight.shape[0])
            assert layers["kernels.aten::embedding"] == 4 * 300 * 16


def test_inspect_reads_a_file_without_layers_and_with_another_backend(
    forms: Forms, tmp_path: Path
) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    content = deserialize_pte_binary(forms["fp32"][0].read_bytes())
    plans = content.program.execution_plan
    content.program.execution_plan = [plan for plan in plans if plan.name == "forward"]
    delegate = content.program.execution_plan[0].delegates[0]
    delegate.id = "OtherBackend"
    size = len(content.program.backend_delegate_data[delegate.processed.index].data)
    (tmp_path / "other.pte").write_bytes(bytes(serialize_pte_binary(content)))
    facts = inspect_export(tmp_path / "other.pte").facts
    assert facts.operators["delegate OtherBackend"] == 1
    assert facts.layers()["OtherBackend 0"] == size
    assert any(name.startswith("XnnpackBackend 1.XNNFullyConnected ") for name in facts.layers())
    assert facts.metadata == {}


def test_the_runtime_gives_the_metadata(source: ExportSource, forms: Forms) -> None:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(forms["int8"][0])
    assert program.method_names == {"forward", "text", "msd_layers", *source.metadata()}
    assert program.load_method("labels").execute([]) == [source.metadata()["labels"]]


@pytest.mark.slow
def test_same_model_gives_the_same_bytes_without_a_trace_of_the_machine(
    own_source: ExportSource, forms: Forms, tmp_path: Path
) -> None:
    path, _ = forms["int8"]
    ExecutorchConverter(own_source).convert("int8", tmp_path / "again.pte")
    assert (tmp_path / "again.pte").read_bytes() == path.read_bytes()
    for trace in (str(Path.cwd()), "site-packages", str(tmp_path.parent)):
        assert trace.encode() not in path.read_bytes()


@pytest.mark.slow
def test_groups_can_stay_in_float(own_source: ExportSource, forms: Forms, tmp_path: Path) -> None:
    converter = ExecutorchConverter(own_source)
    kept = ("layers.0.attention", "word_embeddings")
    assert set(kept) < set(converter.groups("int8"))
    assert converter.groups("fp32") == ()
    mixed = write_form(converter, "int8", tmp_path / "mixed.pte", kept=kept)
    layer = own_source.loaded.model.get_submodule("layers.0.attention")
    weights = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
    assert mixed["int8_weights"] == forms["int8"][1]["int8_weights"] - weights - 300 * 16
    with pytest.raises(ExportError, match="left every weight in float"):
        write_form(converter, "int8", tmp_path / "float.pte", kept=converter.groups("int8"))


def test_the_file_is_read_again_in_a_fresh_process(
    source: ExportSource,
    forms: Forms,
    hard_inputs: dict[str, ModelInputs],
    torch_logits: Ask,
    tmp_path: Path,
) -> None:
    inputs = hard_inputs["multimodal"]
    for name in INPUT_NAMES:
        np.save(tmp_path / f"{name}.npy", inputs[name][:1], allow_pickle=False)
    code = (
        "import sys, numpy as np, torch\n"
        "from executorch.runtime import Runtime\n"
        "arrays = [np.load(f'{sys.argv[2]}/{n}.npy') for n in sys.argv[3].split(',')]\n"
        "method = Runtime.get().load_program(sys.argv[1]).load_method('forward')\n"
        "logits, _ = method.execute([torch.from_numpy(array) for array in arrays])\n"
        "np.save(f'{sys.argv[2]}/logits.npy', logits.numpy())\n"
    )
    path = forms["fp32"][0]
    command = [sys.executable, "-c", code, str(path), str(tmp_path), ",".join(INPUT_NAMES)]
    subprocess.run(command, capture_output=True, check=True)
    found = np.load(tmp_path / "logits.npy", allow_pickle=False)
    np.testing.assert_allclose(found, torch_logits(source, inputs)[:1], atol=1e-4)


def test_a_prepared_call_runs_every_row(forms: Forms, hard_inputs: dict[str, ModelInputs]) -> None:
    predictor = ExecutorchPredictor(forms["fp32"][0], threads=2)
    assert predictor.prepare(hard_inputs["multimodal"])() is not None


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.98])
def test_a_damaged_file_is_one_clear_and_quiet_error(
    forms: Forms, tmp_path: Path, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = forms["int8"][0].read_bytes()
    cut = keep if keep >= 1 else int(len(content) * keep)
    (tmp_path / "model.pte").write_bytes(content[: int(cut)])
    with pytest.raises(ArtifactError, match=r"model\.pte: ExecuTorch cannot load it"):
        ExecutorchPredictor(tmp_path / "model.pte")
    with pytest.raises(ArtifactError, match=r"model\.pte: cannot be read as ExecuTorch \("):
        inspect_export(tmp_path / "model.pte")
    assert capfd.readouterr() == ("", "")


def test_a_failed_conversion_is_one_quiet_error(
    exotic_source: ExportSource, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"the conversion to ExecuTorch failed \(.*bessel_j0"):
        ExecutorchConverter(exotic_source).convert("fp32", tmp_path / "model.pte")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_embedding_rows_are_within_half_a_step() -> None:
    embedding = nn.Embedding(20, 8)
    ids = torch.arange(20)
    with torch.no_grad():
        exact, stored = embedding(ids), Int8Embedding(embedding)(ids)
    step = exact.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((exact - stored).abs() <= 0.5001 * step).all())
