"""The picture's half of an end-to-end graph: encoded bytes to the pixels that a model takes.

docs/preprocessing.md in ONNX operators, but for what DecodeImage lacks: EXIF's orientation and
transparency are ignored, CMYK and what is neither JPEG nor PNG are refused.
"""

import numpy as np
from onnx import TensorProto

from msd_deploy.data.images import ImageSpec
from msd_export.graph_builder import EXTENSIONS_DOMAIN, GraphBuilder

IMAGE_INPUT = "image_bytes"
NOT_DECODED = "image_bytes_are_neither_JPEG_nor_PNG"
NOT_RGB = "JPEG_is_neither_RGB_nor_grey"
_JPEG, _PNG = (0xFF, 0xD8), (0x89, 0x50)
_END_OF_JPEG = (0xFF, 0xD9)


def add_image(graph: GraphBuilder, spec: ImageSpec) -> None:
    """Add the nodes from IMAGE_INPUT to image and image_present.

    Args:
        graph: Where they go.
        spec: The size, and how a picture is brought to it.
    """
    size = graph.node("Size", IMAGE_INPUT)
    is_absent = graph.node("Equal", size, graph.constant(0))
    pixels = graph.node(
        "If",
        is_absent,
        then_branch=_blank(spec).subgraph("blank"),
        else_branch=_decoded(spec).subgraph("pixels"),
    )
    shape = graph.constant([1, *spec.size, 3])
    graph.named(graph.node("Reshape", pixels, shape), "image")
    present = graph.node("Cast", graph.node("Not", is_absent), to=TensorProto.INT32)
    graph.named(graph.node("Reshape", present, graph.constant([1])), "image_present")


def _blank(spec: ImageSpec) -> GraphBuilder:
    graph = GraphBuilder("no_image")
    black = graph.constant(np.zeros((*spec.size, 3)), np.uint8)
    graph.named(black, "blank")
    return graph


def _decoded(spec: ImageSpec) -> GraphBuilder:
    graph = GraphBuilder("decoding")
    encoded = _checked_bytes(graph)
    decoded = graph.node("DecodeImage", encoded, domain=EXTENSIONS_DOMAIN, color_space="rgb")
    # A grey JPEG has one channel, a CMYK one four: that is no shape to expand to three.
    rgb = graph.node("Expand", decoded, graph.constant([1, 1, 3]), name=NOT_RGB)
    graph.named(_fitted(graph, rgb, spec), "pixels")
    return graph


def _checked_bytes(graph: GraphBuilder) -> str:
    """Return the bytes, made safe for DecodeImage.

    It ends the process over what is neither JPEG nor PNG, and waits forever for the end of a JPEG
    that is cut short: so others are looked up out of bounds, which is an error, and an end is
    appended.
    """
    start = graph.node("Gather", IMAGE_INPUT, graph.constant([0, 1]))
    is_known = graph.node("Or", _starts(graph, start, _JPEG), _starts(graph, start, _PNG))
    size = graph.node("Shape", IMAGE_INPUT)
    place = graph.node("Where", is_known, graph.constant([0]), size)
    first = graph.node("Gather", IMAGE_INPUT, place, name=NOT_DECODED)
    rest = graph.node("Slice", IMAGE_INPUT, graph.constant([1]), size)
    return graph.node("Concat", first, rest, graph.constant(_END_OF_JPEG, np.uint8), axis=0)


def _starts(graph: GraphBuilder, start: str, wanted: tuple[int, int]) -> str:
    equal = graph.node("Equal", start, graph.constant(wanted, np.uint8))
    as_numbers = graph.node("Cast", equal, to=TensorProto.INT32)
    least = graph.node("ReduceMin", as_numbers, keepdims=1)
    return graph.node("Cast", least, to=TensorProto.BOOL)


def _fitted(graph: GraphBuilder, rgb: str, spec: ImageSpec) -> str:
    """Scale uint8 [height, width, 3], then pad or cut it to the model's size."""
    stored = graph.node("Slice", graph.node("Shape", rgb), graph.constant([0]), graph.constant([2]))
    scaled = _scaled_sides(graph, stored, spec)
    # exclude_outside is what Pillow does at the edges: without it they are up to 19 of 255 off.
    resized = graph.node(
        "Resize",
        rgb,
        "",
        "",
        scaled,
        axes=[0, 1],
        mode="linear",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )
    sides, two = graph.constant(spec.size), graph.constant([2])
    if spec.mode == "crop":
        first = graph.node("Div", graph.node("Sub", scaled, sides), two)
        end = graph.node("Add", first, sides)
        return graph.node("Slice", resized, first, end, graph.constant([0, 1]))
    missing = graph.node("Sub", sides, scaled)
    before = graph.node("Div", missing, two)
    zero = graph.constant([0])
    after = graph.node("Sub", missing, before)
    pads = graph.node("Concat", before, zero, after, zero, axis=0)
    return graph.node("Pad", resized, pads, graph.constant(255, np.uint8))


def _scaled_sides(graph: GraphBuilder, stored: str, spec: ImageSpec) -> str:
    """Return the scaled height and width, int64 [2], of a stored height and width."""
    height, width = (graph.constant([side]) for side in spec.size)
    stored_height = graph.node("Gather", stored, graph.constant([0]))
    stored_width = graph.node("Gather", stored, graph.constant([1]))
    by_height = graph.node("Mul", stored_width, height)
    by_width = graph.node("Mul", stored_height, width)
    fills_width = graph.node("Greater", by_height, by_width)
    if spec.mode == "crop":
        fills_width = graph.node("Not", fills_width)
    new_height = _half_up(graph, by_width, stored_width)
    new_width = _half_up(graph, by_height, stored_height)
    return graph.node(
        "Concat",
        graph.node("Where", fills_width, new_height, height),
        graph.node("Where", fills_width, width, new_width),
        axis=0,
    )


def _half_up(graph: GraphBuilder, numerator: str, denominator: str) -> str:
    """Return max(1, (2 n + d) // (2 d))."""
    two = graph.constant([2])
    above = graph.node("Add", graph.node("Mul", numerator, two), denominator)
    quotient = graph.node("Div", above, graph.node("Mul", denominator, two))
    return graph.node("Max", quotient, graph.constant([1]))
