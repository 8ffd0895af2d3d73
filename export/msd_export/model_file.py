"""The content of a model file, in any format: tensors, operators, metadata.

Also the checks when one is written or read: exceptions of a library become errors of ours, and a
quantized file without quantized weights is refused.
"""

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msd_deploy.artifacts.manifest import Json
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.quiet import quiet
from msd_export.formats import PRECISIONS, Precision


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output.

    Attributes:
        name: Its name.
        shape: A name where a dimension is free.
        dtype: For example uint8; image for an image of the system's own type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def as_json(self) -> Json:
        """Return JSON values."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A constant in the file.

    Attributes:
        layer: The module that it belongs to, by its name.
        storage: How each element is stored, for example int8.
        elements: How many there are.
        bits: Of one element.
    """

    layer: str
    storage: str
    elements: int
    bits: int

    @property
    def size_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return math.ceil(self.elements * self.bits / 8)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's file, read.

    Attributes:
        inputs: In the file's order.
        outputs: In the file's order.
        operators: How many there are of each type.
        int8_operators: How many of each type compute in int8; a type without any is left out.
        tensors: Weights and other constants.
        metadata: What the file states of itself.
        notes: How to read the numbers, and what the format does not contain.
        entry_points: The names of further entry points; inputs, outputs and operators are those of
            the one for image and text.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: Mapping[str, int]
    int8_operators: Mapping[str, int]
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()

    def layers(self) -> dict[str, int]:
        """Return the bytes of each layer, largest first."""
        return _sums({index: (t.layer, t.size_bytes) for index, t in enumerate(self.tensors)})

    def groups(self) -> dict[str, int]:
        """Return the bytes of each outermost module, largest first."""
        layers = self.layers()
        return _sums({name: (name.partition(".")[0], size) for name, size in layers.items()})

    def storage(self) -> dict[str, int]:
        """Return the bytes that are stored in each type, largest first."""
        return _sums({index: (t.storage, t.size_bytes) for index, t in enumerate(self.tensors)})

    def as_json(self) -> Json:
        """Return JSON values."""
        return {
            "inputs": [tensor.as_json() for tensor in self.inputs],
            "outputs": [tensor.as_json() for tensor in self.outputs],
            "operators": {
                name: {"count": count, "int8": self.int8_operators.get(name, 0)}
                for name, count in self.operators.items()
            },
            "groups": self.groups(),
            "layers": self.layers(),
            "storage": self.storage(),
            "metadata": dict(self.metadata),
            "entry_points": list(self.entry_points),
            "notes": list(self.notes),
        }


def bits_of(storage: str) -> int:
    """Return the bits of one element of a type by its name, for example float16; else 8."""
    found = re.search(r"\d+$", storage)
    return int(found[0]) if found else 8


class Reader(Protocol):
    """Reads one format."""

    def __call__(self, path: Path, /) -> ModelFacts:
        """Read a model's file or package.

        Raises:
            ArtifactError: It cannot be read.
        """
        ...


def _sums(items: Mapping[object, tuple[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for name, size in items.values():
        sums[name] += size
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def refuse_float(precision: Precision, quantized: int, path: Path) -> None:
    """Check that a quantized variant has quantized weights.

    Args:
        precision: The requested one.
        quantized: How many weights the written variant stores so.
        path: Its file or package.

    Raises:
        ExportError: It has none.
    """
    if quantized == 0:
        raise ExportError(f"{precision} quantization left every weight in float", where=path.name)


@dataclass(frozen=True, slots=True)
class OperatorCounts:
    """What a file consists of.

    Attributes:
        int8: Operators that compute in 8-bit integers.
        float: All others.
        int8_weights: Numbers that are stored as 8-bit integers.
    """

    int8: int
    float: int
    int8_weights: int

    def as_json(self) -> Json:
        """Return the counts as they stand in parity.json."""
        return {
            "operators": {"int8": self.int8, "float": self.float},
            "int8_weights": self.int8_weights,
        }

    def check(self, precision: Precision, path: Path) -> None:
        """Check that an integer variant has integer weights.

        Raises:
            ExportError: It has none.
        """
        if PRECISIONS[precision].is_integer:
            refuse_float(precision, self.int8_weights, path)


@contextlib.contextmanager
def converting(title: str, path: Path) -> Iterator[None]:
    """Hold back what a converter writes, and wrap whatever it raises.

    Args:
        title: What is converted to, for the error.
        path: The file that is written.

    Raises:
        ExportError: Anything was raised: converters and torch.export raise what their passes meet.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"the conversion to {title} failed ({reason})", where=path.name
        ) from error


_LONGEST_REASON = 120


@contextlib.contextmanager
def reading(title: str, path: Path) -> Iterator[None]:
    """Hold back what a format's library writes, and wrap whatever it raises.

    Args:
        title: The format, for the error.
        path: The file that is read.

    Raises:
        ArtifactError: Anything was raised; one of ours passes through.
    """
    try:
        with quiet():
            yield
    except ArtifactError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0][:_LONGEST_REASON]
        raise ArtifactError(
            f"cannot be read as {title} ({reason})", where=path, fix="Export it again"
        ) from error
