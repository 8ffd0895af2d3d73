"""The temperatures of a model, one per view, and their file.

probabilities = softmax(logits / T), with T of the modalities that an example has (Guo et al. 2017,
section 4.2); where classes are independent a sigmoid of logits / T + b for each (Platt 1999).
Logits stay as they are. They are fitted in `run.calibration`. Free of torch and scipy, for the
processes that run exported models.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import RESTORE, SCHEMA_VERSION, Json, read_versioned_json
from msd_deploy.errors import ArtifactError
from msd_deploy.metrics import LogitArray, LogitsByView
from msd_deploy.views import View

CALIBRATION_NAME = "calibration.json"
LOWEST, HIGHEST = 0.2, 100.0
"""Limits of a temperature. Below the lowest, rounding of float16 logits would be magnified."""

MOST_BIAS = 10.0
"""Limit of a bias, up or down."""

_METHOD, _WITH_BIASES = "temperature", "platt"
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


def rows_of_views(rows: Modalities) -> dict[View, NDArray[np.bool_]]:
    """Return which examples have the modalities of each view, bool [examples]."""
    has_image, has_text = rows.has_image(), rows.has_text()
    return {View.MULTIMODAL: has_image & has_text, View.IMAGE: has_image, View.TEXT: has_text}


@dataclass(frozen=True, slots=True)
class Temperatures:
    """The temperatures of a model.

    Attributes:
        by_view: Temperatures by view, above 0; 1 leaves probabilities as they are.
        examples: By view, how many examples it was fitted on; 0: it was not fitted.
        biases: By view what is added to the logits over their temperature; empty: nothing, as with
            a softmax, which it would not change.
    """

    by_view: Mapping[View, float]
    examples: Mapping[View, int]
    biases: Mapping[View, float] = field(default_factory=dict)

    @property
    def is_fitted(self) -> bool:
        """Whether the temperature of any view was fitted."""
        return any(self.examples.values())

    def completed_by(self, earlier: "Temperatures") -> "Temperatures":
        """Return these, with earlier ones of views that were not fitted.

        Args:
            earlier: Of the same model.
        """
        sources = {view: self if self.examples[view] else earlier for view in View}
        biases = {view: source.biases.get(view, 0.0) for view, source in sources.items()}
        return Temperatures(
            {view: source.by_view[view] for view, source in sources.items()},
            {view: source.examples[view] for view, source in sources.items()},
            biases if any(biases.values()) else {},
        )

    def as_json(self) -> Json:
        """Return calibration.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "method": _WITH_BIASES if self.biases else _METHOD,
            "temperatures": self.by_name(),
            **({"biases": _by_name(self.biases)} if self.biases else {}),
            "examples": {view.value: self.examples[view] for view in View},
        }

    def by_name(self) -> dict[str, float]:
        """Return the temperatures by the views' names."""
        return _by_name(self.by_view)

    def as_text(self) -> str:
        """Return what the metadata of a model file states: JSON by view, a bias in a pair."""
        if not self.biases:
            return json.dumps(self.by_name())
        return json.dumps({v.value: [self.by_view[v], self.biases[v]] for v in View})

    def applied(
        self, logits: LogitArray, has_image: NDArray[np.bool_], has_text: NDArray[np.bool_]
    ) -> LogitArray:
        """Return logits over their temperatures, with their biases.

        Args:
            logits: [rows, classes].
            has_image: bool [rows], whether the model got an image.
            has_text: The same of a text; a row with neither has the temperature of a text.
        """
        views = views_of_rows(has_image, has_text)
        of_views = np.array([self.by_view[view] for view in View], np.float32)
        scaled = logits / of_views[views][:, None]
        if self.biases:
            scaled += np.array([self.biases[view] for view in View], np.float32)[views][:, None]
        return np.asarray(scaled, np.float32)

    def scaled(self, logits: Mapping[View, LogitArray], rows: Modalities) -> LogitsByView:
        """Return logits over their temperatures, with their biases; see `applied`.

        Args:
            logits: Per view [rows, classes].
            rows: The examples.
        """
        has_image, has_text = rows.has_image(), rows.has_text()
        return {
            view: self.applied(values, has_image & view.has_image, has_text & view.has_text)
            for view, values in logits.items()
        }


def _by_name(values: Mapping[View, float]) -> dict[str, float]:
    return {view.value: values[view] for view in View}


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
    if content.get("method") not in (_METHOD, _WITH_BIASES):
        raise ArtifactError(
            f"has an unknown method {content.get('method')!r}",
            where=path,
            fix="Calibrate the model again (msd calibrate), or install a newer msd-deploy",
        )
    by_view = _checked(content.get("temperatures"), path)
    biases: dict[View, float] = {}
    if content["method"] == _WITH_BIASES:
        biases = _checked(content.get("biases"), path, "bias", (-MOST_BIAS, MOST_BIAS))
    examples = content.get("examples")
    if not isinstance(examples, dict) or set(examples) != _NAMES:
        raise ArtifactError(f"examples must have {', '.join(View)}", where=path, fix=RESTORE)
    for view, count in examples.items():
        is_fitted = by_view[View(view)] != 1 or biases.get(View(view), 0) != 0
        if type(count) is not int or count < 0 or (count == 0 and is_fitted):
            raise ArtifactError(
                f"has {count!r} examples for the {view} view and the temperature"
                f" {by_view[View(view)]:g}",
                where=path,
                fix=RESTORE,
            )
    return Temperatures(by_view, {view: examples[view.value] for view in View}, biases)


def temperatures_from_text(text: str, path: Path) -> Temperatures:
    """Return the temperatures that the metadata of a model file states; see `as_text`.

    Raises:
        ArtifactError: They are malformed.
    """
    try:
        stated = json.loads(text)
    except ValueError as error:
        raise ArtifactError("temperatures are not JSON", where=path, fix=RESTORE) from error
    biases: dict[View, float] = {}
    if isinstance(stated, dict) and all(_is_pair(pair) for pair in stated.values()):
        of_views = {name: pair[1] for name, pair in stated.items()}
        biases = _checked(of_views, path, "bias", (-MOST_BIAS, MOST_BIAS))
        stated = {name: pair[0] for name, pair in stated.items()}
    return Temperatures(_checked(stated, path), dict.fromkeys(View, 0), biases)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _checked(
    stated: object,
    path: Path,
    what: Literal["temperature", "bias"] = "temperature",
    between: tuple[float, float] = (LOWEST, HIGHEST),
) -> dict[View, float]:
    low, high = between
    if not isinstance(stated, dict) or set(stated) != _NAMES:
        many = "biases" if what == "bias" else "temperatures"
        raise ArtifactError(f"{many} must have {', '.join(View)}", where=path, fix=RESTORE)
    for view, value in stated.items():
        if type(value) not in (int, float) or not low <= value <= high:
            raise ArtifactError(
                f"has the {what} {value!r} for the {view} view, not a number from"
                f" {low:g} to {high:g}",
                where=path,
                fix=RESTORE,
            )
    return {view: float(stated[view.value]) for view in View}
