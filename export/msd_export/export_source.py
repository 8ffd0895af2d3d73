"""What is exported, with all that a converter may ask for: graph, signature, calibration data."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msd_deploy import __version__
from msd_deploy.artifacts import Json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.source_types import SourceData
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel
from msd_deploy.views import View
from msd_export.formats import CalibrationMethod
from msd_export.graph import ExportableGraph, ImageLayout, graph_of, signature_of
from msd_export.signature import ModelInputs, ModelSignature

# Of each view; a multiple of this changed no scale visibly on any model tried.
_CALIBRATION_ROWS = 64


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model that is to be exported.

    Attributes:
        loaded: The model and its preprocessing.
        data: What it was trained on, for calibration; its test split judges the exports.
        name: What the model is called in the metadata of its exports.
        scratch: A folder for what several forms share; removed in the end.
        calibration_method: How an activation's range follows from the calibration examples.
        read: Reads the data set itself again: pictures' bytes and texts.
        uncut: Where the vocabulary was cut: the same with the whole one.
        vocabulary: What parity.json states of a cut one.
    """

    loaded: LoadedModel[ViewClassifier]
    data: PreparedData
    name: str
    scratch: Path
    calibration_method: CalibrationMethod = "minmax"
    read: Callable[[], SourceData] | None = None
    uncut: "ExportSource | None" = None
    vocabulary: Json | None = None

    @property
    def signature(self) -> ModelSignature:
        """Names, shapes and dtypes of inputs and outputs."""
        return signature_of(self.loaded)

    def graph(self, image_layout: ImageLayout) -> ExportableGraph:
        """Return the module that is converted, a copy in eval mode, BatchNorm folded."""
        return graph_of(self.loaded, image_layout=image_layout)

    def calibration(self, rows: int = _CALIBRATION_ROWS) -> ModelInputs:
        """Return training examples, each under all three views, spread over the training split."""
        split = self.data.splits["train"]
        chosen = np.linspace(0, len(split) - 1, min(rows, len(split))).astype(np.int64)
        views = [split.inputs(chosen, view) for view in View]
        return {name: np.concatenate([inputs[name] for inputs in views]) for name in views[0]}

    def metadata(self) -> dict[str, str]:
        """Return what every file states of itself, where its format has a place for it."""
        return {
            "description": f"{self.name}: {len(self.loaded.labels)} classes from image and text",
            "labels": json.dumps(list(self.loaded.labels), ensure_ascii=False),
            "problem": self.loaded.problem,
            "msd_deploy": __version__,
            "source_digest": self.loaded.digest,
            "preprocess_digest": self.loaded.preprocessor.digest(),
        }
