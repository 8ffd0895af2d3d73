"""What a written file computes in integers, and the refusal of an integer form that does not."""

from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts import Json
from msd_deploy.errors import ExportError
from msd_export.formats import Precision

_INTEGER: tuple[Precision, ...] = ("int8", "int8-dynamic")


def is_integer(precision: Precision) -> bool:
    """Return whether a precision computes in 8-bit integers."""
    return precision in _INTEGER


def refuse_float(precision: Precision, quantized: int, path: Path) -> None:
    """Check that a quantized form has quantized weights.

    Args:
        precision: What was asked for.
        quantized: How many weights the written form stores so.
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
        """Check that an integer form has integer weights.

        Raises:
            ExportError: It has none.
        """
        if is_integer(precision):
            refuse_float(precision, self.int8_weights, path)
