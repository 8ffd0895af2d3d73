"""The temperatures of a model, one per view, and their file.

probabilities = softmax(logits / T), or a sigmoid of each class, with T of the modalities that an
example has (Guo et al. 2017, section 4.2). Logits and decisions stay as they are. They are fitted
in `run.calibration`. Free of torch and scipy, for the processes that run exported models.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import RESTORE, SCHEMA_VERSION, Json, read_versioned_json
from msd_deploy.errors import ArtifactError
from msd_deploy.metrics import LogitArray, LogitsByView
from msd_deploy.views import View

CALIBRATION_NAME = "calibration.json"
LOWEST, HIGHEST = 0.2, 100.0
"""Limits of a temperature. Below the lowest, rounding of float16 logits would be magnified."""

_METHOD = "temperature"
_NAMES = {view.value for view in View}


class Modalities(Protocol):
    """Which modalities examples have, as a `PreparedSplit` states it."""

    def has_image(self) -> NDArray[np.bool_]:
        """Return which examples have an image, bool [examples]."""
        ...

    def has_text(self) -> NDArray[np.bool_]:
        """Return which examples have a text, bool [examples]."""
        ...


@dataclass(frozen=True, slots=True)
class RowModalities:
    """Modalities of examples, as arrays.

    Attributes:
        image: bool [examples], whether they have an image.
        text: The same of a text.
    """

    image: NDArray[np.bool_]
    text: NDArray[np.bool_]

    def has_image(self) -> NDArray[np.bool_]:
        """Return which examples have an image."""
        return self.image

    def has_text(self) -> NDArray[np.bool_]:
        """Return which examples have a text."""
        return self.text


def modalities_of(rows: Modalities, selected: NDArray[np.bool_]) -> RowModalities:
    """Return the modalities of some of a split's examples.

    Args:
        rows: All of them.
        selected: bool [examples], those that are meant.
    """
    return RowModalities(rows.has_image()[selected], rows.has_text()[selected])


@dataclass(frozen=True, slots=True)
class Temperatures:
    """The temperatures of a model.

    Attributes:
        by_view: Temperatures by view, above 0; 1 leaves probabilities as they are.
        examples: By view, how many examples it was fitted on; 0: it was not fitted.
    """

    by_view: Mapping[View, float]
    examples: Mapping[View, int]

    @property
    def is_fitted(self) -> bool:
        """Whether the temperature of any view was fitted."""
        return any(self.examples.values())

    def as_json(self) -> Json:
        """Return calibration.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "method": _METHOD,
            "temperatures": self.by_name(),
            "examples": {view.value: self.examples[view] for view in View},
        }

    def by_name(self) -> dict[str, float]:
        """Return the temperatures by the views' names."""
        return {view.value: self.by_view[view] for view in View}

    def for_rows(
        self, has_image: NDArray[np.bool_], has_text: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return the temperature of each row, float32 [rows], by the modalities that it has.

        A row with neither has the temperature of a text.
        """
        of_views = np.array([self.by_view[view] for view in View], np.float32)
        return np.asarray(of_views[views_of_rows(has_image, has_text)], np.float32)

    def scaled(self, logits: Mapping[View, LogitArray], rows: Modalities) -> LogitsByView:
        """Return logits over their temperatures.

        Args:
            logits: Per view [rows, classes].
            rows: The examples.
        """
        has_image, has_text, scaled = rows.has_image(), rows.has_text(), {}
        for view, values in logits.items():
            temperatures = self.for_rows(has_image & view.has_image, has_text & view.has_text)
            scaled[view] = values / temperatures[:, None]
        return scaled


def views_of_rows(has_image: NDArray[np.bool_], has_text: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the number of each row's view in `View`, int64 [rows], by the modalities it has."""
    multimodal, image, text = range(len(View))
    return np.where(has_image, np.where(has_text, multimodal, image), text)


UNCALIBRATED = Temperatures(dict.fromkeys(View, 1.0), dict.fromkeys(View, 0))
"""Of a model without calibration.json: probabilities are those of its logits."""


def read_temperatures(folder: Path) -> Temperatures:
    """Read calibration.json of a model or export folder; `UNCALIBRATED` where there is none.

    Raises:
        ArtifactError: It is malformed.
    """
    path = folder / CALIBRATION_NAME
    if not path.is_file():
        return UNCALIBRATED
    content = read_versioned_json(path)
    if content.get("method") != _METHOD:
        raise ArtifactError(
            f"has an unknown method {content.get('method')!r}",
            where=path,
            fix="Calibrate the model again (msd calibrate), or install a newer msd-deploy",
        )
    by_view = _checked(content.get("temperatures"), path)
    examples = content.get("examples")
    if not isinstance(examples, dict) or set(examples) != _NAMES:
        raise ArtifactError(f"examples must have {', '.join(View)}", where=path, fix=RESTORE)
    for view, count in examples.items():
        if type(count) is not int or count < 0 or (count == 0 and by_view[View(view)] != 1):
            raise ArtifactError(
                f"has {count!r} examples for the {view} view and the temperature"
                f" {by_view[View(view)]:g}",
                where=path,
                fix=RESTORE,
            )
    return Temperatures(by_view, {view: examples[view.value] for view in View})


def temperatures_from_text(text: str, path: Path) -> Temperatures:
    """Return the temperatures that the metadata of a model file states, as JSON by view.

    Raises:
        ArtifactError: They are malformed.
    """
    try:
        stated = json.loads(text)
    except ValueError as error:
        raise ArtifactError("temperatures are not JSON", where=path, fix=RESTORE) from error
    return Temperatures(_checked(stated, path), dict.fromkeys(View, 0))


def _checked(stated: object, path: Path) -> dict[View, float]:
    if not isinstance(stated, dict) or set(stated) != _NAMES:
        raise ArtifactError(f"temperatures must have {', '.join(View)}", where=path, fix=RESTORE)
    for view, value in stated.items():
        if type(value) not in (int, float) or not LOWEST <= value <= HIGHEST:
            raise ArtifactError(
                f"has the temperature {value!r} for the {view} view, not a number from"
                f" {LOWEST:g} to {HIGHEST:g}",
                where=path,
                fix=RESTORE,
            )
    return {view: float(stated[view.value]) for view in View}
