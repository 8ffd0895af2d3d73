"""Read Core ML packages: the program's operators and what lies in its weights file."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msd_export.coreml.package import Spec, read_spec
from msd_export.coreml.spec import (
    constants_in_weights_file,
    dtype_of,
    operations_of,
    read_names_of,
)
from msd_export.model_file import ModelFacts, StoredTensor, TensorFacts, bits_of

_MADE = re.compile(r"(_to_fp16|_to_fp32|_quantized|_palettized)+$")
_PARAMETER = re.compile(r"_(weight|bias)$")
_PREFIX = "p_model_"
_OTHER = "other constants"
_NOT_ARRAYS = {"stringType": "string", "dictionaryType": "dictionary"}
_NOTES = (
    "Core ML decides on the device what computes in int8: counted are operators that read"
    " activations in int8; int8 weights alone are expanded to float16",
    "Core ML joins the parts of a name by _, so that layers are not grouped",
)


def read_coreml(package: Path) -> ModelFacts:
    """Read an .mlpackage; see `model_file.Reader`."""
    spec = read_spec(package)
    operations = list(operations_of(spec))
    computing = [op for op in operations if not op.type.startswith("const")]
    return ModelFacts(
        inputs=tuple(_feature(value) for value in spec.description.input),
        outputs=tuple(_feature(value) for value in spec.description.output),
        operators=dict(Counter(op.type for op in computing).most_common()),
        int8_operators=_int8_operators(computing),
        tensors=tuple(tensor for op in operations for tensor in _stored(op)),
        metadata=_metadata(spec),
        notes=_NOTES,
    )


def _metadata(spec: Spec) -> dict[str, str]:
    """Return what a package states of itself, in its own fields and in those for anything."""
    metadata = spec.description.metadata
    own = {"author": metadata.author, "license": metadata.license}
    stated = {name: str(value) for name, value in own.items() if value}
    return {**stated, **dict(sorted(metadata.userDefined.items()))}


def _feature(value: Spec) -> TensorFacts:
    kind = value.type.WhichOneof("Type")
    if kind == "imageType":
        image = value.type.imageType
        return TensorFacts(value.name, (image.height, image.width, 3), "image")
    if kind in _NOT_ARRAYS:
        return TensorFacts(value.name, (), _NOT_ARRAYS[kind])
    array = value.type.multiArrayType
    return TensorFacts(value.name, tuple(array.shape), dtype_of(array))


def _int8_operators(operations: list[Spec]) -> dict[str, int]:
    expanded = {op.outputs[0].name for op in operations if op.type == "dequantize"}
    return dict(
        Counter(
            op.type
            for op in operations
            for name in ("x", "y")
            if op.type != "quantize" and _reads(op, name) in expanded
            if name == "x" or _reads(op, "x") not in expanded
        )
    )


def _reads(operation: Spec, parameter: str) -> str:
    return next(iter(read_names_of(operation, parameter)), "")


def _stored(operation: Spec) -> Iterator[StoredTensor]:
    """Yield what of a constant lies in the weights file; small constants lie in the program."""
    if operation.type.startswith("const"):
        layer = _layer(operation.outputs[0].name)
        for constant in constants_in_weights_file(operation):
            bits = bits_of(constant.dtype)
            yield StoredTensor(layer, constant.dtype, constant.elements, bits)


def _layer(name: str) -> str:
    plain = _MADE.sub("", name)
    return _PARAMETER.sub("", plain.removeprefix(_PREFIX)) if plain.startswith(_PREFIX) else _OTHER
