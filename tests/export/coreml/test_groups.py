"""Which constants and operations of a Core ML package belong to which group of layers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from msd_deploy.quiet import quiet_python
from msd_export.coreml.converter import CoreMLConverter
from msd_export.coreml.package import read_spec
from msd_export.coreml.spec import groups_of_package
from msd_export.onnx.converter import OnnxConverter
from msd_export.source import ExportSource

with quiet_python():
    from coremltools.converters.mil import Builder as mb  # noqa: N813

SaveProgram = Callable[..., Path]


def _constant(name: str, *shape: int) -> object:
    return mb.const(val=np.ones(shape, np.float32), name=name)


def test_constant_without_a_name_is_counted_to_the_bias_that_its_product_meets(
    save_program: SaveProgram,
) -> None:
    parameters = [
        f"model.layers.{layer}.feed_forward.0.{kind}"
        for layer in (0, 1)
        for kind in ("weight", "bias")
    ]

    def build(x: object) -> object:
        weight = _constant("p_model_layers_0_feed_forward_0_weight_to_fp16", 4, 3)
        x = mb.relu(x=mb.linear(x=x, weight=weight, name="first"), name="between")
        x = mb.matmul(x=x, y=_constant("transposed", 4, 2), name="second")
        x = mb.add(x=x, y=_constant("p_model_layers_1_feed_forward_0_bias", 2), name="biased")
        return mb.matmul(x=x, y=_constant("folded", 2, 2), name="third")

    package = save_program(build, [np.ones((1, 3), np.float32)])
    divided = groups_of_package(read_spec(package), parameters)
    first, second = "layers.0.feed_forward", "layers.1.feed_forward"
    assert divided.weights == {
        "p_model_layers_0_feed_forward_0_weight_to_fp16": first,
        "transposed": second,
        "folded": second,
    }
    assert divided.operations == {
        "first": first,
        "between": first,
        "second": second,
        "biased": second,
        "third": second,
    }


def test_groups_are_named_as_those_of_onnx(own_source: ExportSource) -> None:
    groups = set(CoreMLConverter(own_source).groups("w8a8"))
    assert groups == set(OnnxConverter(own_source).groups("int8"))
    assert set(CoreMLConverter(own_source).groups("pal4")) < groups
    assert CoreMLConverter(own_source).groups("fp16") == ()
