"""What calibration examples say of one float16 package, and the weights that are rounded by it.

Measured and rounded once, however many packages are made of it: what a tensor becomes does not
depend on what becomes of the others, so that a search for a mix costs no more rounding.
"""

from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from msd_export.coreml_palettes import palettize
from msd_export.coreml_rounding import Int8Weight, Matrix, round_to_int8
from msd_export.coreml_second_moments import measure_second_moments
from msd_export.mil_evaluator import MilEvaluator
from msd_export.signature import ModelInputs, single_example

Ranges: TypeAlias = dict[str, dict[str, float]]
"""By the value's name: its least ("rmin") and its largest ("rmax"), as coremltools names them."""

Palette: TypeAlias = tuple[NDArray[np.float16], NDArray[np.uint8]]
"""A table, and indices in the weight's shape."""


class Calibration:
    """Measures a package, and rounds its weights so that layers answer as before.

    Args:
        package: The .mlpackage in float16; it must not change.
        inputs: Examples of all views.
    """

    def __init__(self, package: Path, inputs: ModelInputs) -> None:
        self.package, self.inputs = package, inputs
        self._integers: dict[str, Int8Weight] = {}
        self._palettes: dict[tuple[str, int], Palette] = {}

    @cached_property
    def ranges(self) -> Ranges:
        """The range of every value."""
        return measure_ranges(self.package, self.inputs)

    @cached_property
    def moments(self) -> dict[str, Matrix]:
        """Second moments of layers' inputs by the weight's name; see `measure_second_moments`."""
        return measure_second_moments(self.package, self.inputs)

    def int8(self, name: str, weight: NDArray[np.generic]) -> Int8Weight:
        """Return a weight, one of `moments`, as 8-bit integers."""
        if name not in self._integers:
            self._integers[name] = round_to_int8(weight, self.moments[name])
        return self._integers[name]

    def palette(self, name: str, weight: NDArray[np.generic], bits: int) -> Palette:
        """Return a weight, of `moments` or not, as a table and indices."""
        if (name, bits) not in self._palettes:
            self._palettes[name, bits] = palettize(weight, bits, self.moments.get(name))
        return self._palettes[name, bits]


def measure_ranges(package: Path, calibration: ModelInputs) -> Ranges:
    """Return the range of every value in a package's program over all rows of the inputs."""
    evaluator = MilEvaluator.load(package)
    ranges: Ranges = {}
    for row in range(len(calibration["image"])):
        for name, value in evaluator.trace(single_example(calibration, row)).items():
            found = ranges.setdefault(name, {"rmin": np.inf, "rmax": -np.inf})
            found["rmin"] = min(found["rmin"], float(value.min()))
            found["rmax"] = max(found["rmax"], float(value.max()))
    return ranges
