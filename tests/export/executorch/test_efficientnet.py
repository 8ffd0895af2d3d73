"""EfficientNet-Lite, whose convolutions pad by themselves, in every precision and in part."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_export.formats import Precision
from msd_export.source import ExportSource

# Before the imports that need it.
pytest.importorskip("executorch", reason="needs the extra [executorch]")

from msd_export.executorch.converter import ExecutorchConverter
from msd_export.executorch.predictor import ExecutorchPredictor
from tests.export.written_forms import INTEGER, PRECISIONS, Ask, write_form


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_efficientnet_converts(
    make_source: Callable[[dict[str, object]], ExportSource],
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    tmp_path: Path,
    precision: Precision,
    request: pytest.FixtureRequest,
) -> None:
    if precision != "fp32":
        request.getfixturevalue("shallow_efficientnet")
    source = make_source({"kind": "efficientnet_lite", "variant": "lite0"})
    facts = write_form(ExecutorchConverter(source), precision, tmp_path / "model.pte")
    inputs = memes[0].splits["test"].inputs(slice(0, 6))
    error = ExecutorchPredictor(tmp_path / "model.pte").predict(inputs)
    error -= torch_logits(source, inputs)
    assert np.abs(error).max() < {"fp32": 1e-3, "fp16": 0.1}.get(precision, 0.5)
    assert (facts["int8_weights"] == 0) == (precision not in INTEGER)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_efficientnet")
@pytest.mark.parametrize("alone", ["vision.stem", "vision.blocks.0"])
def test_a_group_is_integer_alone_before_a_float_one_that_pads(
    make_source: Callable[[dict[str, object]], ExportSource],
    memes: tuple[PreparedData, Preprocessor],
    torch_logits: Ask,
    tmp_path: Path,
    alone: str,
) -> None:
    """ExecuTorch 1.5.1 refuses a float convolution behind integers that it padded by itself."""
    source = make_source({"kind": "efficientnet_lite", "variant": "lite0"})
    converter = ExecutorchConverter(source)
    kept = set(converter.groups("int8")) - {alone}
    facts = write_form(converter, "int8", tmp_path / "model.pte", kept=kept)
    assert facts["int8_weights"] == sum(
        module.weight.numel()
        for module in source.loaded.model.get_submodule(alone).modules()
        if isinstance(module, nn.Conv2d)
    )
    inputs = memes[0].splits["test"].inputs(slice(0, 4))
    error = ExecutorchPredictor(tmp_path / "model.pte").predict(inputs)
    assert np.abs(error - torch_logits(source, inputs)).max() < 0.5
