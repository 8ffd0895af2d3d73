"""Palettes: tables by k-means, columns that take back each other's rounding, moments of inputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.quiet import quiet_python
from msd_export.coreml.activations import clips_at_six, with_relu6
from msd_export.coreml.calibration import measure_second_moments
from msd_export.coreml.mil.evaluator import MilEvaluator
from msd_export.coreml.mil.operations import OPERATIONS
from msd_export.coreml.mil.program import read_program
from msd_export.coreml.package import read_spec, rewrite_package
from msd_export.coreml.rounding import palettize, round_to_int8
from msd_export.coreml.spec import count_weights, operations_of

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813

SaveProgram = Callable[..., Path]


def test_sixteen_values_are_kept_exactly() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(16).astype(np.float16)
    weight = values[rng.integers(0, 16, (40, 30))]
    table, indices = palettize(weight, 4)
    np.testing.assert_array_equal(table[indices], weight)


@pytest.mark.parametrize("bits", [4, 6])
def test_table_is_near_the_best_one_for_normal_weights(bits: int) -> None:
    """Max 1960, table 1: the least mean squared error of 16 levels is .009497; 64: Panter & Dite's
    sqrt(3) pi / 2 / 64 ** 2.
    """
    weight = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float16)
    table, indices = palettize(weight, bits)
    error = np.mean((table[indices].astype(np.float64) - weight) ** 2)
    least = 0.009497 if bits == 4 else np.sqrt(3) * np.pi / 2 / 64**2
    assert error < 1.1 * least


def test_compensated_rounding_disturbs_the_output_less() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 64))  # correlated
    weight = rng.standard_normal((32, 64)).astype(np.float16)
    errors = []
    for moments in (None, (inputs.T @ inputs)[None]):
        table, indices = palettize(weight, 4, moments)
        errors.append(np.mean((inputs @ (table[indices] - weight).T.astype(np.float64)) ** 2))
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_integers_disturb_the_output_less_than_the_nearest_ones(groups: int) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((groups, 500, 5)) @ rng.standard_normal((groups, 5, 9)) + 1.0
    weight = rng.standard_normal((32, 1, 3, 3)).astype(np.float16)
    rounded = round_to_int8(weight, np.swapaxes(inputs, 1, 2) @ inputs)
    exact = weight.reshape(groups, -1, 9).astype(np.float64)
    scale = rounded.scale.astype(np.float64).reshape(groups, -1, 1)
    errors = [
        np.mean((inputs @ np.swapaxes(integers * scale - exact, 1, 2)) ** 2)
        for integers in (rounded.quantized.reshape(exact.shape), np.rint(exact / scale))
    ]
    assert np.abs(rounded.quantized).max() == 127
    assert errors[0] < 0.5 * errors[1]


def test_layer_whose_inputs_are_zero_is_palettized() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float16)
    plain, compensated = palettize(weight, 4), palettize(weight, 4, np.zeros((1, 16, 16)))
    np.testing.assert_array_equal(plain[1], compensated[1])


def _save_layers(save_program: SaveProgram) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.standard_normal((1, 3, 9, 8)).astype(np.float32),
        "image_present": np.array([1], np.int32),
        "input_ids": np.zeros((1, 4), np.int32),
        "attention_mask": np.zeros((1, 4), np.int32),
    }
    kernel = rng.standard_normal((5, 3, 3, 2)).astype(np.float32)
    depthwise = rng.standard_normal((5, 1, 3, 3)).astype(np.float32)
    weight = rng.standard_normal((6, 5)).astype(np.float32)

    def build(
        image: object, image_present: object, input_ids: object, attention_mask: object
    ) -> object:
        x = mb.conv(x=image, weight=kernel, strides=[2, 1], pad_type="same", dilations=[1, 2])
        x = mb.conv(x=x, weight=depthwise, groups=5, pad_type="valid", name="depthwise")
        x = mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False)
        return mb.linear(x=x, weight=weight, name="linear")

    return save_program(build, list(inputs.values())), inputs


def test_moments_explain_the_energy_of_each_layers_output(save_program: SaveProgram) -> None:
    """Sum over positions of |W x|^2 is the trace of W M W^T with M the sum of x x^T."""
    package, inputs = _save_layers(save_program)
    moments = measure_second_moments(package, inputs)
    values = MilEvaluator.load(package).trace(inputs)
    operations = read_program(package, known_types=OPERATIONS).operations
    layers = [op for op in operations if op.op_type in ("conv", "linear")]
    assert [len(found) for found in moments.values()] == [1, 5, 1]
    for layer, found in zip(layers, moments.values(), strict=True):
        weight = np.asarray(layer.arguments["weight"], np.float64)
        weight = weight.reshape(len(found), -1, found.shape[-1])
        energy = np.sum(values[layer.outputs[0][0]].astype(np.float64) ** 2)
        explained = np.einsum("goi,gij,goj->", weight, found, weight)
        assert explained == pytest.approx(energy, rel=1e-5)


def test_rows_without_an_image_do_not_count(save_program: SaveProgram) -> None:
    package, inputs = _save_layers(save_program)
    absent = inputs | {"image_present": np.array([0], np.int32)}
    both = {name: np.concatenate([inputs[name], absent[name]]) for name in inputs}
    once, twice = measure_second_moments(package, inputs), measure_second_moments(package, both)
    for name, moments in once.items():
        np.testing.assert_array_equal(twice[name], moments)


def test_clip_at_six_gets_the_name_that_quantization_knows(
    save_program: SaveProgram, tmp_path: Path
) -> None:
    x = np.linspace(-9, 9, 12, dtype=np.float32).reshape(1, 12)
    package = save_program(
        lambda x: mb.clip(x=mb.clip(x=x, alpha=-1.0, beta=8.0), alpha=0.0, beta=6.0), [x]
    )
    program = read_program(package, known_types=OPERATIONS)
    changed = tmp_path / "changed.mlpackage"
    rewrite_package(
        package, changed, lambda model: with_relu6(model, clips_at_six(program)), what="renaming"
    )
    types = [op.type for op in operations_of(read_spec(changed)) if op.type != "const"]
    assert types == ["clip", "relu6"]
    for path in (package, changed):
        (result,) = MilEvaluator.load(path).run({"x": x}).values()
        np.testing.assert_array_equal(result, np.clip(x, 0, 6))


def test_indices_and_tables_are_no_weights(save_program: SaveProgram) -> None:
    def build(x: object) -> object:
        weight = mb.constexpr_lut_to_dense(
            indices=np.array([0b00100111, 0b00001101], np.uint8),
            lut=np.array([-1.0, 0.5, 2.0, 4.0], np.float32),
            shape=np.array([2, 3], np.uint32),
        )
        return mb.linear(x=x, weight=weight, bias=np.zeros(2, np.float32))

    package = save_program(build, [np.ones((1, 3), np.float32)])
    assert count_weights(package) == {"pal2": 6, "fp32": 2}
