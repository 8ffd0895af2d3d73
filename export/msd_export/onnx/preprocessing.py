"""Image decoding and tokenization as ONNX nodes, for end_to_end.onnx.

Images: docs/preprocessing.md in ONNX operators, except for what DecodeImage lacks: EXIF orientation
and transparency are ignored; CMYK and formats other than JPEG and PNG are refused.

Texts: token ids and mask by BertTokenizer. For a word with a character outside the vocabulary it
keeps the pieces before that character, where our tokenizer replaces the whole word by one [UNK]; it
also splits at fewer kinds of punctuation.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from msd_deploy.data.preprocess import CLS, INSIDE_WORD, PAD, SEP, UNKNOWN, Preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ExportError

EXTENSIONS_DOMAIN = "com.microsoft.extensions"
CONTRIB_DOMAIN = "ai.onnx.contrib"


class GraphBuilder:
    """Collects nodes and constants.

    Args:
        prefix: Of all names that it makes.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix, self._count = prefix, 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(
        self,
        operator: str,
        *inputs: str,
        domain: str = "",
        name: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> str:
        """Add a node; return the name of its first output.

        Args:
            operator: Its type.
            inputs: Names; "" for one that is left out.
            domain: Of the operator.
            name: Stands in ONNX Runtime's error if the node fails.
            outputs: How many it has.
            attributes: As ONNX defines them.
        """
        made = [self._next() for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(
                operator, inputs, made, name=name or made[0], domain=domain, **attributes
            )
        )
        return made[0]

    def constant(self, value: object, dtype: type[np.generic] = np.int64) -> str:
        """Add a constant; return its name."""
        array: NDArray[np.generic] = np.array(value, dtype)
        name = self._next()
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def strings(self, values: Sequence[str]) -> str:
        """Add a constant [values] of strings; return its name."""
        name = self._next()
        array = np.array(values, object)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def named(self, value: str, name: str) -> None:
        """Give a value a second name, that of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def subgraph(self, output: str) -> onnx.GraphProto:
        """Return what was built as the branch of an If, with one output of any type."""
        value = helper.make_empty_tensor_value_info(output)
        return helper.make_graph(self.nodes, self._prefix, [], [value], self.initializers)

    def _next(self) -> str:
        self._count += 1
        return f"{self._prefix}_{self._count}"


IMAGE_INPUT = "image_bytes"
NOT_DECODED = "image_bytes_are_neither_JPEG_nor_PNG"
NOT_RGB = "JPEG_is_neither_RGB_nor_grey"
_JPEG, _PNG = (0xFF, 0xD8), (0x89, 0x50)
_END_OF_JPEG = (0xFF, 0xD9)


def add_image(graph: GraphBuilder, spec: ImageSpec) -> None:
    """Add the nodes from IMAGE_INPUT to image and image_present.

    Args:
        graph: Where they go.
        spec: The size, and how an image is resized to it.
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
    # ONNX Runtime 1.17 has no Equal of uint8.
    start = graph.node("Cast", start, to=TensorProto.INT32)
    is_known = graph.node("Or", _starts(graph, start, _JPEG), _starts(graph, start, _PNG))
    size = graph.node("Shape", IMAGE_INPUT)
    place = graph.node("Where", is_known, graph.constant([0]), size)
    first = graph.node("Gather", IMAGE_INPUT, place, name=NOT_DECODED)
    rest = graph.node("Slice", IMAGE_INPUT, graph.constant([1]), size)
    return graph.node("Concat", first, rest, graph.constant(_END_OF_JPEG, np.uint8), axis=0)


def _starts(graph: GraphBuilder, start: str, expected: tuple[int, int]) -> str:
    equal = graph.node("Equal", start, graph.constant(expected, np.int32))
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


TEXT_INPUT = "text"


def add_text(graph: GraphBuilder, preprocessor: Preprocessor) -> None:
    """Add the nodes from TEXT_INPUT to input_ids and attention_mask.

    A text without a single piece is absent: the empty one, and one of white space.

    Raises:
        ExportError: The tokenizer is of another kind.
    """
    attributes = tokenizer_attributes(preprocessor)
    length = preprocessor.max_length
    # Its other outputs, which are not used, must exist: it writes to them unasked, and crashes.
    tokens = graph.node("BertTokenizer", TEXT_INPUT, domain=CONTRIB_DOMAIN, outputs=3, **attributes)
    flat = graph.node("Reshape", tokens, graph.constant([-1]))
    inner = graph.node("Slice", flat, graph.constant([1]), graph.constant([-1]))
    pieces = graph.node("Slice", inner, graph.constant([0]), graph.constant([length - 2]))
    count = graph.node("Shape", pieces)
    used = graph.node("Add", count, graph.constant([2]))
    used = graph.node(
        "Where", graph.node("Equal", count, graph.constant([0])), graph.constant([1]), used
    )
    sep_id = preprocessor.tokenizer.token_to_id(SEP)
    padding = graph.constant([preprocessor.pad_id] * length)
    start, end = graph.constant([preprocessor.cls_id]), graph.constant([sep_id])
    padded = graph.node("Concat", start, pieces, end, padding, axis=0)
    cut = graph.node("Slice", padded, graph.constant([0]), graph.constant([length]))
    mask = graph.node("Less", graph.constant(np.arange(length)), used)
    shape = graph.constant([1, length])
    for value, name in ((cut, "input_ids"), (mask, "attention_mask")):
        shaped = graph.node("Reshape", value, shape)
        graph.named(graph.node("Cast", shaped, to=TensorProto.INT32), name)


def tokenizer_attributes(preprocessor: Preprocessor) -> dict[str, Any]:
    """Return the attributes of the BertTokenizer that does what a tokenizer does.

    Raises:
        ExportError: It is no word-piece tokenizer of BERT's type.
    """
    parts: Mapping[str, Any] = json.loads(preprocessor.tokenizer.to_str())
    model, normalizer = parts["model"], parts["normalizer"] or {}
    kinds = (model["type"], normalizer.get("type"), (parts["pre_tokenizer"] or {}).get("type"))
    # A piece by its identifier; one that is missing leaves a hole.
    pieces = {index: piece for piece, index in model["vocab"].items()} if kinds[0] else {}
    if (
        kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer")
        or model["continuing_subword_prefix"] != INSIDE_WORD
        or (preprocessor.pad_token, preprocessor.absent_token) != (PAD, CLS)
        or sorted(pieces) != list(range(len(pieces)))
    ):
        raise ExportError(
            "an end-to-end file requires a BERT WordPiece tokenizer",
            fix="Export without --end-to-end",
        )
    lowercase, accents = normalizer["lowercase"], normalizer["strip_accents"]
    return {
        "vocab_file": "\n".join(pieces[index] for index in range(len(pieces))),
        "do_lower_case": int(lowercase),
        "do_basic_tokenize": 1,
        "tokenize_chinese_chars": int(normalizer["handle_chinese_chars"]),
        "strip_accents": int(lowercase if accents is None else accents),
        "suffix_indicator": INSIDE_WORD,
        "unk_token": UNKNOWN,
        "sep_token": SEP,
        "pad_token": PAD,
        "cls_token": CLS,
    }
