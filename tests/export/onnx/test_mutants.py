"""Damage verified ONNX exports in many ways: verification must notice each of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from msd_deploy.artifacts.manifest import CARD_NAME
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ArtifactError, ParityError
from msd_deploy.metrics import LogitsByView
from msd_export.folder import ExportFolder, exports_below, open_export
from msd_export.formats import Precision
from msd_export.inspection import inspect_export
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.opened_model import open_model
from tests.export.mutants import (
    FILE_MUTANTS,
    REFUSALS,
    Mutate,
    check_contradiction_of_changed,
    check_digest_of_changed,
    verify,
)
from tests.export.onnx.surgery import (
    Array,
    all_nodes,
    constants,
    edit_model,
    edit_weight,
    nodes,
    rename_reads,
    set_attribute,
)

pytestmark = pytest.mark.slow

PRECISIONS: list[Precision] = ["fp32", "int8"]
FIRST_LAYER = "model.vision.layers.0.weight"
WORDS, PLACES = "model.word_embeddings.weight", "add_68"
KEYS = "model.layers.0.attention.key_value.weight"


@pytest.fixture(scope="module")
def exports(export_decided: Callable[..., list[ExportFolder]]) -> dict[str, ExportFolder]:
    """The decided student as ONNX, verified."""
    written = export_decided(*(("onnx", precision) for precision in PRECISIONS))
    return {item.precision: item for item in written}


def damage_bytes(path: Path) -> None:
    def change(weight: Array) -> Array:
        weight[: len(weight) // 4].view(np.uint8)[...] ^= 0x3C
        return weight

    edit_weight(path, KEYS, change)


def cut_the_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_signs(path: Path) -> None:
    edit_weight(path, KEYS, np.negative)


def zero_a_channel(path: Path) -> None:
    def change(weight: Array) -> Array:
        weight[0] = 0
        return weight

    edit_weight(path, FIRST_LAYER, change)


def swap_text_inputs(path: Path) -> None:
    names = {"input_ids": "attention_mask", "attention_mask": "input_ids"}
    edit_model(path, lambda model: rename_reads(all_nodes(model.graph), names))


def ignore_image_present(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        rename_reads(all_nodes(model.graph), {"image_present": "always"})
        present = ["image_present", "image_present"]
        model.graph.node.insert(0, helper.make_node("Equal", present, ["always"]))

    edit_model(path, change)


def ignore_the_mask(path: Path) -> None:
    """Softmax reads the scores before the mask is added."""

    def change(model: onnx.ModelProto) -> None:
        sums = {node.output[0]: node.input[0] for node in nodes(model, "Add")}
        rename_reads(nodes(model, "Softmax")[:-1], sums)

    edit_model(path, change)


def change_normalisation(path: Path, operation: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        by_channel = {t.name: t for t in constants(model) if t.dims == [1, 3, 1, 1]}
        node = next(n for n in nodes(model, operation) if n.input[1] in by_channel)
        stated = by_channel[node.input[1]]
        wrong = numpy_helper.from_array(numpy_helper.to_array(stated) * np.float32(0.8), "wrong")
        model.graph.initializer.append(wrong)
        node.input[1] = "wrong"

    edit_model(path, change)


def wrong_mean(path: Path) -> None:
    change_normalisation(path, "Sub")


def wrong_std(path: Path) -> None:
    change_normalisation(path, "Div")


def read_blue_first(path: Path) -> None:
    edit_weight(path, FIRST_LAYER, lambda kernel: kernel[:, ::-1])


def transpose_the_picture(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        set_attribute(nodes(model, "Transpose")[0], "perm", [0, 3, 2, 1])

    edit_model(path, change)


def shift_text_positions(path: Path) -> None:
    edit_weight(path, PLACES, lambda table: np.roll(table, 1, axis=0))


def shift_words(path: Path) -> None:
    edit_weight(path, WORDS, lambda table: np.roll(table, 1, axis=0))


def exchange_two_words(path: Path) -> None:
    """Two that stand in many texts: what [CLS] and [SEP] mean."""

    def change(table: Array) -> Array:
        table[[2, 3]] = table[[3, 2]]
        return table

    edit_weight(path, WORDS, change)


def attend_over_the_wrong_axis(path: Path) -> None:
    edit_model(path, lambda model: set_attribute(nodes(model, "Softmax")[0], "axis", -2))


def make_probabilities_over_the_wrong_axis(path: Path) -> None:
    edit_model(path, lambda model: set_attribute(nodes(model, "Softmax")[-1], "axis", 0))


def leave_out_a_residual(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        last = nodes(model, "Add")[-1]
        rename_reads(all_nodes(model.graph), {last.output[0]: last.input[1]})

    edit_model(path, change)


def another_activation(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for node in nodes(model, "Gelu"):
            node.op_type = "Relu"
            node.ClearField("attribute")

    edit_model(path, change)


def another_epsilon(path: Path) -> None:
    """As large as what is normalised varies."""

    def change(model: onnx.ModelProto) -> None:
        for node in nodes(model, "LayerNormalization"):
            set_attribute(node, "epsilon", 1.0)

    edit_model(path, change)


def exchange_classes(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in constants(model):
            if tensor.name.startswith("model.classifier."):
                rows = numpy_helper.to_array(tensor)[::-1]
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), tensor.name))

    edit_model(path, change)


def not_a_number(path: Path) -> None:
    def change(mean: Array) -> Array:
        mean[0] = np.nan
        return mean

    edit_weight(path, "model.image_mean", change)


def stale_external_data(path: Path) -> None:
    """The weights lie in a file of their own, which an earlier model wrote."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    weights = path.with_name("weights")
    weights.write_bytes(weights.read_bytes()[::-1])


