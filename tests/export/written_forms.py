"""What tests of several targets share: forms as they are written, and whether they decide alike."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.views import View
from msd_export.converters import Converter
from msd_export.formats import Precision
from msd_export.parity import compare_logits
from msd_export.signature import ModelInputs, Predictor
from msd_export.source import ExportSource

Ask = Callable[[ExportSource, ModelInputs], np.ndarray[Any, Any]]
Forms = dict[Precision, tuple[Path, Json]]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-dynamic")
INTEGER: tuple[Precision, ...] = ("int8", "int8-dynamic")
# Less than a trained student keeps: an untrained one's classes lie closer.
LEAST_AGREEMENT = 0.95


def write_form(
    converter: Converter, precision: Precision, path: Path, *, kept: Collection[str] = ()
) -> Json:
    """Write a form; return what it holds."""
    converter.convert(precision, path, kept=kept)
    return converter.describe(precision, path)


def write_forms(converter: Converter, paths: dict[Precision, Path]) -> Forms:
    """Write several; return the path and the facts of each."""
    return {p: (path, write_form(converter, p, path)) for p, path in paths.items()}


def check_decisions(
    predictor: Predictor, source: ExportSource, torch_logits: Ask, split: PreparedSplit
) -> None:
    """Assert that a form decides as PyTorch where that is sure, with logits that are close."""
    inputs = {view: split.inputs(slice(0, len(split)), view) for view in View}
    parity = compare_logits(
        {view: predictor.predict(inputs[view]) for view in View},
        {view: torch_logits(source, inputs[view]) for view in View},
        split,
        "single_label",
    )
    for result in parity.values():
        assert result.sure_agreement >= LEAST_AGREEMENT
        assert 0 < result.mean_abs_error < 0.3  # of logits that spread over about 10
