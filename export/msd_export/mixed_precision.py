"""Measure the sensitivity of layer groups to a precision, and choose which ones to exempt.

The sensitivity of a group is the divergence of the logits on calibration examples, between the
model with this group alone quantized and the float model. Groups are then kept in higher precision
by falling sensitivity, one, two, three, four, six and so on, until an export is within tolerance:
first on the validation split, which makes the choice, then on the test split, which verifies it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts.manifest import Json
from msd_deploy.metrics import LogitArray
from msd_deploy.problem import Problem
from msd_export.converters import Converter
from msd_export.formats import Precision
from msd_export.parity import divergence

_GROWTH = 1.5
"""Factor from one number of groups in float to the next: 1, 2, 3, 4, 6, 9, 13, ..."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What the groups of layers lose when each is quantized alone.

    Attributes:
        nats: Group to KL(float || quantized), mean over calibration examples of all views.
        examples: How many examples that rests on.
    """

    nats: Mapping[str, float]
    examples: int

    def worst_first(self) -> tuple[str, ...]:
        """Return the groups by falling sensitivity."""
        return tuple(sorted(self.nats, key=lambda group: -self.nats[group]))

    def summary(self, most: int = 3) -> str:
        """Return the most sensitive groups with their divergence, for an error."""
        worst = self.worst_first()[:most]
        return ", ".join(f"{group} ({self.nats[group]:.2g} nats)" for group in worst)

    def as_json(self) -> Json:
        """Return the table, worst first."""
        ordered = {group: float(f"{self.nats[group]:.4g}") for group in self.worst_first()}
        return {"examples": self.examples, "kl_nats": ordered}


def measure_sensitivity(
    converter: Converter,
    precision: Precision,
    *,
    scratch: Path,
    predict: Callable[[Path], LogitArray],
    problem: Problem,
    on_count: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Quantize each group alone, and return the divergence of the logits.

    Args:
        converter: Writes the variants.
        precision: Of the quantized group.
        scratch: A path that the variants are written to, one after the other.
        predict: Returns the logits [examples, classes] of a written variant.
        problem: The kind of classification.
        on_count: Called with the groups done and their total.

    Raises:
        ExportError: The converter failed.
    """
    groups = converter.groups(precision)
    converter.convert("fp32", scratch)
    reference = predict(scratch)
    nats = {}
    for done, group in enumerate(groups, start=1):
        others = [other for other in groups if other != group]
        converter.convert(precision, scratch, kept=others)
        nats[group] = divergence(predict(scratch), reference, problem)
        on_count(done, len(groups))
    return Sensitivity(nats, len(reference))


def mixes(sensitivity: Sensitivity) -> Iterator[tuple[str, ...]]:
    """Yield the groups to keep, ever more of them, up to all but the least sensitive."""
    ordered = sensitivity.worst_first()
    count = 1
    while count < len(ordered):
        yield ordered[:count]
        count = max(count + 1, int(count * _GROWTH))
