"""Damage a verified Core ML export in many ways: verification must notice each of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.metrics import LogitsByView
from msd_export.coreml.package import Spec
from msd_export.coreml.predictor import MilPredictor
from msd_export.folder import ExportFolder
from msd_export.formats import Variant
from msd_export.opened_model import open_model
from tests.export.coreml.surgery import (
    WEIGHT_FILE,
    Array,
    add_ones,
    argument,
    edit_constant,
    edit_program,
    operations,
    rename_reads,
    set_number,
)
from tests.export.mutants import (
    FILE_MUTANTS,
    REFUSALS,
    Mutate,
    check_contradiction_of_changed,
    check_digest_of_changed,
    verify,
)

pytestmark = pytest.mark.slow

FORM: Variant = ("coreml", "fp16")


def check(package: Path, source: LogitsByView, rows: PreparedSplit) -> None:
    verify(MilPredictor(package), FORM, source, rows)


def first_layer(package: Path) -> str:
    return argument(operations(package, "conv")[0], "weight")


def damage_bytes(package: Path) -> None:
    name = argument(operations(package, "linear")[2], "weight")

    def change(weight: Array) -> Array:
        weight[:4].view(np.uint8)[...] ^= 0x3C
        return weight

    edit_constant(package, name, change)


def cut_the_file(package: Path) -> None:
    content = (package / WEIGHT_FILE).read_bytes()
    (package / WEIGHT_FILE).write_bytes(content[: len(content) // 2])


def flip_signs(package: Path) -> None:
    edit_constant(package, argument(operations(package, "linear")[0], "weight"), np.negative)


def zero_a_channel(package: Path) -> None:
    def change(weight: Array) -> Array:
        weight[0] = 0
        return weight

    edit_constant(package, argument(operations(package, "linear")[0], "weight"), change)


def swap_text_inputs(package: Path) -> None:
    names = {"input_ids": "attention_mask", "attention_mask": "input_ids"}
    edit_program(package, lambda spec: rename_reads(spec, names))


def ignore_image_present(package: Path) -> None:
    def change(spec: Spec) -> None:
        rename_reads(spec, {"image_present": "always"})
        add_ones(spec, "always")

    edit_program(package, change)


def ignore_the_mask(package: Path) -> None:
    """Softmax reads the scores before the mask is added."""
    added = {op.outputs[0].name: argument(op, "x") for op in operations(package, "add")}
    masked = [argument(op, "x") for op in operations(package, "softmax")[:-1]]
    names = {name: added[name] for name in masked}
    edit_program(package, lambda spec: rename_reads(spec, names))


def wrong_mean(package: Path) -> None:
    edit_constant(package, argument(operations(package, "sub")[0], "y"), lambda mean: mean * 0.8)


def wrong_std(package: Path) -> None:
    edit_constant(package, argument(operations(package, "mul")[0], "y"), lambda scale: scale * 0.8)


def read_blue_first(package: Path) -> None:
    edit_constant(package, first_layer(package), lambda kernel: kernel[:, ::-1].copy())


def declare_blue_first(package: Path) -> None:
    def change(spec: Spec) -> None:
        layout = spec.description.input[0].type.imageType
        layout.colorSpace = layout.ColorSpace.Value("BGR")

    edit_program(package, change)


def shift_text_positions(package: Path) -> None:
    (words,) = operations(package, "gather")
    place = next(
        argument(op, "y")
        for op in operations(package, "add")
        if argument(op, "x") == words.outputs[0].name
    )
    edit_constant(package, place, lambda table: np.roll(table, 1, axis=-2))


def attend_over_the_wrong_axis(package: Path) -> None:
    axis = argument(operations(package, "softmax")[0], "axis")
    edit_program(package, lambda spec: set_number(spec, axis, -2))


def make_probabilities_over_the_wrong_axis(package: Path) -> None:
    axis = argument(operations(package, "softmax")[-1], "axis")
    edit_program(package, lambda spec: set_number(spec, axis, 0))


def leave_out_a_residual(package: Path) -> None:
    skipped = operations(package, "add")[-1]
    names = {skipped.outputs[0].name: argument(skipped, "y")}
    edit_program(package, lambda spec: rename_reads(spec, names))


def exchange_classes(package: Path) -> None:
    for parameter in ("weight", "bias"):
        name = argument(operations(package, "linear")[-1], parameter)
        edit_constant(package, name, lambda rows: rows[::-1].copy())


def _change_classifier(package: Path, change: Callable[[Spec], None]) -> None:
    def change_operation(spec: Spec) -> None:
        (function,) = spec.mlProgram.functions.values()
        (operation,) = (
            op
            for op in function.block_specializations[function.opset].operations
            if op.type == "classify"
        )
        change(operation)

    edit_program(package, change_operation)


def name_other_classes(package: Path) -> None:
    def exchange(operation: Spec) -> None:
        values = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
        first, second = (each.immediateValue.tensor.strings.values for each in values[:2])
        first[0], second[0] = second[0], first[0]

    _change_classifier(package, exchange)


def name_the_class_of_other_values(package: Path) -> None:
    def read_logits(operation: Spec) -> None:
        operation.inputs["probabilities"].arguments[0].name = "logits"

    _change_classifier(package, read_logits)


def describe_other_probabilities(package: Path) -> None:
    def change(spec: Spec) -> None:
        spec.description.predictedProbabilitiesName = "probabilities"

    edit_program(package, change)


def describe_no_class(package: Path) -> None:
    def change(spec: Spec) -> None:
        spec.description.ClearField("predictedFeatureName")
        spec.description.ClearField("predictedProbabilitiesName")

    edit_program(package, change)


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
    declare_blue_first,
    shift_text_positions,
    attend_over_the_wrong_axis,
    make_probabilities_over_the_wrong_axis,
    leave_out_a_residual,
    exchange_classes,
    name_other_classes,
    name_the_class_of_other_values,
    describe_other_probabilities,
    describe_no_class,
]


@pytest.fixture
def package(decided_export: ExportFolder, tmp_path: Path) -> Path:
    """A copy of the verified package, to be damaged."""
    return Path(shutil.copytree(decided_export.model_path, tmp_path / "model.mlpackage"))


def test_the_undamaged_package_passes(
    package: Path, decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    check(package, decided_logits, decided_rows)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_damaged_package_is_refused(
    mutate: Mutate, package: Path, decided_logits: LogitsByView, decided_rows: PreparedSplit
) -> None:
    mutate(package)
    with pytest.raises(REFUSALS):
        check(package, decided_logits, decided_rows)


@pytest.fixture
def folder(decided_export: ExportFolder, tmp_path: Path) -> Path:
    """A copy of the whole export, to be damaged."""
    return Path(shutil.copytree(decided_export.folder, tmp_path / "export"))


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_does_not_have_its_digest(mutate: Mutate, folder: Path) -> None:
    check_digest_of_changed(folder, mutate)


@pytest.mark.parametrize("mutate", FILE_MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_changed_file_with_a_digest_to_match_contradicts_the_package(
    mutate: Mutate, folder: Path
) -> None:
    check_contradiction_of_changed(folder, mutate)


def test_the_unchanged_folder_is_opened(folder: Path) -> None:
    assert open_model(folder).problem == "single_label"
