"""The MIL evaluator: float16, compressed weights, images, and what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.errors import ArtifactError, DataError, ExportError
from msd_deploy.quiet import quiet_python
from msd_export.coreml.mil.evaluator import MilEvaluator

with quiet_python():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

SaveProgram = Callable[..., Path]

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
HALF_ROW = ROW.astype(np.float16)
IDS = np.array([[0, 1]], np.int32)


def _only(package: Path, x: np.ndarray, **options: bool) -> np.ndarray:
    (result,) = MilEvaluator.load(package, **options).run({"x": x}).values()
    return result


def test_result_of_a_float16_operation_is_rounded_to_float16(save_program: SaveProgram) -> None:
    package = save_program(lambda x: mb.add(x=x, y=np.float16(1)), [HALF_ROW])
    x = np.array([[2048.0, 0.0, -4096.0]], np.float32)
    np.testing.assert_array_equal(_only(package, x), [[2048.0, 1.0, -4096.0]])


def test_result_is_not_rounded_when_float16_arithmetic_is_off(save_program: SaveProgram) -> None:
    package = save_program(lambda x: mb.add(x=x, y=np.float16(1)), [HALF_ROW])
    x = np.array([[2048.0, 0.0, -4096.0]], np.float32)
    result = _only(package, x, fp16_arithmetic=False)
    np.testing.assert_array_equal(result, [[2049.0, 1.0, -4095.0]])


def test_float16_overflow_becomes_infinite(save_program: SaveProgram) -> None:
    package = save_program(lambda x: mb.square(x=x), [HALF_ROW])
    x = np.array([[300.0, 255.0, 0.0]], np.float32)
    np.testing.assert_array_equal(_only(package, x), [[np.inf, np.float16(65025), 0.0]])


@pytest.mark.parametrize("fp16_arithmetic", [True, False])
def test_cast_to_float16_always_rounds(save_program: SaveProgram, fp16_arithmetic: bool) -> None:
    def build(x: object) -> object:
        return mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32")

    result = _only(save_program(build, [ROW]), ROW / 10, fp16_arithmetic=fp16_arithmetic)
    np.testing.assert_array_equal(result, (ROW / 10).astype(np.float16).astype(np.float32))


def test_float16_weights_are_the_stored_ones(save_program: SaveProgram) -> None:
    weight = np.full((1, 3), 0.1, np.float16)
    package = save_program(lambda x: mb.linear(x=x, weight=weight), [HALF_ROW])
    result = _only(package, np.array([[1, 0, 0]], np.float32))
    np.testing.assert_array_equal(result, [[np.float32(np.float16(0.1))]])


def test_affine_int8_weights_are_expanded_per_channel(save_program: SaveProgram) -> None:
    quantized = np.array([[-127, 0, 64], [1, 2, 127]], np.int8)
    scale = np.array([0.5, 0.25], np.float32)

    def build(x: object) -> object:
        weight = mb.constexpr_affine_dequantize(
            quantized_data=quantized, zero_point=np.int8(0), scale=scale, axis=0
        )
        return mb.linear(x=x, weight=weight)

    expected = ROW @ (quantized * scale[:, None]).T
    np.testing.assert_allclose(_only(save_program(build, [ROW]), ROW), expected, rtol=1e-6)


def test_palettized_weights_are_looked_up(save_program: SaveProgram) -> None:
    def build(x: object) -> object:
        weight = mb.constexpr_lut_to_dense(
            indices=np.array([0b00100111, 0b00001101], np.uint8),  # 2 bits each, lowest first
            lut=np.array([-1.0, 0.5, 2.0, 4.0], np.float32),
            shape=np.array([2, 3], np.uint32),
        )
        return mb.linear(x=x, weight=weight)

    weight = np.array([[4.0, 0.5, 2.0], [-1.0, 0.5, 4.0]], np.float32)
    np.testing.assert_allclose(_only(save_program(build, [ROW]), ROW), ROW @ weight.T, rtol=1e-6)


def test_blockwise_weights_are_expanded(save_program: SaveProgram) -> None:
    data = np.array([[-8, 3, 7], [1, 0, 2]], np.int8)
    scale = np.array([[0.5], [2.0]], np.float32)

    def build(x: object) -> object:
        return mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=data, scale=scale))

    package = save_program(build, [ROW], target="iOS18")
    np.testing.assert_allclose(_only(package, ROW), ROW @ (data * scale).T, rtol=1e-6)


def test_tables_of_groups_of_channels_are_looked_up(save_program: SaveProgram) -> None:
    indices = np.array([[3, 0, 1], [2, 2, 0]], np.uint8)
    tables = np.array([[-1.0, 0.5, 2.0, 4.0], [10.0, 20.0, 30.0, 40.0]], np.float32)

    def build(x: object) -> object:
        two_bits = types.nptype_from_builtin(types.string_to_builtin("uint2"))
        weight = mb.constexpr_lut_to_dense(
            indices=indices.astype(two_bits), lut=tables.reshape(2, 1, 4, 1)
        )
        return mb.linear(x=x, weight=weight)

    package = save_program(build, [ROW], target="iOS18")
    weight = np.take_along_axis(tables, indices.astype(np.int64), 1)
    np.testing.assert_allclose(_only(package, ROW), ROW @ weight.T, rtol=1e-6)


def test_masked_row_is_finite_with_minus_1e4_and_nan_with_the_lowest_float(
    save_program: SaveProgram,
) -> None:
    def build(x: object) -> object:
        additive = mb.cast(x=mb.mul(x=x, y=np.float32(-1.0)), dtype="fp16")
        return mb.softmax(x=mb.add(x=additive, y=HALF_ROW), axis=-1)

    package = save_program(build, [ROW])
    masked = np.ones_like(ROW)
    assert np.isfinite(_only(package, masked * 1e4)).all()
    assert np.isnan(_only(package, masked * np.finfo(np.float32).max)).all()


def test_what_depends_on_constants_alone_is_computed_at_load(save_program: SaveProgram) -> None:
    def build(x: object) -> object:
        return mb.mul(x=x, y=mb.square(x=mb.add(x=ROW, y=1.0)))

    evaluator = MilEvaluator.load(save_program(build, [ROW]))
    assert evaluator.operation_count == 1
    (result,) = evaluator.run({"x": ROW}).values()
    np.testing.assert_array_equal(result, ROW * (ROW + 1) ** 2)


def _save_image_program(save_program: SaveProgram) -> Path:
    picture = np.zeros((1, 3, 4, 5), np.float32)
    feature = ct.ImageType("x", shape=picture.shape, color_layout=ct.colorlayout.RGB)
    return save_program(
        lambda x: mb.reduce_mean(x=x, axes=[3], keep_dims=False), [picture], features=[feature]
    )


def test_image_takes_bytes_as_pixels_and_numbers_as_channels(save_program: SaveProgram) -> None:
    package = _save_image_program(save_program)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
    channels = pixels.transpose(0, 3, 1, 2)
    expected = channels.mean(3)
    np.testing.assert_allclose(_only(package, pixels), expected, rtol=1e-6)
    np.testing.assert_allclose(_only(package, channels), expected, rtol=1e-6)
    np.testing.assert_allclose(_only(package, channels.astype(np.float32)), expected, rtol=1e-6)


def test_image_of_another_size_is_refused_with_the_right_one(save_program: SaveProgram) -> None:
    evaluator = MilEvaluator.load(_save_image_program(save_program))
    with pytest.raises(DataError, match=r"'x' has shape \[1, 3, 9, 9\].*uint8 \[1, 4, 5, 3\]"):
        evaluator.run({"x": np.zeros((1, 9, 9, 3), np.uint8)})


def test_two_runs_do_not_share_state(save_program: SaveProgram) -> None:
    evaluator = MilEvaluator.load(save_program(lambda x: mb.identity(x=x), [ROW]))
    (first,) = evaluator.run({"x": ROW}).values()
    (second,) = evaluator.run({"x": 2 * ROW}).values()
    np.testing.assert_array_equal(first, ROW)
    np.testing.assert_array_equal(second, 2 * ROW)


def test_unknown_operation_is_refused_by_its_type_at_load(save_program: SaveProgram) -> None:
    def build(x: object) -> object:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)

    package = save_program(build, [np.zeros((1, 1, 2, 2), np.float32)])
    with pytest.raises(
        ExportError, match="does not implement the operation 'upsample_nearest_neighbor'"
    ):
        MilEvaluator.load(package)


def _save_gather(save_program: SaveProgram) -> Path:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    return save_program(
        lambda ids, x: mb.add(x=mb.gather(x=table, indices=ids, axis=0), y=x), [IDS, ROW[:, :2]]
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": IDS}, "inputs are missing: x. Pass exactly ids, x"),
        ({"ids": IDS, "x": ROW[:, :2], "y": ROW}, "inputs are unknown: y"),
        ({"ids": IDS, "x": ROW}, r"'x' has shape \[1, 3\] and type float32. Pass fp32 \[1, 2\]"),
        ({"ids": IDS.astype(float), "x": ROW[:, :2]}, "'ids' has .* type float64. Pass int32"),
    ],
    ids=["missing", "unknown", "shape", "type"],
)
def test_wrong_inputs_are_refused(
    save_program: SaveProgram, inputs: dict[str, np.ndarray], message: str
) -> None:
    evaluator = MilEvaluator.load(_save_gather(save_program))
    with pytest.raises(DataError, match=message):
        evaluator.run(inputs)


def test_index_out_of_range_names_the_operation(save_program: SaveProgram) -> None:
    evaluator = MilEvaluator.load(_save_gather(save_program))
    with pytest.raises(ExportError, match=r"the operation gather 'gather_0' failed .*out of range"):
        evaluator.run({"ids": np.array([[0, 3]], np.int32), "x": ROW[:, :2]})


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is not an \.mlpackage"):
        MilEvaluator.load(tmp_path / "absent.mlpackage")


def test_package_without_its_weights_is_refused(save_program: SaveProgram) -> None:
    weight = np.ones((40, 3), np.float32)
    package = save_program(lambda x: mb.linear(x=x, weight=weight), [ROW])
    shutil.rmtree(package / "Data" / "com.apple.CoreML" / "weights")
    with pytest.raises(ArtifactError, match="its program cannot be read"):
        MilEvaluator.load(package)