MUTANTS: list[Mutate] = [
    damage_bytes,
    cut_the_file,
    flip_signs,
    zero_a_channel,
    swap_text_inputs,
    ignore_image_present,
    ignore_the_mask,
    wrong_mean,
    wrong_std,
    read_blue_first,
    transpose_the_picture,
    shift_text_positions,
    shift_words,
    exchange_two_words,
    attend_over_the_wrong_axis,
    make_probabilities_over_the_wrong_axis,
    leave_out_a_residual,
    another_activation,
    another_epsilon,
    exchange_classes,
    not_a_number,
    stale_external_data,
]


def wrong_weight_scale(path: Path) -> None:
    edit_weight(path, f"{KEYS}_scale", lambda scale: scale * 1.5)


def wrong_activation_scale(path: Path) -> None:
    edit_weight(path, "layer_norm_4_scale", lambda scale: scale * 0.5)


def shift_zero_point(path: Path, quantized: str) -> None:
    """Of one tensor alone: equal zero points are stored once."""

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in nodes(model, "DequantizeLinear") if n.input[0] == quantized)
        stated = next(item for item in constants(model) if item.name == node.input[2])
        zero = numpy_helper.to_array(stated)
        wrong = zero + zero.dtype.type(20)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(wrong), "wrong"))
        node.input[2] = "wrong"

    edit_model(path, change)


def wrong_weight_zero_point(path: Path) -> None:
    """Not that of words: what moves all features of a token alike, the next norm takes out."""
    shift_zero_point(path, f"{KEYS}_quantized")


def wrong_activation_zero_point(path: Path) -> None:
    shift_zero_point(path, "layer_norm_4_QuantizeLinear_Output")


INTEGER_MUTANTS: list[Mutate] = [
    wrong_weight_scale,
    wrong_activation_scale,
    wrong_weight_zero_point,
    wrong_activation_zero_point,
]


@pytest.fixture(params=PRECISIONS)
def model(
    request: pytest.FixtureRequest, exports: dict[str, ExportFolder], tmp_path: Path
) -> tuple[Path, Precision]:
    """A copy of a verified file, to be damaged."""
    export = exports[request.param]
    return Path(shutil.copy(export.model_path, tmp_path)), export.precision


def test_the_undamaged_file_passes(
    model: tuple[Path, Precision], decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    path, precision = model
    verify(OnnxPredictor(path), ("onnx", precision), decided_logits, decided_rows)


# Scales and zero points are in the int8 file alone.
CASES = [
    *((precision, mutate) for precision in ("fp32", "int8") for mutate in MUTANTS),
    *(("int8", mutate) for mutate in INTEGER_MUTANTS),
]


@pytest.mark.parametrize(
    ("model", "mutate"),
    CASES,
    indirect=["model"],
    ids=[f"{precision}-{mutate.__name__}" for precision, mutate in CASES],
)
def test_a_damaged_file_is_refused(
    mutate: Mutate,
    model: tuple[Path, Precision],
    decided_logits: LogitsByView,
    decided_rows: PreparedSplit,
) -> None:
    path, precision = model
    mutate(path)
    with pytest.raises(REFUSALS):
        verify(OnnxPredictor(path), ("onnx", precision), decided_logits, decided_rows)


@pytest.mark.parametrize("model", ["int8"], indirect=True)
def test_int8_under_the_name_of_float32_is_refused(
    model: tuple[Path, Precision], decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    with pytest.raises(REFUSALS):
        verify(OnnxPredictor(model[0]), ("onnx", "fp32"), decided_logits, decided_rows)


@pytest.mark.parametrize("model", ["fp32"], indirect=True)
def test_a_smaller_epsilon_is_noticed_in_float32(
    model: tuple[Path, Precision], decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    """1e-12 for 1e-5 moves logits by .003; in 8 bits that is less than rounding."""

    def change(graph: onnx.ModelProto) -> None:
        for node in nodes(graph, "LayerNormalization"):
            set_attribute(node, "epsilon", 1e-12)

    edit_model(model[0], change)
    with pytest.raises(ParityError, match="logits differ"):
        verify(OnnxPredictor(model[0]), ("onnx", "fp32"), decided_logits, decided_rows)


@pytest.fixture
def folder(exports: dict[str, ExportFolder], tmp_path: Path) -> Path:
    """A copy of a whole export, to be damaged."""
    return Path(shutil.copytree(exports["int8"].folder, tmp_path / "onnx-int8"))


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_does_not_have_its_digest(mutate: Mutate, folder: Path) -> None:
    check_digest_of_changed(folder, mutate)


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_with_a_digest_to_match_contradicts_the_model(
    mutate: Mutate, folder: Path
) -> None:
    check_contradiction_of_changed(folder, mutate)


def test_the_unchanged_folder_is_opened(folder: Path) -> None:
    assert open_model(folder).problem == "single_label"


def test_one_altered_byte_in_any_file_is_noticed_by_all_that_open_an_export(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.name == CARD_NAME:  # which its owner completes
            continue
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        for accept in (open_export, inspect_export, open_model):
            with pytest.raises(ArtifactError):
                accept(folder)
        with pytest.raises(ArtifactError):
            exports_below(folder.parent)
        path.write_bytes(content)
    assert inspect_export(folder).precision == "int8"
